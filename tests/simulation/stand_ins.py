"""What the product is given instead of threads, clocks, chance, a broker and model servers while it is simulated."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Coroutine, Iterable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import structlog

from orchestrator import clock, ids, ledger
from orchestrator.bulk_inference import finish, plan
from orchestrator.bulk_inference.record import FailedResult, StoredResult
from orchestrator.database import dispose
from orchestrator.ledger.nudging import dispatch_quietly
from orchestrator.settings import settings
from tests.simulation.broker import BrokerPublisher
from tests.simulation.database import Database
from tests.simulation.scheduler import EPOCH, Event, Scheduler, Thread
from workers import unit
from workers.inference.failures import FailureClass

# The packages export functions of the same names.
dispatching = import_module("orchestrator.ledger.dispatch")
reconciling = import_module("orchestrator.ledger.reconcile")
tasks: Any = import_module("workers.tasks.bulk_inference")

#: So small that a job of twenty datums goes round every loop more than once.
SIZES: dict[Any, dict[str, int]] = {
    plan: {"UNITS": 4, "SMALLEST": 2, "LARGEST": 8, "PAGE": 2, "MOST": 8},
    finish: {"PAGE": 2},
    tasks: {"PAGE": 2},
}


class World(Protocol):
    """What the stand-ins stand on: the simulation that runs just now."""

    scheduler: Scheduler
    publisher: BrokerPublisher

    def infer(self, job: Any, references: Iterable[Any], sink: Any) -> tuple[bool, int]:
        """Ask the simulated model server; say whether that was all, and the ordinal after the last."""

    def owner(self) -> str:
        """Who runs just now."""


class Stage:
    """Where the world of the moment is found."""

    world: World

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the moment."""
        return self.world.scheduler

    def owner(self) -> str:
        """Who runs just now, as a lease names it."""
        return self.world.owner()

    def seconds(self) -> float:
        """The clock of the process that asks, which may be wrong."""
        thread = self.scheduler.current
        return 1e6 + self.scheduler.now + (thread.process.skew if thread is not None else 0.0)

    def sleep(self, seconds: float) -> None:
        """Let so much simulated time pass."""
        self.scheduler.sleep(seconds)

    def nanoseconds(self) -> int:
        """As `time.time_ns`."""
        return int((EPOCH.timestamp() + self.seconds()) * 1e9)


@contextlib.contextmanager
def installed() -> Iterator[tuple[Stage, Database]]:
    """Let the product run on stand-ins, and on a database in memory, until this is left."""
    stage = Stage()
    database = Database()
    names: dict[Any, dict[str, Any]] = {
        clock: {"now": lambda: stage.scheduler.instant},
        ids: {"time": SimpleNamespace(time_ns=stage.nanoseconds), "secrets": SimpleNamespace(randbits=_bits(stage))},
        dispatching: {"CeleryPublisher": lambda: stage.world.publisher},
        reconciling: {"CeleryPublisher": lambda: stage.world.publisher},
        ledger: {"nudge": dispatch_quietly},  # without a thread of its own
        unit: {"threading": _threading(stage), "owner": stage.owner},
        tasks: {"infer_all": _infer_all(stage), "connections": SimpleNamespace(run=_run)},
    }
    with contextlib.ExitStack() as stack:
        for module, values in [*names.items(), *SIZES.items()]:
            for name, value in values.items():
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, value))
        for module in (unit, tasks):
            if hasattr(module, "time"):
                simulated = SimpleNamespace(monotonic=stage.seconds, sleep=stage.sleep)
                stack.enter_context(patch.object(module, "time", simulated))
        stack.enter_context(_quiet())
        settings.cache_clear()
        stack.callback(settings.cache_clear)
        stack.callback(dispose)
        stack.enter_context(database.in_place())
        yield stage, database


def forget() -> None:
    """What a process remembers of the simulation before is forgotten, or a seed would not tell all."""
    ids._last = 0
    random.seed(0)
    getattr(tasks, "_rates", {}).clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    former = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**former)


def _bits(stage: Stage) -> Any:
    def randbits(count: int) -> int:
        return stage.scheduler.chance.getrandbits(count)

    return randbits


def _threading(stage: Stage) -> Any:
    class SimulatedThread:
        """As `threading.Thread`, of the process that makes it."""

        def __init__(self, *, target: Any, args: tuple[Any, ...] = (), name: str = "", daemon: bool = False) -> None:
            self.target, self.args = target, args
            self.thread: Thread | None = None

        def start(self) -> None:
            """Begin."""
            current = stage.scheduler.current
            assert current is not None
            self.thread = stage.scheduler.start(current.process, "heartbeat", lambda: self.target(*self.args))

        def join(self) -> None:
            """Wait for the end."""
            assert self.thread is not None
            current = stage.scheduler.current
            if current is not None and current.process.alive:
                self.thread.ended.wait()

    def event() -> Event:
        return stage.scheduler.event()

    return SimpleNamespace(Thread=SimulatedThread, Event=event, Lock=contextlib.nullcontext)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """As `connections.run`, for a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the simulated inference waited")


def _infer_all(stage: Stage) -> Any:
    """As `infer_all`, with a model server that is none."""

    async def infer_all(lease: Any, job: Any, model: Any, recorder: Any) -> Any:
        references = (reference for page in tasks.outstanding(lease, job) for reference in page)
        complete, position = stage.world.infer(job, references, recorder.store)
        return tasks.Ended(None if complete else position, stage.scheduler.chance.choice((0.0, 1.0, 10.0)))

    return infer_all


def outcome_of(reference: Any, is_poison: bool) -> StoredResult | FailedResult:
    """What the model server makes of a datum."""
    ordinal, datum_id, sha256, storage_key = reference[:4]
    if is_poison:
        return FailedResult(ordinal, datum_id, FailureClass.ITEM, 400, "cannot be read", 1)
    return StoredResult(ordinal, datum_id, sha256, storage_key, f"[{ordinal}]", "v2")
