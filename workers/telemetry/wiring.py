"""When in a process's life telemetry begins and ends: in a worker's parent, in its children, in beat."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from celery.signals import after_task_publish
from celery.worker import state
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector

from orchestrator import meters
from orchestrator.queues import app
from orchestrator.settings import settings
from workers.telemetry import folder, life
from workers.telemetry.collectors import HealthCollector, LedgerCollector
from workers.telemetry.server import serve
from workers.telemetry.tallies import Tallies
from workers.telemetry.vitals import BeatVitals, Verdict, Vitals, describe, watch_broker

log = structlog.get_logger(__name__)

#: Seconds between two verdicts that are left for exec probes.
STATUS_INTERVAL = 2.0


class WorkerTelemetry:
    """A worker's parent process, from before its children start until it is told to end."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname
        self.folder = folder.make()
        # Children are started with the environment that this process has by then.
        os.environ[meters.FOLDER] = str(self.folder)
        self.vitals = Vitals(self.folder)
        self.counters = CollectorRegistry()
        MultiProcessCollector(self.counters, str(self.folder))  # type: ignore[no-untyped-call]  # as in `meters`
        registry = CollectorRegistry()
        # Forwarded and not registered in its place: what a pool without processes counts is in memory.
        registry.register(Forward(lambda: self.counters))
        registry.register(HealthCollector(self.vitals.judge, self.vitals))
        ProcessCollector(registry=registry)
        self.address = serve(hostname, registry, self.vitals.judge)
        leave_verdicts(self.folder, hostname, self.vitals.judge)
        self.tallies = Tallies(self.counters)

    def ready(self, consumer: Any) -> None:
        """The worker takes messages from now on."""
        pool, concurrency = consumer.pool, consumer.controller.concurrency
        if not type(pool).__module__.endswith(".prefork"):
            self.counters = self.tallies.registry = meters.REGISTRY
            life.start(self.folder / "slot-0.json", os.getpid())
        if consumer.hub is None:
            self.vitals.loop_at = None
        queues = [queue.name for queue in consumer.task_consumer.queues]
        watch_broker(
            self.vitals,
            queues,
            idle=lambda: len(state.reserved_requests) < concurrency,
            taken=lambda: int(state.all_total_count[0]) + len(state.reserved_requests),
        )

    def go_round(self) -> None:
        """The consumer's event loop goes round, with a connection to the broker."""
        self.vitals.loop_at = time.monotonic()

    def report(self) -> dict[str, object]:
        """What the doctor should know of this worker."""
        verdict = self.vitals.judge()
        return {
            "health": {"healthy": verdict.healthy, "reasons": list(verdict.reasons)},
            "last_hour": self.tallies.last_hour(),
            "metrics": self.address,
        }


class Forward:
    """Collects whatever registry is the right one by now."""

    def __init__(self, registry: Callable[[], CollectorRegistry]) -> None:
        self.registry = registry

    def describe(self) -> list[Any]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Any:
        """The other registry's metrics."""
        return self.registry().collect()


def start_child() -> None:
    """A pool process: show life, and begin with gauges of its own."""
    place = meters.folder()
    if place is None or not place.is_dir():
        return  # a pool without a worker, as tests have it
    for left in place.glob(f"gauge_live*_{meters.slot()}.db"):
        left.unlink(missing_ok=True)  # what the one before had in flight is not in flight any more
    meters.begin(name for name in app.tasks if not name.startswith(("celery.", "orchestrator.", "ticks.")))
    life.start(place / f"slot-{meters.slot()}.json", os.getpid())


def start_beat() -> None:
    """Beat: the whole ledger's figures, and whether ticks are sent."""
    vitals = BeatVitals()

    def sent(**_: Any) -> None:
        vitals.sent_at = time.monotonic()

    after_task_publish.connect(sent, weak=False)
    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    registry.register(HealthCollector(vitals.judge))
    ProcessCollector(registry=registry)
    serve("beat", registry, vitals.judge)
    leave_verdicts(folder.make(), "beat", vitals.judge)


def leave_verdicts(place: Path, name: str, judge: Callable[[], Verdict]) -> None:
    """Write the verdict to the folder again and again, for `python -m workers.health`, from a thread of its own."""

    def leave() -> None:
        while True:
            document = {
                **describe(judge(), name),
                "at": time.monotonic(),
                "valid_for": max(15.0, settings().liveness_seconds / 2),
            }
            try:
                folder.write(place / folder.STATUS, json.dumps(document))
            except OSError as error:
                log.warning("verdict_not_written", error=str(error))
            time.sleep(STATUS_INTERVAL)

    threading.Thread(target=leave, daemon=True, name="verdicts").start()
