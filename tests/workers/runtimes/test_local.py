"""The local runtime: starts a launch once, finds it again, and ends all of it, whatever dies in between."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2 import Resources, RunState
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.quantities import demand_of
from orchestrator.training_v2.runtime import Alive, Exited, Gone, Launch, LaunchName, LaunchRefused, OutOfSight
from orchestrator.training_v2.watch import watch
from tests.conftest import forget_settings
from tests.support.local_runs import TINY, Stage, is_running, left_behind
from tests.support.processes import wait_until
from tests.support.training import history, row, state
from tests.workers.runtimes.contract import NewLaunch, RuntimeContract
from workers.runtimes import runtimes
from workers.runtimes.folder import LINK, LaunchFolder
from workers.runtimes.identity import here, uptime
from workers.runtimes.local import LocalRuntime

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def runtime(stage: Stage) -> LocalRuntime:
    return stage.runtime


def launch_of(stage: Stage, command: Sequence[str], **overrides: object) -> Launch:
    """The first launch of a new run, about to be submitted."""
    run_id = stage.create_command(list(command), **overrides)
    stage.step_until(run_id, State.JOB_CREATED)
    demand = demand_of(Resources.model_validate(row(run_id).resources))
    return Launch(run_id, 1, stage.runtime.place, None, list(command), demand, {"epochs": 3})


@pytest.fixture
def new_launch(stage: Stage) -> NewLaunch:
    return lambda command: launch_of(stage, command)


@on_sqlite
class TestLocalRuntime(RuntimeContract):
    """What every runtime promises."""


@pytest.mark.parametrize("program, end", [("print('hello')", "job_completed"), ("sys.exit(7)", "job_failed")])
def test_a_run_ends_as_the_process_of_its_trainer(stage: Stage, program: str, end: str) -> None:
    run_id = stage.create(program)
    assert stage.finish(run_id) == end
    assert history(run_id) == ["run_created", "job_created", "job_submitted", "job_running", end]
    stage.wait_cleared(run_id)
    assert stage.seen(run_id) == Exited(0 if end == "job_completed" else 7)


@on_sqlite
def test_the_configured_runtime_is_there_by_its_name(stage: Stage) -> None:
    assert runtimes()["local"].place == stage.runtime.place


@on_sqlite
def test_capacity_is_the_hosts_unless_settings_say_otherwise(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.runtime.capacity.cpu >= 1
    assert stage.runtime.capacity.memory > 1 << 28
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_CPU", "500m")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_MEMORY", "1Gi")
    forget_settings()
    assert stage.runtime.capacity == demand_of(Resources(cpu="500m", memory="1Gi"))


@on_sqlite
def test_runs_wait_as_pending_while_nothing_fits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_CPU", "150m")
    forget_settings()
    first = stage.start()
    second = stage.create("pass")
    stage.step_until(second, State.JOB_PENDING)
    assert "0.1 cores are needed" in row(second).message
    stage.stop(first)
    assert stage.finish(first) in ("job_terminated", "job_failed")
    assert stage.finish(second) == "job_completed"


@on_sqlite
@pytest.mark.parametrize(
    "command, reason",
    [
        (None, "no entry point"),
        (["no-such-program"], "'no-such-program' of its entry point is not installed"),
        ([__file__], "not installed here, or not executable"),
    ],
)
def test_what_can_never_be_started_is_refused(stage: Stage, command: list[str] | None, reason: str) -> None:
    launch = Launch("run", 1, stage.runtime.place, None, command, demand_of(TINY), {})
    with pytest.raises(LaunchRefused, match=reason):
        stage.runtime.submit(launch)
    assert stage.runtime.observe([launch]) == [Gone()]
    assert not list(stage.runtime.root.glob("run-*"))


@on_sqlite
def test_a_launch_whose_folder_cannot_be_written_is_refused(stage: Stage) -> None:
    stage.runtime.root.write_text("a file where a folder should be")
    launch = Launch("run", 1, stage.runtime.place, None, ["python"], demand_of(TINY), {})
    with pytest.raises(LaunchRefused, match="cannot be written"):
        stage.runtime.submit(launch)


@on_sqlite
def test_a_supervisor_that_cannot_be_started_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = launch_of(stage, ["python", "-c", "pass"])
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        with pytest.raises(Unavailable, match=r"supervisor\.log"):
            stage.runtime.submit(launch)
    assert isinstance(stage.runtime.submit(launch), Alive | Exited)


@on_sqlite
def test_launches_of_another_place_are_out_of_sight_and_left_alone(stage: Stage) -> None:
    run_id = stage.start()
    elsewhere = LaunchName(run_id, 1, "another host")
    assert stage.runtime.observe([elsewhere, stage.name(run_id)]) == [OutOfSight(), Alive()]
    stage.runtime.terminate(elsewhere, timedelta())
    assert is_running(stage.trainer(run_id))


@on_sqlite
def test_who_a_process_is_depends_on_its_start_and_on_the_hosts(stage: Stage) -> None:
    names = {}
    me = here()
    owners = {"mine": me, "reused": me._replace(start=me.start + 1), "before": me._replace(boot="the last boot")}
    for run_id, owner in owners.items():
        LaunchFolder(stage.runtime.root / f"{run_id}-1").claim(owner)
        names[run_id] = LaunchName(run_id, 1, stage.runtime.place)
    assert stage.runtime.observe(list(names.values())) == [Alive(), Gone(), Gone()]


@on_sqlite
def test_a_thousand_live_launches_are_observed_in_far_less_than_two_seconds(stage: Stage) -> None:
    names = [LaunchName(f"run{number}", 1, stage.runtime.place) for number in range(1000)]
    for name in names:
        LaunchFolder(stage.runtime.root / f"{name.run_id}-1").claim(here())
    began = time.monotonic()
    assert set(stage.runtime.observe(names)) == {Alive()}
    assert time.monotonic() - began < 1


@on_sqlite
def test_the_same_lost_launch_may_be_looked_at_twice_and_as_it_was_submitted(stage: Stage) -> None:
    launch = launch_of(stage, ["python", "-c", "pass"])
    LaunchFolder(stage.runtime.root / f"{launch.run_id}-1").claim(here()._replace(start=1))
    assert stage.runtime.submit(launch) == Gone()
    assert stage.runtime.observe([launch, launch]) == [Gone(), Gone()]


@on_sqlite
def test_a_thousand_lost_launches_take_one_look_at_the_processes(stage: Stage) -> None:
    names = [LaunchName(f"run{number}", 1, stage.runtime.place) for number in range(1000)]
    for name in names:
        LaunchFolder(stage.runtime.root / f"{name.run_id}-1").claim(here()._replace(start=1))
    began = time.monotonic()
    assert set(stage.runtime.observe(names)) == {Gone()}
    assert time.monotonic() - began < 2


@on_sqlite
def test_an_end_that_nobody_could_be_told_of_is_found_in_the_folder(stage: Stage) -> None:
    run_id = stage.start("ready()\nimport time\ntime.sleep(600)")
    supervisor = stage.supervisor(run_id)
    os.kill(supervisor, signal.SIGSTOP)
    stage.folder(run_id).note_outcome(code=0, signalled=False, reason="")
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_running(supervisor), "the supervisor is dead")
    assert stage.seen(run_id) == Exited(0)
    assert stage.finish(run_id) == "job_completed"


def test_requests_to_end_may_come_together_and_the_earliest_holds(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path)
    now = uptime()
    assert folder.end is None
    assert folder.request_end(now + 10) == now + 10
    assert folder.request_end(now + 20) == pytest.approx(now + 10, abs=0.001)
    assert folder.request_end(now + 5) == now + 5
    assert folder.end == pytest.approx(now + 5, abs=0.001)
    assert len(list(tmp_path.iterdir())) == 2


@on_sqlite
def test_a_folder_with_a_long_name_has_a_socket_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_FOLDER", str(tmp_path / ("long " * 30)))
    forget_settings()
    assert len(stage.runtime.place) < 255
    run_id = stage.create("""
        from orchestrator.training_v2 import runner
        runner.save_metric("path", len(str(folder)), 1)
        assert runner.load_config() == {}
    """)
    assert stage.finish(run_id) == "job_completed"
    assert row(run_id).metrics_seen == 1
    assert settings().launches_folder in stage.folder(run_id).path.parents
    stage.wait_cleared(run_id)
    link = Path(json.loads((stage.folder(run_id).path / LINK).read_text())["path"])
    assert not link.parent.exists()


@on_sqlite
def test_a_run_goes_on_under_its_supervisor_when_it_is_observed_by_another_runtime(stage: Stage) -> None:
    run_id = stage.start()
    assert LocalRuntime().observe([stage.name(run_id)]) == [Alive()]
    assert state(run_id) is RunState.JOB_RUNNING


@on_sqlite
def test_the_same_path_on_another_host_or_in_another_container_is_another_place(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, here_ = stage.runtime, stage.runtime.place
    assert LocalRuntime().place == here_
    name = LaunchName("run", 1, here_)
    LaunchFolder(runtime.root / "run-1").claim(here())
    with monkeypatch.context() as patched:
        patched.setattr("workers.runtimes.local.process_namespace", lambda: "a container's")
        assert runtime.observe([name]) == [OutOfSight()]
    runtime.root.rename(runtime.root.with_name("of another host"))
    assert runtime.observe([name]) == [OutOfSight()]
    assert runtime.place != here_


@on_sqlite
def test_a_full_disk_without_a_name_yet_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", Mock(side_effect=OSError(errno.ENOSPC, "no space left")))
    with pytest.raises(Unavailable, match="no space left"):
        _ = stage.runtime.place
    run_id = stage.create()
    stage.step(run_id)
    assert stage.step(run_id) is RunState.JOB_CREATED
    assert watch({"local": stage.runtime}).live == 0


@on_sqlite
def test_how_a_trainer_ended_is_seen_although_its_supervisor_cannot_tell_the_database(stage: Stage) -> None:
    folder = LaunchFolder(stage.runtime.root / "run-1")
    folder.claim(here())
    folder.note_outcome(code=0, stored=True)
    (seen,) = stage.runtime.observe([LaunchName("run", 1, stage.runtime.place)])
    assert isinstance(seen, Exited)
    assert seen.is_last_word


@on_sqlite
def test_nothing_waits_for_processes_that_nobody_here_may_kill(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    LaunchFolder(stage.runtime.root / "run-1").claim(here()._replace(start=1))
    name = LaunchName("run", 1, stage.runtime.place)
    with left_behind("run"):
        with monkeypatch.context() as patched:
            patched.setattr(psutil.Process, "kill", Mock(side_effect=psutil.AccessDenied))
            assert stage.runtime.observe([name]) == [Gone()]
        assert stage.runtime.observe([name]) == [Alive()]  # it is killed
    assert stage.runtime.observe([name]) == [Gone()]
