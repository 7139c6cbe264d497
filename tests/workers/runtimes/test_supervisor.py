"""The supervisor: it ends what it started, however either of them dies, and reports once."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from orchestrator.database import db_now, writing
from orchestrator.training_v2 import Resources
from orchestrator.training_v2.lifecycle import move
from orchestrator.training_v2.logs import read_log
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Alive, Exited, Gone
from orchestrator.training_v2.tables import RunRow
from tests.chaos.proxy import Proxy
from tests.conftest import Database, forget_settings
from tests.support.local_runs import Stage, is_running
from tests.support.processes import wait_until
from tests.support.training import history, row, state

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

#: A trainer that counts how often it is told to end, notes when, and does not.
STUBBORN = """
import time
def told(*_):
    with (folder / "told").open("a") as file:
        print(time.clock_gettime(time.CLOCK_BOOTTIME), file=file)
signal.signal(signal.SIGTERM, told)
ready()
while True: time.sleep(600)
"""
#: A trainer with a child, a grandchild in a session of its own, and one that hides its name.
FAMILY = """
import subprocess, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleep)
subprocess.Popen([sys.executable, "-c", f"import subprocess, os; subprocess.Popen({sleep!r}, start_new_session=True)"])
hidden = subprocess.Popen(["env", "-i", *sleep])
(folder / "hidden").write_text(str(hidden.pid))
time.sleep(0.3)
ready()
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def brisk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed within seconds."""
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_HEARTBEAT_SECONDS", "4")
    forget_settings()


def lose(run_id: str) -> None:
    """Declare the run's launch lost, as a step does."""
    with writing() as session:
        assert move(session, run_id, State.JOB_UNKNOWN)


def wait_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(is_running, pids)), "no process is left", within=30)


def family(stage: Stage) -> tuple[str, list[int]]:
    """A run with a trainer that has descendants; their numbers."""
    run_id = stage.start(FAMILY)
    pids = [process.pid for process in stage.processes(run_id)]
    assert len(pids) == 3
    return run_id, [*pids, int((stage.folder(run_id).path / "hidden").read_text())]


def test_a_run_that_is_stopped_may_save_and_ends_terminated(stage: Stage) -> None:
    run_id = stage.start("""
        from orchestrator.training_v2 import runner
        ready()
        assert runner.wait_for_stop(60)
        with runner.save_checkpoint(7) as path:
            (path / "weights").write_text("w")
        print("saved")
    """)
    stage.stop(run_id)
    assert stage.finish(run_id) == "job_terminated"
    assert b"saved" in b"".join(read_log(run_id, 1))
    stage.wait_cleared(run_id)
    end = stage.seen(run_id)
    assert isinstance(end, Exited)
    assert (end.code, end.signalled) == (0, True)


@on_sqlite
def test_a_stubborn_trainer_is_told_once_and_killed_when_its_grace_is_over(stage: Stage) -> None:
    run_id = stage.start(STUBBORN)
    trainer = stage.trainer(run_id)
    for _ in range(3):
        stage.runtime.terminate(stage.name(run_id), timedelta(seconds=2))
    wait_gone([trainer])
    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    (told,) = (stage.folder(run_id).path / "told").read_text().split()
    assert 1.5 < killed - float(told) < 25
    stage.wait_cleared(run_id)


@on_sqlite
def test_an_order_in_the_database_is_enough(stage: Stage) -> None:
    run_id = stage.start(STUBBORN)
    stage.stop(run_id, grace=1)
    wait_until(lambda: state(run_id) == "job_terminated", "the supervisor has ended it by itself", within=25)


@on_sqlite
def test_nothing_survives_a_supervisor_that_is_killed(stage: Stage) -> None:
    run_id, pids = family(stage)
    os.kill(stage.supervisor(run_id), signal.SIGKILL)
    wait_gone([stage.trainer(run_id)])
    wait_until(lambda: stage.seen(run_id) == Gone(), "nothing is left")
    wait_gone(pids)


@on_sqlite
def test_nothing_survives_a_trainer_that_ends(stage: Stage) -> None:
    run_id, pids = family(stage)
    os.kill(stage.trainer(run_id), signal.SIGKILL)
    assert stage.finish(run_id) == "job_failed"
    assert "SIGKILL" in row(run_id).message
    wait_gone(pids)


@on_sqlite
def test_a_frozen_supervisor_is_killed_with_everything(stage: Stage) -> None:
    run_id, pids = family(stage)
    os.kill(stage.supervisor(run_id), signal.SIGSTOP)
    wait_until(lambda: psutil.Process(stage.supervisor(run_id)).status() == psutil.STATUS_STOPPED, "it is frozen")
    assert stage.seen(run_id) == Alive()
    stage.runtime.terminate(stage.name(run_id), timedelta(seconds=60))
    wait_gone(pids)
    wait_until(lambda: stage.seen(run_id) == Gone(), "nothing is left", within=30)


@on_sqlite
def test_without_grace_everything_is_killed_at_once_and_still_reported(stage: Stage) -> None:
    run_id, pids = family(stage)
    stage.runtime.terminate(stage.name(run_id), timedelta())
    assert not any(map(is_running, pids))
    stage.wait_cleared(run_id)
    end = stage.seen(run_id)
    assert isinstance(end, Exited)
    assert (end.code, end.signalled) == (-9, True)


@on_sqlite
def test_a_launch_that_was_declared_lost_is_killed_and_launched_once_more(stage: Stage) -> None:
    run_id = stage.start("""
        import time
        ready()
        time.sleep(600 if os.environ["ORCHESTRATOR_LAUNCH"] == "1" else 0)
    """)
    trainer = stage.trainer(run_id)
    lose(run_id)
    wait_gone([trainer])
    assert stage.finish(run_id) == "job_completed"
    assert row(run_id).launch == 2
    assert history(run_id).count("run_restart_requested") == 1


@on_sqlite
def test_a_frozen_trainer_is_silent_and_what_it_writes_when_it_wakes_is_refused(stage: Stage) -> None:
    run_id = stage.start("""
        import time
        from orchestrator.training_v2 import runner
        if os.environ["ORCHESTRATOR_LAUNCH"] == "2": sys.exit()
        ready()
        while True:
            runner.save_metric("loss", 0.5, 1)
            time.sleep(0.01)
    """)
    wait_until(lambda: row(run_id).metrics_seen, "metrics arrive")
    supervisor, trainer = stage.supervisor(run_id), stage.trainer(run_id)
    # Another place, so that nobody kills them, as when a host is cut off.
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(place="elsewhere"))
    os.kill(trainer, signal.SIGSTOP)
    before = row(run_id).heartbeat_at
    time.sleep(2)  # longer than a third of the time after which silence counts
    assert before is not None
    assert (row(run_id).heartbeat_at or before) - before < timedelta(seconds=1.5)
    os.kill(supervisor, signal.SIGSTOP)
    stage.step_until(run_id, State.RUN_RESTART_REQUESTED, within=60)
    seen = row(run_id).metrics_seen
    os.kill(trainer, signal.SIGCONT)
    os.kill(supervisor, signal.SIGCONT)
    wait_gone([trainer, supervisor])
    assert row(run_id).metrics_seen == seen
    assert stage.finish(run_id) == "job_completed"
    assert (row(run_id).launch, row(run_id).restarts) == (2, 1)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_supervisor_that_is_cut_off_ends_its_trainer(
    stage: Stage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert database.url.port is not None
    with Proxy(database.url.port) as way:
        with monkeypatch.context() as patched:
            behind = database.url.set(host="127.0.0.1", port=way.port).render_as_string(hide_password=False)
            patched.setenv("ORCHESTRATOR_DATABASE_URL", behind)
            run_id = stage.start()
        trainer, supervisor = stage.trainer(run_id), stage.supervisor(run_id)
        way.black_hole()
        wait_gone([trainer])
        assert is_running(supervisor)
        way.heal()
        # By its supervisor, or by a step, which may go on at once.
        wait_until(lambda: stage.step(run_id) and "job_unknown" in history(run_id), "the launch is lost")
        wait_gone([supervisor])


@on_sqlite
def test_a_tree_that_takes_too_much_memory_is_ended_with_the_figures(stage: Stage) -> None:
    run_id = stage.create(
        """
        import subprocess, time
        subprocess.Popen([sys.executable, "-c", "import time; kept = b'x' * (90 << 20); time.sleep(600)"])
        kept = b"x" * (90 << 20)
        time.sleep(600)
        """,
        resources=Resources(cpu="100m", memory="150Mi"),
    )
    assert stage.finish(run_id) == "job_failed"
    assert row(run_id).message.startswith("out of memory: used ")
    assert row(run_id).message.endswith(" of 157,286,400 bytes")


@on_sqlite
def test_a_trainer_has_its_cores_and_no_secrets(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "ORCHESTRATOR_S3_SECRET_ACCESS_KEY": "s",
        "PGPASSWORD": "s",
        "AWS_ACCESS_KEY_ID": "s",
        "HF_TOKEN": "s",
        "PYTHON_API_KEY": "s",
        "https_proxy": "http://user:s@proxy",
        "SOMETHING": "s",
    }
    for name, value in {**secrets, "CUDA_VISIBLE_DEVICES": "0", "no_proxy": "localhost"}.items():
        monkeypatch.setenv(name, value)
    run_id = stage.create("""
        import json
        print(json.dumps([dict(os.environ), len(os.sched_getaffinity(0)), os.getsid(0) == os.getpid()]))
    """)
    assert stage.finish(run_id) == "job_completed"
    environment, cores, leads = json.loads(b"".join(read_log(run_id, 1)))
    assert not set(secrets) & set(environment)
    assert {name for name in environment if name.startswith("ORCHESTRATOR_")} == {
        "ORCHESTRATOR_RUN_ID",
        "ORCHESTRATOR_LAUNCH",
        "ORCHESTRATOR_RUN_FOLDER",
    }
    assert (environment["OMP_NUM_THREADS"], cores, leads) == ("1", 1, True)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["no_proxy"]) == ("0", "localhost")
    assert {"PATH", "PYTHONUNBUFFERED"} <= set(environment)


@on_sqlite
def test_a_supervisor_that_is_told_to_end_takes_its_trainer_along(stage: Stage) -> None:
    run_id = stage.start()
    os.kill(stage.supervisor(run_id), signal.SIGTERM)
    stage.wait_cleared(run_id)
    assert stage.seen(run_id) == Exited(-15, signalled=True, reason="it was told to end")
    assert state(run_id) == "job_unknown"


@on_sqlite
def test_a_launch_that_is_over_before_its_supervisor_arrives_is_not_started(stage: Stage) -> None:
    run_id = stage.create("ready()")
    stage.step_until(run_id, State.JOB_CREATED)
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(supervisor="another", heartbeat_at=db_now()))
    stage.step_until(run_id, State.JOB_SUBMITTED)
    stage.step(run_id)
    stage.wait_cleared(run_id)
    assert stage.seen(run_id) == Gone()
    assert not (stage.folder(run_id).path / "ready").exists()
