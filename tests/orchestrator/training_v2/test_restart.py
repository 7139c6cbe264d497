"""A run that is launched again owes nothing to how it ended before."""

from __future__ import annotations

import pytest

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.errors import LeaseLost
from orchestrator.ledger import Done, Hopeless
from orchestrator.training_v2 import Run, RunState
from orchestrator.training_v2.finish import finish
from tests.support.training import Scene, StageRuntime, due_unit, running, runtimes, state


def test_who_ended_a_run_and_died_before_that_was_settled_does_not_end_its_next_launch(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = running(scene, runtime)
    broken = ledger.claim(due_unit(run_id), "test")
    assert broken is not None
    transact(ledger.conclude, broken, Hopeless("broken"))
    finishing = ledger.claim(due_unit(run_id, "training.finish"), "who dies")
    assert finishing is not None
    assert any(isinstance(finish(finishing, runtimes(runtime)), Done) for _ in range(5))
    assert state(run_id) is RunState.JOB_FAILED

    Run.from_id(run_id).restart()
    with pytest.raises(LeaseLost):
        transact(ledger.check, finishing)
    assert state(run_id) is RunState.RUN_RESTART_REQUESTED
