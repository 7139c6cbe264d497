"""The local runtime: starts a launch once, finds it again, and ends all of it, whatever dies in between."""

from __future__ import annotations

from orchestrator.training_v2.runtime import Exited
from tests.support.local_runs import Stage
from tests.support.training import history


def test_a_run_trains_in_a_process_of_its_own_and_completes(stage: Stage) -> None:
    run_id = stage.create("print('hello')")
    assert stage.finish(run_id) == "job_completed"
    assert history(run_id) == ["run_created", "job_created", "job_submitted", "job_running", "job_completed"]
    stage.wait_cleared(run_id)
    assert stage.seen(run_id) == Exited(0)
