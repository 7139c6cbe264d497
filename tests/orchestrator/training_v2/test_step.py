"""The step: each stage moves a run on by one, survives being done again, and leaves no trainer behind."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator import ledger
from orchestrator.database import db_now, transact, writing
from orchestrator.errors import LeaseLost
from orchestrator.ledger import Done, Postponed
from orchestrator.settings import settings
from orchestrator.training_v2 import Resources, Run, RunState, intake
from orchestrator.training_v2.exceptions import StaleLaunch, TrainingConflict
from orchestrator.training_v2.fence import Orders
from orchestrator.training_v2.runtime import Alive, Exited, Gone, Waiting
from orchestrator.training_v2.step import step
from orchestrator.training_v2.tables import RunRow
from tests.support.ledger import fall_silent as lose_lease
from tests.support.ledger import job_row, rows
from tests.support.training import (
    FOREVER,
    Scene,
    StageRuntime,
    drive,
    due_unit,
    fall_silent,
    history,
    is_asleep,
    refuse,
    row,
    running,
    runtimes,
    state,
    take_step,
)


def test_a_run_goes_from_submission_to_completion_one_transition_a_step(scene: Scene, runtime: StageRuntime) -> None:
    run_id = scene.create()
    for expected in ("run_created", "job_created", "job_submitted"):
        assert state(run_id) == expected
        take_step(run_id, runtime)
    assert intake.arrive(run_id, 1, "supervisor") == Orders()
    assert is_asleep(take_step(run_id, runtime))
    assert intake.leave(run_id, 1, Exited(0)) is RunState.JOB_COMPLETED
    assert history(run_id) == ["run_created", "job_created", "job_submitted", "job_running", "job_completed"]
    assert job_row(run_id).closed_at is not None
    assert [unit.state for unit in rows(run_id)] == ["cancelled"]
    started = runtime.of(run_id, 1).launch
    assert started is not None
    assert (started.entry_point, started.config) == (["python", "-m", "train"], {"epochs": 3})


@pytest.mark.parametrize(
    "exited, end",
    [(Exited(0), "job_completed"), (Exited(3), "job_failed"), (Exited(-11, reason="segmentation fault"), "job_failed")],
)
def test_a_run_ends_as_its_trainer_did_although_nobody_reported(
    scene: Scene, runtime: StageRuntime, exited: Exited, end: str
) -> None:
    run_id = running(scene, runtime)
    runtime.of(run_id, 1).seen = exited
    assert take_step(run_id, runtime) == Done()
    assert state(run_id) == end
    assert exited.reason in row(run_id).message
    assert job_row(run_id).finish_unit_id is None


def test_a_trainer_that_ends_before_the_first_look_ends_its_run(scene: Scene, runtime: StageRuntime) -> None:
    runtime.greets = Exited(1, reason="no such module")
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_FAILED)
    assert row(run_id).message == "no such module"


def test_what_the_runtime_refuses_has_failed_to_be_created(scene: Scene, runtime: StageRuntime) -> None:
    runtime.greets = refuse("no such image")
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_CREATE_FAILED)
    assert history(run_id) == ["run_created", "job_created", "job_create_failed"]
    assert row(run_id).message == "no such image"


def test_a_launch_that_waits_in_the_cluster_is_pending_with_its_reason(scene: Scene, runtime: StageRuntime) -> None:
    runtime.greets = Waiting("0/3 nodes have a GPU")
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_PENDING)
    assert row(run_id).message == "0/3 nodes have a GPU"
    runtime.greets = Waiting("pulling the image")
    assert is_asleep(take_step(run_id, runtime))
    assert row(run_id).message == "pulling the image"
    runtime.greets = Alive()
    take_step(run_id, runtime)
    intake.arrive(run_id, 1, "supervisor")
    assert history(run_id)[-2:] == ["job_pending", "job_running"]
    assert runtime.starts == 1


def test_a_run_waits_until_the_others_leave_room(scene: Scene) -> None:
    host = StageRuntime(cores=2)
    big = Resources(cpu="1500m", memory="1Gi")
    first, second = running(scene, host, resources=big), scene.create(resources=big)
    drive(second, host, RunState.JOB_PENDING)
    assert "1.5 cores" in row(second).message
    assert is_asleep(take_step(second, host))
    intake.leave(first, 1, Exited(0))
    take_step(second, host)
    assert row(second).place == host.place
    assert host.starts == 2


def test_a_runtime_that_is_away_is_waited_for_and_costs_no_attempts(scene: Scene, runtime: StageRuntime) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_CREATED)
    runtime.is_away = True
    assert all(isinstance(take_step(run_id, runtime), Postponed) for _ in range(5))
    runtime.is_away = False
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    assert runtime.starts == 1


def test_a_step_that_died_after_it_submitted_is_done_again_and_starts_nothing_twice(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_CREATED)
    unit_id = due_unit(run_id)
    dead = ledger.claim(unit_id, "dead")
    assert dead is not None
    lose_lease(unit_id)
    thief = ledger.claim(unit_id, "alive")
    assert thief is not None
    # The dead attempt got as far as the runtime; nothing that it writes counts.
    with pytest.raises(LeaseLost):
        step(dead, runtimes(runtime))
    step(thief, runtimes(runtime))
    step(thief, runtimes(runtime))
    assert runtime.starts == 1
    assert history(run_id) == ["run_created", "job_created", "job_submitted"]


def test_a_silent_trainer_is_lost_killed_and_launched_again(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    assert is_asleep(take_step(run_id, runtime))
    fall_silent(run_id)
    take_step(run_id, runtime)
    assert state(run_id) is RunState.JOB_UNKNOWN
    with pytest.raises(StaleLaunch):
        intake.beat(run_id, 1)
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    assert runtime.of(run_id, 1).told == [timedelta()]
    assert (row(run_id).launch, row(run_id).restarts, runtime.starts) == (2, 1, 2)
    intake.arrive(run_id, 2, "another supervisor")
    assert history(run_id)[3:] == [
        "job_running",
        "job_unknown",
        "run_restart_requested",
        "job_submitted",
        "job_running",
    ]
    for late in (lambda: intake.leave(run_id, 1, Exited(0)), lambda: intake.record_progress(run_id, 1, [])):
        with pytest.raises(StaleLaunch):
            late()
    assert row(run_id).stale_writes == 3


def test_a_lost_trainer_is_launched_again_only_once_nothing_is_left_of_it(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    fall_silent(run_id)
    take_step(run_id, runtime)
    trainer = runtime.of(run_id, 1)
    stubborn, trainer.seen = trainer.seen, Waiting("shutting down")
    runtime.terminate = lambda launch, grace: None  # type: ignore[method-assign]  # it cannot be killed
    assert is_asleep(take_step(run_id, runtime))
    assert (state(run_id), runtime.starts) == (RunState.JOB_UNKNOWN, 1)
    assert stubborn == Alive()
    trainer.seen = Gone()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    assert runtime.starts == 2


def test_a_run_whose_trainers_are_lost_again_and_again_fails(
    scene: Scene, runtime: StageRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "training_restarts", 2)
    run_id = running(scene, runtime)
    for launch in (1, 2, 3):
        drive(run_id, runtime, RunState.JOB_RUNNING if launch == 1 else RunState.JOB_SUBMITTED)
        runtime.of(run_id, launch).seen = Gone()
        take_step(run_id, runtime)
        assert state(run_id) is RunState.JOB_UNKNOWN
    drive(run_id, runtime, RunState.JOB_FAILED)
    assert "launched again 2 times" in row(run_id).message
    Run.from_id(run_id).restart()
    assert (row(run_id).launch, row(run_id).restarts) == (4, 0)


def test_a_trainer_that_was_ended_from_outside_is_launched_again(scene: Scene, runtime: StageRuntime) -> None:
    """As when a cluster drains its node, or the machine shuts down."""
    run_id = running(scene, runtime)
    assert intake.leave(run_id, 1, Exited(143, signalled=True)) is RunState.JOB_UNKNOWN
    runtime.of(run_id, 1).seen = Gone()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    assert row(run_id).launch == 2


def test_a_trainer_out_of_sight_is_judged_by_its_signs_of_life_alone(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    elsewhere = StageRuntime("elsewhere")
    assert is_asleep(take_step(run_id, elsewhere))
    timeout = settings().training_heartbeat_seconds
    fall_silent(run_id, timedelta(seconds=1.5 * timeout))
    take_step(run_id, elsewhere)
    assert state(run_id) is RunState.JOB_UNKNOWN
    assert is_asleep(take_step(run_id, elsewhere))  # its supervisor is given the time to end it
    fall_silent(run_id)
    drive(run_id, elsewhere, RunState.JOB_SUBMITTED)
    assert (elsewhere.starts, row(run_id).place) == (1, "elsewhere")


def test_a_launch_that_never_reports_is_lost(scene: Scene, runtime: StageRuntime) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    assert is_asleep(take_step(run_id, runtime))
    assert is_asleep(take_step(run_id, runtime))
    fall_silent(run_id)
    take_step(run_id, runtime)
    assert "never reported" in row(run_id).message


def test_a_supervisor_may_arrive_before_the_step_has_said_that_it_submitted(
    scene: Scene, runtime: StageRuntime
) -> None:
    run_id = scene.create()
    drive(run_id, runtime, RunState.JOB_CREATED)
    intake.arrive(run_id, 1, "early")
    assert history(run_id) == ["run_created", "job_created", "job_submitted", "job_running"]
    intake.arrive(run_id, 1, "early")
    with pytest.raises(StaleLaunch):
        intake.arrive(run_id, 1, "another")


def test_a_stop_tells_the_trainer_and_waits_for_it(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    take_step(run_id, runtime)
    Run.from_id(run_id).stop(timedelta(seconds=30))
    assert ledger.claim(rows(run_id)[0].id, "at once") is not None
    lose_lease(rows(run_id)[0].id)
    take_step(run_id, runtime)
    take_step(run_id, runtime)
    assert state(run_id) is RunState.JOB_TERMINATING
    (grace,) = runtime.of(run_id, 1).told
    assert timedelta(seconds=20) < grace <= timedelta(seconds=30)
    orders = intake.beat(run_id, 1)
    assert orders.stop
    assert 20 < orders.grace <= 30
    assert is_asleep(take_step(run_id, runtime))
    assert intake.leave(run_id, 1, Exited(0, signalled=True)) is RunState.JOB_TERMINATED
    assert history(run_id)[-4:] == [
        "run_stop_requested",
        "job_terminate_requested",
        "job_terminating",
        "job_terminated",
    ]


@pytest.mark.parametrize(
    "exited, end",
    [(Exited(0), "job_completed"), (Exited(1), "job_failed"), (Exited(-9, signalled=True), "job_terminated")],
)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_who_ends_by_himself_while_a_stop_is_on_its_way_ends_as_he_did(
    scene: Scene, runtime: StageRuntime, exited: Exited, end: str, steps: int
) -> None:
    run_id = running(scene, runtime)
    Run.from_id(run_id).stop()
    for _ in range(steps):
        take_step(run_id, runtime)
    intake.leave(run_id, 1, exited)
    assert state(run_id) == end
    Run.from_id(run_id).stop()
    assert (state(run_id), len(set(history(run_id)) & {"job_completed", "job_failed", "job_terminated"})) == (end, 1)


def test_a_stop_may_be_cut_short_but_not_drawn_out(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    run = Run.from_id(run_id)
    run.stop(timedelta(seconds=60))
    drive(run_id, runtime, RunState.JOB_TERMINATING)
    run.stop(timedelta(seconds=5))
    run.stop(timedelta(seconds=600))
    take_step(run_id, runtime)
    assert runtime.of(run_id, 1).told[-1] <= timedelta(seconds=5)
    assert history(run_id).count("run_stop_requested") == 1


@pytest.mark.parametrize("before", [RunState.RUN_CREATED, RunState.JOB_CREATED])
def test_a_run_that_is_stopped_before_anything_was_started_ends_at_once(
    scene: Scene, runtime: StageRuntime, before: RunState
) -> None:
    run_id = scene.create()
    drive(run_id, runtime, before)
    Run.from_id(run_id).stop()
    assert take_step(run_id, runtime) == Done()
    assert history(run_id)[-2:] == ["run_stop_requested", "job_terminated"]
    assert runtime.starts == 0


def test_a_trainer_that_never_came_back_from_a_stop_is_terminated(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    Run.from_id(run_id).stop()
    drive(run_id, runtime, RunState.JOB_TERMINATING)
    runtime.of(run_id, 1).seen = Gone()
    drive(run_id, runtime, RunState.JOB_TERMINATED)


def test_a_stop_of_a_trainer_out_of_sight_ends_once_it_must_be_over(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    elsewhere = StageRuntime("elsewhere")
    Run.from_id(run_id).stop(timedelta(seconds=1))
    drive(run_id, elsewhere, RunState.JOB_TERMINATING)
    wait_for_the_grace_to_end(run_id)
    fall_silent(run_id, timedelta(seconds=1.5 * settings().training_heartbeat_seconds))
    assert is_asleep(take_step(run_id, elsewhere))  # no sooner than its supervisor must have ended it
    fall_silent(run_id)
    drive(run_id, elsewhere, RunState.JOB_TERMINATED)
    with pytest.raises(StaleLaunch):
        intake.beat(run_id, 1)


def test_a_stopped_run_can_be_launched_again_and_an_active_one_cannot(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    run = Run.from_id(run_id)
    with pytest.raises(TrainingConflict, match="stop it first"):
        run.restart()
    run.stop()
    intake.leave(run_id, 1, Exited(0, signalled=True))
    run.restart()
    assert job_row(run_id).closed_at is None
    drive(run_id, runtime, RunState.JOB_SUBMITTED)
    intake.arrive(run_id, 2, "another")
    intake.leave(run_id, 2, Exited(0))
    assert history(run_id)[-4:] == ["run_restart_requested", "job_submitted", "job_running", "job_completed"]
    with pytest.raises(TrainingConflict, match="has completed"):
        run.restart()


def test_a_step_at_work_while_a_stop_is_asked_for_comes_back_at_once(scene: Scene, runtime: StageRuntime) -> None:
    run_id = running(scene, runtime)
    lease = ledger.claim(due_unit(run_id), "worker")
    assert lease is not None
    outcome = step(lease, runtimes(runtime))
    Run.from_id(run_id).stop()
    transact(ledger.conclude, lease, outcome)
    assert is_asleep(outcome)
    assert ledger.claim(lease.unit_id, "at once") is not None


def test_the_watch_wakes_the_steps_of_runs_with_news_and_no_others(scene: Scene, runtime: StageRuntime) -> None:
    from orchestrator.training_v2.watch import watch

    quiet, ended, silent = (running(scene, runtime) for _ in range(3))
    for run_id in (quiet, ended, silent):
        assert is_asleep(take_step(run_id, runtime))
    assert watch(runtimes(runtime)).woken == 0
    runtime.of(ended, 1).seen = Exited(0)
    fall_silent(silent, FOREVER)
    found = watch(runtimes(runtime))
    assert (found.live, found.woken) == (3, 2)
    due = {run_id for run_id in (quiet, ended, silent) if ledger.claim(rows(run_id)[0].id, "test") is not None}
    assert due == {ended, silent}


def wait_for_the_grace_to_end(run_id: str) -> None:
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(kill_at=db_now()))
