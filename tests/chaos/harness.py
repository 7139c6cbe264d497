"""Runs jobs on real processes that are killed, frozen and restarted, and holds the outcome against the invariants.

A test asks for the fixture `harness` (`tests/chaos/conftest.py`), sets a scene, starts workers and beat,
submits, does its harm, and calls `wait`. At the end everything is closed and checked, by itself.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import psutil
from sqlalchemy import func, select

from orchestrator.bulk_inference import (
    BulkInferenceJob,
    JobDetails,
    get_bulk_inference_details,
    get_bulk_inference_job,
    submit_bulk_inference_job,
)
from orchestrator.database import engine, reading
from orchestrator.ledger import UNFINISHED
from orchestrator.ledger.tables import UnitRow
from orchestrator.registry.importing.discard import sweep_unfinished_imports
from orchestrator.storage import blobs
from orchestrator.storage.local import PARTIAL, LocalBlobs
from tests.chaos import journal
from tests.chaos.actor import Actor
from tests.chaos.invariants import check_invariants, orphans
from tests.chaos.points import Points
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import Scene, set_scene
from tests.support.model_server import ModelServer
from tests.support.processes import Running, Workers, wait_until

#: Even brisker than the end-to-end tests: a killed unit is taken over within two seconds.
SETTINGS = {
    **BRISK,
    "ORCHESTRATOR_LEASE_SECONDS": "2",
    "ORCHESTRATOR_DISPATCH_INTERVAL": "0.5",
    "ORCHESTRATOR_RECONCILE_INTERVAL": "0.5",
    "ORCHESTRATOR_REPUBLISH_SECONDS": "4",
    "ORCHESTRATOR_REPUBLISH_EMPTY_SECONDS": "1",
}
#: Seconds that children may outlive a parent that was killed.
GRACE = 10.0

Role = Literal["worker", "beat"]


@dataclass
class Member:
    """A process that is started again whenever it is found ended."""

    name: str
    role: Role
    running: Running
    start: Callable[[], Running]
    restarts: int = 0

    def wait_ready(self) -> None:
        """Wait until a worker takes messages."""
        log = self.running.log
        self.running.wait_ready(lambda: b" ready." in log.read_bytes())

    @property
    def children(self) -> list[psutil.Process]:
        """The processes of a worker's pool, in no set order."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.running.pid).children()
            return [child for child in found if _is_pool_child(child)]
        return []


def _is_pool_child(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


class Harness:
    """The processes of one run; the configured database, broker and home are the test's own."""

    def __init__(self, processes: Workers, folder: Path, server: ModelServer, seed: int) -> None:
        self.processes = processes
        self.folder = folder
        self.server = server
        self.chance = random.Random(seed)
        self.points = Points(folder / "points")
        #: What workers, beat and actors have in their environment beside this process's.
        self.environment = dict(self.points.environment)
        self.members: list[Member] = []
        self.actors: list[Actor] = []
        self.job_ids: list[str] = []
        self.frozen: set[int] = set()
        #: The composition root of the processes that are started from now on.
        self.app = "tests.chaos.faulty"
        journal.install(engine())

    def scene(self, datums: int, **options: object) -> Scene:
        """A snapshot of `datums` files and a model behind the harness's server; options as of `set_scene`."""
        folder = self.folder / f"scene-{len(list(self.folder.glob('scene-*')))}"
        return set_scene(folder, datums, **{"url": self.server.url, **options})  # type: ignore[arg-type]  # a test's own

    def submit(self, scene: Scene, *, batch_size: int = 1, **options: object) -> str:
        """Submit a job on the scene from this process; the checker will look for it."""
        request = scene.request(batch_size=batch_size)
        job_id = submit_bulk_inference_job(request, **options)  # type: ignore[arg-type]  # a test's own
        self.job_ids.append(job_id)
        return job_id

    def workers(self, count: int, *queues: str, concurrency: int = 1, wait: bool = True) -> list[Member]:
        """Start so many workers, each with a pool of `concurrency` processes."""
        started = [self._worker(queues, concurrency) for _ in range(count)]
        if wait:
            for member in started:
                member.wait_ready()
        return started

    def beat(self) -> Member:
        """Start beat."""
        arguments = ["beat", "--schedule", str(self.folder / "beat.schedule"), "--pidfile", "", "--loglevel", "INFO"]
        return self._enlist("beat", arguments)

    def start(self, *, workers: int = 2, concurrency: int = 1) -> list[Member]:
        """Start beat and workers; returns the workers once they are ready."""
        self.beat()
        return self.workers(workers, concurrency=concurrency)

    def actor(self) -> Actor:
        """A process for the acts of people, with crash points of its own."""
        self.actors.append(Actor(self.processes.reaper, self.environment))
        return self.actors[-1]

    def kill(self, member: Member) -> None:
        """SIGKILL the process alone; its children find themselves without a parent."""
        with suppress(ProcessLookupError):
            os.kill(member.running.pid, signal.SIGKILL)

    def kill_child(self, member: Member) -> bool:
        """SIGKILL one process of the worker's pool; says whether there was one."""
        children = member.children
        if not children:
            return False
        with suppress(psutil.NoSuchProcess):
            self.chance.choice(sorted(children, key=lambda child: child.pid)).kill()
        return True

    def freeze(self, pid: int) -> None:
        """SIGSTOP one process."""
        os.kill(pid, signal.SIGSTOP)
        self.frozen.add(pid)

    def wake(self, pid: int) -> None:
        """SIGCONT one process; it may have gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.frozen.discard(pid)

    def tend(self) -> None:
        """Start again whatever has ended, as an init system would; call it often."""
        for member in self.members:
            if not member.running.is_running:
                member.running = member.start()
                member.restarts += 1

    def pause(self, seconds: float) -> None:
        """Let the run go on for so long, and tend it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(0.05, left))

    def until(self, condition: Callable[[], object], what: str, *, within: float = 30.0) -> None:
        """Tend the run until `condition` holds."""

        def holds() -> object:
            self.tend()
            return condition()

        wait_until(holds, what, within=within)

    def wait(self, job_ids: Collection[str] | str | None = None, *, within: float = 120.0) -> list[JobDetails]:
        """Tend the run until the jobs have ended (all that were submitted, by default); their details."""
        wanted = [job_ids] if isinstance(job_ids, str) else self.job_ids if job_ids is None else list(job_ids)
        left = list(wanted)

        def are_over() -> bool:
            while left and get_bulk_inference_details(left[0]).is_over:
                left.pop(0)
            time.sleep(0.03)
            return not left

        try:
            self.until(are_over, "the jobs have ended", within=within)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {get_bulk_inference_details(left[0])}") from None
        return [get_bulk_inference_details(job_id) for job_id in wanted]

    def is_over(self, job_id: str) -> bool:
        """Whether the job has ended."""
        return get_bulk_inference_details(job_id).is_over

    def job(self, job_id: str) -> BulkInferenceJob:
        """The job as its owner sees it."""
        job = get_bulk_inference_job(job_id)
        assert job is not None
        return job

    def drain(self, *, within: float = 60.0) -> None:
        """Wait until nothing is left to settle but what belongs to jobs that go on; nothing runs that could, no wait.

        A job that has ended is followed by its index, which is a job of its own, and takes as long as the machine
        needs: something must have changed after `within` seconds.
        """
        live = [job_id for job_id in self.job_ids if not self.is_over(job_id)]
        unfinished = select(func.count()).where(UnitRow.job_id.not_in(live), UnitRow.state.in_(UNFINISHED))

        def count() -> int:
            with reading() as session:
                return session.scalar(unfinished) or 0

        def has_changed() -> bool:
            return count() != left

        left = count()
        while self.members and left:
            self.until(has_changed, "what jobs have left is settled", within=within)
            left = count()

    def close(self) -> None:
        """Kill every process but the children of pools, which must end by themselves."""
        for pid in list(self.frozen):
            self.wake(pid)
        for actor in self.actors:
            actor.close()
        members, self.members = self.members, []
        for member in members:
            self.kill(member)
        for member in members:
            member.running.process.wait(10)
        try:
            wait_until(lambda: not orphans(), "children have followed their parents", within=GRACE)
        except TimeoutError:
            left = [f"{process.pid} {process.cmdline()}" for process in orphans()]
            raise AssertionError(f"processes that outlive their parent by {GRACE:g} s: {left}") from None
        finally:
            self.processes.close()

    def check(self) -> None:
        """Hold the outcome against the invariants; after `close`."""
        check_invariants(None)
        check_invariants(self.job_ids)

    def _worker(self, queues: Iterable[str], concurrency: int) -> Member:
        name = f"worker-{len(self.members)}"
        options = ["--pool", "prefork", "--concurrency", str(concurrency), "--hostname", f"{name}@%h"]
        options += ["--without-mingle", "--without-gossip", "--loglevel", "INFO"]
        chosen = list(queues)
        if chosen:
            options += ["--queues", ",".join(chosen)]
        return self._enlist("worker", ["worker", *options], name)

    def _enlist(self, role: Role, arguments: list[str], name: str | None = None) -> Member:
        label = name or f"{role}-{len(self.members)}"

        def start() -> Running:
            log_name = f"{label}-{len(self.processes.started)}"
            return self.processes.celery(log_name, *arguments, app=self.app, environment=self.environment)

        member = Member(label, role, start(), start)
        self.members.append(member)
        return member


def sweep() -> None:
    """What a day does: clears away imports that were killed, and what their writers left half-written."""
    store = blobs()
    if isinstance(store, LocalBlobs):
        long_ago = time.time() - timedelta(days=2).total_seconds()
        for path in (store.root / PARTIAL).glob("*"):
            os.utime(path, (long_ago, long_ago))
    sweep_unfinished_imports()
