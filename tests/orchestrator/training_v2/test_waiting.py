"""A step that cannot go on: what its run says of that, and when there is nothing left to wait for."""

from __future__ import annotations

from orchestrator import ledger
from orchestrator.errors import Unavailable
from orchestrator.ledger import Done, Postponed
from orchestrator.training_v2 import Run, RunState, intake
from orchestrator.training_v2.details import get_run_details
from orchestrator.training_v2.runtime import Alive, Exited
from orchestrator.training_v2.step import step
from tests.support.training import (
    Scene,
    StageRuntime,
    drive,
    due_unit,
    fall_silent,
    running,
    runtimes,
    state,
    take_step,
)


def test_a_run_that_waits_for_its_runtime_says_why(scene: Scene, runtime: StageRuntime) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_CREATED)
    runtime.greets = Unavailable("jobs.batch is forbidden: exceeded quota")
    for _ in range(2):
        assert isinstance(take_step(run_id, runtime), Postponed)
        assert get_run_details(run_id).reason == "waiting for the runtime: jobs.batch is forbidden: exceeded quota"
    runtime.greets = Alive()
    take_step(run_id, runtime)
    assert (state(run_id), get_run_details(run_id).reason) == (RunState.JOB_SUBMITTED, "")


def test_why_a_run_was_lost_is_told_although_its_runtime_is_away(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    fall_silent(run_id)
    take_step(run_id, runtime)
    runtime.is_away = True
    assert isinstance(take_step(run_id, runtime), Postponed)
    assert "silent" in get_run_details(run_id).reason


def test_the_step_of_a_run_that_was_deleted_meanwhile_has_nothing_left_to_do(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = running(scene, runtime)
    lease = ledger.claim(due_unit(run_id), "slow")
    assert lease is not None
    intake.leave(run_id, 1, Exited(0))
    Run.from_id(run_id).delete()
    assert step(lease, runtimes(runtime)) == Done()
