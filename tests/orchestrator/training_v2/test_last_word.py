"""The last word: how a trainer ended counts although its launch was given up, until another begins."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.settings import settings
from orchestrator.training_v2 import Run, RunState, intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.runtime import Exited
from orchestrator.training_v2.watch import watch
from tests.support.training import (
    Scene,
    StageRuntime,
    drive,
    fall_silent,
    history,
    is_asleep,
    row,
    running,
    runtimes,
    state,
    take_step,
)

WELL = Exited(0, stored=True)


@pytest.fixture
def lost(scene: Scene, runtime: StageRuntime) -> str:
    """A run whose launch was given up where nobody sees it, when the database came back after a long time."""
    run_id = running(scene, runtime)
    fall_silent(run_id)
    take_step(run_id, StageRuntime("elsewhere"))
    assert state(run_id) is RunState.JOB_UNKNOWN
    return run_id


def test_a_supervisor_that_was_cut_off_can_still_say_how_its_trainer_ended(lost: str) -> None:
    assert intake.leave(lost, 1, WELL) is RunState.JOB_COMPLETED
    assert history(lost)[-2:] == ["job_unknown", "job_completed"]


@pytest.mark.parametrize("end", [Exited(0), Exited(0, signalled=True, stored=True)])
def test_who_lacks_reports_or_was_told_to_end_is_launched_again(lost: str, runtime: StageRuntime, end: Exited) -> None:
    with pytest.raises(StaleLaunch):
        intake.leave(lost, 1, end)
    runtime.of(lost, 1).seen = end
    watch(runtimes(runtime))
    take_step(lost, runtime)
    assert (state(lost), row(lost).launch) == (RunState.RUN_RESTART_REQUESTED, 2)
    with pytest.raises(StaleLaunch):
        intake.leave(lost, 1, WELL)


@pytest.mark.parametrize(
    "end, becomes",
    [
        (WELL, RunState.JOB_COMPLETED),
        (Exited(3, stored=True), RunState.JOB_FAILED),
        (Exited(0), RunState.JOB_TERMINATED),
        (Exited(-9, signalled=True), RunState.JOB_TERMINATED),
    ],
)
def test_a_lost_run_that_is_stopped_ends_by_its_last_word_or_as_stopped(
    lost: str, runtime: StageRuntime, end: Exited, becomes: RunState
) -> None:
    Run.from_id(lost).stop(timedelta(seconds=1))
    runtime.of(lost, 1).seen = end
    drive(lost, runtime, becomes)


def test_the_last_word_on_a_lost_launch_is_heard_while_its_run_is_stopped(lost: str) -> None:
    Run.from_id(lost).stop()
    with pytest.raises(StaleLaunch):
        intake.leave(lost, 1, Exited(0))
    assert intake.leave(lost, 1, WELL) is RunState.JOB_COMPLETED


def test_whoever_launches_again_looks_first_how_the_trainer_ended(lost: str, runtime: StageRuntime) -> None:
    runtime.of(lost, 1).seen = WELL
    take_step(lost, runtime)
    assert (state(lost), runtime.starts) == (RunState.JOB_COMPLETED, 1)


def test_others_leave_the_time_to_look(lost: str, runtime: StageRuntime) -> None:
    elsewhere = StageRuntime("elsewhere")
    assert is_asleep(take_step(lost, elsewhere))
    fall_silent(lost, timedelta(seconds=1.5 * settings().training_heartbeat_seconds))
    assert is_asleep(take_step(lost, elsewhere))
    runtime.of(lost, 1).seen = WELL
    watch(runtimes(runtime))
    assert (state(lost), elsewhere.starts) == (RunState.JOB_COMPLETED, 0)
