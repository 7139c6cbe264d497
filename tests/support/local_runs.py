"""What a test of local runs starts from: a runtime, trainers of a few lines of Python, a look at their processes."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psutil
from sqlalchemy.exc import NoResultFound

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.errors import LeaseLost
from orchestrator.ids import new_id
from orchestrator.training_v2 import steering
from orchestrator.training_v2.blueprint import create_blueprint
from orchestrator.training_v2.models import NewBlueprint, Resources, RunState
from orchestrator.training_v2.runner.surroundings import LAUNCH, RUN_ID
from orchestrator.training_v2.runtime import Alive, LaunchName, Observation, job_id
from orchestrator.training_v2.step import step
from orchestrator.training_v2.tables import TERMINAL
from tests.support.processes import wait_until
from tests.support.training import Scene, due_unit, row, state
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import find
from workers.runtimes.local import LocalRuntime
from workers.runtimes.processes import kill_with_supervisor

TINY = Resources(cpu="100m", memory="1Gi")
#: A trainer that trains until it is told to end, and then ends at once.
PATIENT = "import time\nready()\ntime.sleep(600)"
#: What every trainer of a test begins with.
PRELUDE = """
import os, pathlib, signal, sys
folder = pathlib.Path(os.environ["ORCHESTRATOR_RUN_FOLDER"])
def ready(): (folder / "ready").touch()
"""


@dataclass
class Stage:
    """A scene whose runs are local processes."""

    scene: Scene
    runtime: LocalRuntime = field(default_factory=LocalRuntime)
    run_ids: list[str] = field(default_factory=list)

    def create(self, program: str = PATIENT, **overrides: Any) -> str:
        """A new run of a trainer that is this program; returns its id."""
        source = PRELUDE + textwrap.dedent(program)
        return self.create_command(["python", "-c", source], **overrides)

    def create_command(self, command: list[str], **overrides: Any) -> str:
        """A new run of this command."""
        blueprint = create_blueprint(NewBlueprint(name=f"b {new_id()}", version="1", entry_point=command))
        options = {"resources": TINY, "config": {}, "blueprint_id": blueprint.id, **overrides}
        self.run_ids.append(self.scene.create(**options))
        return self.run_ids[-1]

    def start(self, program: str = PATIENT, **overrides: Any) -> str:
        """The same, launched, with a trainer that has said that it is ready."""
        run_id = self.create(program, **overrides)
        self.launch(run_id)
        self.wait_ready(run_id)
        return run_id

    def launch(self, run_id: str) -> None:
        """Take steps until the launch has arrived."""
        self.step_until(run_id, RunState.JOB_RUNNING, *TERMINAL)

    def wait_ready(self, run_id: str) -> None:
        """Wait for the trainer's word."""
        wait_until((self.folder(run_id).path / "ready").exists, f"the trainer of {run_id} is ready")

    def step(self, run_id: str) -> RunState:
        """Take a step if the run has not ended, perhaps just now by its supervisor; where it stands."""
        with suppress(NoResultFound, LeaseLost):
            lease = ledger.claim(due_unit(run_id), "test")
            if lease is not None:
                transact(ledger.conclude, lease, step(lease, {"local": self.runtime}))
        return state(run_id)

    def step_until(self, run_id: str, *states: RunState, within: float = 60.0) -> RunState:
        """Take steps until the run is in one of the states."""

        def is_there() -> bool:
            return state(run_id) in states or self.step(run_id) in states

        wait_until(is_there, f"{run_id} is {' or '.join(states)}", within=within)
        return state(run_id)

    def step_all_until(self, run_ids: Iterable[str], *states: RunState, within: float = 60.0) -> None:
        """Take steps with all of the runs, in turns, until each has been seen in one of the states."""
        left = set(run_ids)

        def are_there() -> bool:
            left.difference_update({run_id for run_id in left if self.step(run_id) in states})
            return not left

        wait_until(are_there, f"runs are {' or '.join(states)}", within=within)

    def finish(self, run_id: str, *, within: float = 60.0) -> RunState:
        """Take steps until the run has ended."""
        return self.step_until(run_id, *(RunState(each) for each in TERMINAL), within=within)

    def stop(self, run_id: str, grace: float = 30.0) -> None:
        """Have the run stopped, as a person does."""
        steering.stop(run_id, timedelta(seconds=grace))

    def name(self, run_id: str) -> LaunchName:
        """The run's current launch."""
        return LaunchName(run_id, row(run_id).launch, self.runtime.place)

    def seen(self, run_id: str) -> Observation:
        """How the run's launch fares."""
        return self.runtime.observe([self.name(run_id)])[0]

    def is_cleared(self, run_id: str) -> bool:
        """Whether the runtime sees nothing of it any more, and its supervisor has gone."""
        supervisor = self.folder(run_id).supervisor
        return not isinstance(self.seen(run_id), Alive) and (supervisor is None or find(supervisor) is None)

    def wait_cleared(self, run_id: str, *, within: float = 60.0) -> None:
        """Wait until that is so."""
        wait_until(lambda: self.is_cleared(run_id), f"nothing is left of {run_id}", within=within)

    def folder(self, run_id: str, launch: int | None = None) -> LaunchFolder:
        """The folder of a launch, by default the current."""
        return LaunchFolder(self.runtime.root / job_id(run_id, launch or row(run_id).launch))

    def supervisor(self, run_id: str) -> int:
        """The number of the process that supervises the run."""
        supervisor = self.folder(run_id).supervisor
        assert supervisor is not None
        return supervisor.pid

    def trainer(self, run_id: str) -> int:
        """The number of the trainer's process."""
        trainer = wait_until(lambda: self.folder(run_id).trainer, "the trainer is known")
        assert trainer is not None
        return trainer.pid

    def processes(self, run_id: str) -> list[psutil.Process]:
        """The processes that have the run's name in their environment."""
        return [process for process in psutil.process_iter() if named(process).get(RUN_ID) == run_id]

    def close(self) -> None:
        """Kill whatever is left."""
        for path in self.runtime.root.glob("*-*"):
            run_id, _, number = path.name.rpartition("-")
            launch = LaunchName(run_id, int(number), self.runtime.place)
            supervisor = LaunchFolder(path).supervisor
            is_test = supervisor is not None and supervisor.pid == os.getpid()
            is_alive = supervisor is not None and find(supervisor) is not None
            if not is_test and (is_alive or isinstance(self.runtime.observe([launch])[0], Alive)):
                self.runtime.terminate(launch, timedelta())
                kill_with_supervisor(self.runtime._marks(launch), within=10)
            LaunchFolder(path).drop_short_path()


@contextmanager
def left_behind(run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the run's first launch that has lost its supervisor."""
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, RUN_ID: run_id, LAUNCH: "1"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def named(process: psutil.Process) -> dict[str, str]:
    """The launch that a process has in its environment, if it has one and lives."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return {}
        environment = process.environ()
    except (psutil.Error, OSError):
        return {}
    return {key: environment[key] for key in (RUN_ID, LAUNCH) if key in environment}


def is_running(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
