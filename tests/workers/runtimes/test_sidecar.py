"""The sidecar: a real one beside each real trainer, in pods of a make-believe cluster, and what its run hears."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.database import dispose, transact
from orchestrator.training_v2 import Run, RunState, intake
from orchestrator.training_v2.lifecycle import move
from orchestrator.training_v2.logs import read_log
from orchestrator.training_v2.step import step
from orchestrator.training_v2.tables import TERMINAL
from tests.support.kubernetes_api import KubernetesApi
from tests.support.kubernetes_node import Node, Pod
from tests.support.kubernetes_runs import configure
from tests.support.processes import wait_until
from tests.support.reaper import Reaper
from tests.support.services import Postgres
from tests.support.training import due_unit, fall_silent, history, row, set_scene, state
from workers.runtimes import sidecar
from workers.runtimes.cluster.manifest import READY
from workers.runtimes.kubernetes import KubernetesRuntime
from workers.runtimes.reports import Reports

if TYPE_CHECKING:
    from tests.conftest import Database

#: What is told of one database is told of the other by the intake's own tests.
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
PRELUDE = "import time\nfrom orchestrator.training_v2 import runner\n"


class Stage:
    """Where runs are launched as pods."""

    def __init__(self, node: Node, runtime: KubernetesRuntime) -> None:
        self.node = node
        self.runtime = runtime

    def create(self, program: str) -> str:
        """A run whose trainer does this."""
        command = ["python", "-c", PRELUDE + dedent(program)]
        return set_scene(image="trainer:1", entry_point=command).create(config={"epochs": 7})

    def launch(self, program: str) -> str:
        """The same, submitted."""
        run_id = self.create(program)
        for _ in range(3):
            self.step(run_id)
        return run_id

    def step(self, run_id: str) -> None:
        """Do what a worker does with the run."""
        if state(run_id) in TERMINAL:
            return
        lease = ledger.claim(due_unit(run_id), "test")
        assert lease is not None
        transact(ledger.conclude, lease, step(lease, {"kubernetes": self.runtime}))

    def drive(self, run_id: str, to: RunState) -> None:
        """Step until the run is there."""

        def is_there() -> bool:
            self.step(run_id)
            return state(run_id) is to

        wait_until(is_there, f"the run is {to}", within=60)

    def pod(self) -> Pod:
        """The first pod that the node has run."""
        return wait_until(lambda: next(iter(self.node.known.values()), None), "a pod runs") or self.pod()


@pytest.fixture
def stage(
    database: object, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("k")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_RUNTIME", "kubernetes")
    monkeypatch.setenv("ORCHESTRATOR_TRAINING_HEARTBEAT_SECONDS", "6")
    with KubernetesApi() as api:
        configure(monkeypatch, config=str(api.config(folder / "worker")))
        runtime = KubernetesRuntime()
        with Node(api.cluster, folder, reaper, config=api.config(folder / "pod", "pod")) as node:
            yield Stage(node, runtime)
        runtime.api.close()


def test_a_run_is_trained_in_a_pod(stage: Stage) -> None:
    run_id = stage.launch("""
        print("epochs:", runner.load_config()["epochs"])
        runner.save_metrics([runner.Metric("loss", 1 / (step + 1), step) for step in range(100)])
        with runner.save_checkpoint(5) as folder:
            (folder / "weights").write_bytes(b"heavy")
        print("done")
    """)
    stage.drive(run_id, RunState.JOB_COMPLETED)
    assert history(run_id)[2:] in (
        ["job_submitted", "job_pending", "job_running", "job_completed"],
        ["job_submitted", "job_running", "job_completed"],
    )
    assert row(run_id).metrics_seen == 100
    assert [checkpoint.status for checkpoint in Run.from_id(run_id).get_checkpoints()] == ["complete"]
    assert b"".join(read_log(run_id, 1)) == b"epochs: 7\ndone\n"


@ON_SQLITE
def test_what_a_trainer_says_before_it_fails_is_kept(stage: Stage) -> None:
    run_id = stage.launch("raise SystemExit('no such data')")
    stage.drive(run_id, RunState.JOB_FAILED)
    assert b"".join(read_log(run_id, 1)) == b"no such data\n"
    assert row(run_id).supervisor == f"pod {stage.pod().pod['metadata']['uid']}"


@ON_SQLITE
def test_a_run_that_is_stopped_may_still_report(stage: Stage) -> None:
    run_id = stage.launch("""
        runner.save_metric("loss", 1.0, 1)
        runner.flush()
        print("waiting", flush=True)
        runner.wait_for_stop()
        runner.save_metric("loss", 0.5, 2)
    """)
    wait_until(lambda: row(run_id).metrics_seen == 1, "the first metric is there", within=60)
    Run.from_id(run_id).stop(timedelta(seconds=60))
    stage.drive(run_id, RunState.JOB_TERMINATED)
    assert row(run_id).metrics_seen == 2


@ON_SQLITE
def test_the_trainer_of_a_launch_that_is_over_is_never_started(stage: Stage) -> None:
    run_id = stage.create("print('alive')")
    stage.step(run_id)
    intake.claim(run_id, 1, "another pod")
    stage.step(run_id)
    pod = stage.pod()
    wait_until(lambda: not pod.thread.is_alive(), "the pod has ended by itself", within=60)
    assert [process.log.stem for process in pod.processes] == ["sidecar"]
    assert row(run_id).supervisor == "another pod"


@ON_SQLITE
def test_a_pod_whose_launch_was_lost_ends_itself(stage: Stage) -> None:
    """Nobody terminates it: so it must be, where its cluster is out of the workers' sight."""
    run_id = stage.launch("time.sleep(600)")
    wait_until(lambda: state(run_id) is RunState.JOB_RUNNING, "the run is running", within=60)
    fall_silent(run_id)
    stage.step(run_id)
    pod = stage.pod()
    wait_until(lambda: not pod.thread.is_alive(), "the pod has ended by itself", within=60)
    assert state(run_id) is RunState.JOB_UNKNOWN


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_sidecar_that_can_tell_nobody_for_too_long_ends_its_pod(
    stage: Stage, database: Database, postgres: Postgres
) -> None:
    run_id = stage.launch("time.sleep(600)")
    wait_until(lambda: state(run_id) is RunState.JOB_RUNNING, "the run is running", within=60)
    assert database.url.database is not None
    dispose()
    postgres.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.url.database)
    try:
        with postgres.connection() as connection:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(cut, [database.url.database])
        pod = stage.pod()
        wait_until(lambda: not pod.thread.is_alive(), "the pod has ended by itself", within=60)
    finally:
        postgres.execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.url.database)


class Ended:
    """The log of a trainer that has ended."""

    def __init__(self, api: object, pod: str) -> None:
        self.descriptor, into = os.pipe()
        os.close(into)

    def await_start(self) -> bool:
        return True

    def end(self) -> None:
        """Nothing is left."""


@pytest.mark.parametrize("whole", [True, False])
@ON_SQLITE
def test_a_sidecar_says_whether_everything_is_stored(
    database: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    run_id = set_scene(image="trainer:1").create()
    transact(lambda session: move(session, run_id, RunState.JOB_CREATED, launch=1))
    monkeypatch.setattr(sidecar, "TrainerLog", Ended)
    stores = Reports.close
    monkeypatch.setattr(Reports, "close", lambda reports, within: stores(reports, within) and whole)
    one = sidecar.Sidecar(run_id, 1, tmp_path, "pod", "uid")
    one.told.set()
    assert one.run() is whole


@ON_SQLITE
def test_a_sidecar_that_was_killed_before_its_trainer_could_begin_is_followed_by_another(
    database: object, tmp_path: Path
) -> None:
    run_id = set_scene(image="trainer:1").create()
    transact(lambda session: move(session, run_id, RunState.JOB_CREATED, launch=1))
    for _ in range(2):
        one = sidecar.Sidecar(run_id, 1, tmp_path, "pod", "uid")
        assert one._prepare()
        one.reports._listener.close()  # which leaves the socket where it is
        (tmp_path / READY).unlink()


@pytest.mark.endurance
@ON_SQLITE
def test_the_death_of_a_sidecar_ends_its_launch_and_another_follows(stage: Stage) -> None:
    run_id = stage.launch("""
        import os
        time.sleep(600 if os.environ["ORCHESTRATOR_LAUNCH"] == "1" else 0)
    """)
    wait_until(lambda: state(run_id) is RunState.JOB_RUNNING, "the run is running", within=60)
    first = stage.pod()
    assert first.sidecar is not None
    first.sidecar.send(signal.SIGKILL)
    wait_until(lambda: not first.thread.is_alive(), "the pod has ended", within=60)
    stage.drive(run_id, RunState.JOB_COMPLETED)
    assert "job_unknown" in history(run_id)
    assert len(stage.node.known) == 2
