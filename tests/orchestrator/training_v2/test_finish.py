"""Finishing: a run that could not be driven ends, and not before its trainer has."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.settings import settings
from orchestrator.training_v2 import Run, RunState, intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.fence import Orders
from orchestrator.training_v2.runtime import Exited
from tests.support.ledger import job_row
from tests.support.training import (
    Scene,
    StageRuntime,
    due_unit,
    fall_silent,
    is_asleep,
    row,
    running,
    state,
    take_finish,
)


def test_a_run_that_cannot_be_driven_fails_and_leaves_no_trainer(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    break_down(run_id)
    assert is_asleep(take_finish(run_id, runtime)) or state(run_id) is RunState.JOB_FAILED
    if state(run_id) is not RunState.JOB_FAILED:
        take_finish(run_id, runtime)
    assert row(run_id).message == "the run could not be driven: a bug"
    assert isinstance(runtime.of(run_id, 1).seen, Exited)
    assert job_row(run_id).closed_at is not None


def test_a_run_that_cannot_be_driven_outlasts_its_trainer_also_where_nobody_sees_it(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = running(scene, runtime)
    elsewhere = StageRuntime("elsewhere")
    break_down(run_id)
    take_finish(run_id, elsewhere)
    with pytest.raises(StaleLaunch):
        intake.beat(run_id, 1)  # which is how its supervisor hears of it
    for silence in (0.0, 1.5):
        fall_silent(run_id, timedelta(seconds=silence * settings().training_heartbeat_seconds))
        assert is_asleep(take_finish(run_id, elsewhere))
    fall_silent(run_id)
    take_finish(run_id, elsewhere)
    assert (state(run_id), row(run_id).message) == (RunState.JOB_FAILED, "the run could not be driven: a bug")


def test_a_run_that_cannot_be_driven_while_it_is_stopped_has_no_grace_left(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    Run.from_id(run_id).stop(timedelta(hours=1))
    break_down(run_id)
    take_finish(run_id, StageRuntime("elsewhere"))
    assert intake.beat(run_id, 1) == Orders(stop=True, grace=0.0)
    assert is_asleep(take_finish(run_id, StageRuntime("elsewhere")))
    assert intake.leave(run_id, 1, Exited(-9, signalled=True)) is RunState.JOB_TERMINATED


def break_down(run_id: str) -> None:
    """Let the run's step meet a bug, again and again, until it is given up."""
    lease = ledger.claim(due_unit(run_id), "broken")
    assert lease is not None
    transact(ledger.conclude, lease, ledger.Hopeless("a bug"))
