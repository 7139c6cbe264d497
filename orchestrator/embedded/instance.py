"""An embedded instance, told from its start to its end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, Protocol

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import schema
from orchestrator.database import db_now, dispose, reading
from orchestrator.database.urls import without_secrets
from orchestrator.embedded.child import Child
from orchestrator.embedded.folder import Folder
from orchestrator.embedded.group import Group
from orchestrator.embedded.ports import metrics_ports, targets
from orchestrator.embedded.redis_server import RedisServer
from orchestrator.ledger.pulses import pulses
from orchestrator.queues import QueueName
from orchestrator.settings import settings

P = ParamSpec("P")

#: Seconds between two looks at the children.
INTERVAL = 0.1
#: Seconds that running units may go on when the instance is stopped: the same as Celery's soft shutdown.
GRACE = 30.0
#: Seconds for Redis to write its last.
REDIS_GRACE = 10.0

HOME, DATABASE, BLOBS, BROKER, METRICS = (
    "ORCHESTRATOR_HOME",
    "ORCHESTRATOR_DATABASE_URL",
    "ORCHESTRATOR_BLOB_URL",
    "ORCHESTRATOR_BROKER_URL",
    "ORCHESTRATOR_METRICS_PORT",
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of an instance are; without passwords."""

    folder: Path
    database: str
    blobs: str
    broker: str
    #: Name and process id of every child.
    processes: dict[str, int]
    #: Where workers and beat show their metrics; Prometheus finds the same in the folder's `metrics.json`.
    metrics: dict[str, str]
    #: Seconds from the start until everything was at work.
    ready_after: float


class Reporter(Protocol):
    """Is told what a person should know."""

    def ready(self, addresses: Addresses) -> None: ...

    def event(self, text: str) -> None: ...

    def stopped(self) -> None: ...


class Instance:
    """A database, blobs, a broker, workers and beat on this machine, in one folder.

    What the environment has a URL for is used as it is, and not started.
    """

    def __init__(self, folder: Path, *, workers: int = 2) -> None:
        self.folder = Folder(folder)
        self.workers = workers
        self.children: list[Child] = []
        self.redis: RedisServer | None = None
        self.metrics: dict[str, str] = {}
        #: How often somebody asked for the end: the second time, politeness is over.
        self.stops = 0

    def run(self, reporter: Reporter) -> None:
        """Start everything, keep it running until SIGINT, SIGTERM or SIGHUP, and stop everything.

        Raises:
            Conflict: another instance runs in the folder.
            Unavailable: there is no redis-server, or it does not start.
        """
        with self.folder.held() as lock, self._signals(), Group(lock) as group:
            begun = time.monotonic()
            try:
                since = self._start(group)
                self._stand_by(reporter, since, begun)
            finally:
                self._stop(reporter)

    def _start(self, group: Group) -> datetime:
        """Start whatever the environment does not name; returns the database's time before the workers."""
        os.environ[HOME] = str(self.folder.path)
        if not os.environ.get(BROKER):
            self.redis = RedisServer(self.folder, group, os.environ)
            os.environ[BROKER] = self.redis.url
        self.folder.write_environment(
            {name: os.environ[name] for name in (DATABASE, BLOBS, BROKER) if os.environ.get(name)}
        )
        dispose()
        settings.cache_clear()
        schema.upgrade()
        with reading() as session:
            since = session.execute(select(db_now())).scalar_one()
        planned = commands(self.workers)
        # Beat first: the whole ledger's figures are there, and its port stays when workers are added.
        ports = metrics_ports(["beat", *(name for name, _ in planned if name != "beat")], settings().metrics_port)
        self.metrics = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()}
        self.folder.write_targets(targets(self.metrics))
        for name, command in planned:
            environment = {**os.environ, METRICS: str(ports[name])}
            self.children.append(Child(name, command, group, log=self.folder.new_log(name), environment=environment))
        return since

    def _stand_by(self, reporter: Reporter, since: datetime, begun: float) -> None:
        is_ready = False
        while not self.stops:
            for child in self._everyone():
                happened = child.tend()
                if happened:
                    self._say(reporter.event, happened)
            if not is_ready and self._is_at_work(since):
                is_ready = True
                self._say(reporter.ready, self._addresses(time.monotonic() - begun))
            time.sleep(INTERVAL)

    def _is_at_work(self, since: datetime) -> bool:
        """Whether every worker has announced itself, and one of beat's ticks was run."""
        try:
            with reading() as session:
                announced = {pulse.details.get("pid") for pulse in pulses(session, "worker:")}
                ticks = [pulse for pulse in pulses(session, "tick:") if pulse.seen_at > since]
        except SQLAlchemyError:
            return False  # a database server that is away for a moment; the workers wait for it as well
        return bool(ticks) and all(child.pid in announced for child in self.children if child.name != "beat")

    def _stop(self, reporter: Reporter) -> None:
        """Tell the workers and wait for their units, then Redis; the group takes whoever is left."""
        running = [child for child in self.children if child.is_running]
        for child in running:
            # A warm shutdown: Celery's soft one (SIGQUIT) sleeps its whole timeout, as set here also when idle.
            child.tell(signal.SIGTERM)
        if running:
            self._say(reporter.event, "stopping; once more to stop at once")
        deadline = time.monotonic() + GRACE
        while any(child.is_running for child in running) and self.stops < 2 and time.monotonic() < deadline:
            time.sleep(INTERVAL)
        late = [child for child in running if child.is_running]
        for child in late:
            child.tell(signal.SIGKILL)
        if late:
            names = ", ".join(child.name for child in late)
            words = f"{names} had to be killed; the units at work there are done again by the next `up`"
            self._say(reporter.event, words)
        if self.redis is not None and self.redis.child.is_running:
            self.redis.child.tell(signal.SIGTERM)
            self.redis.child.wait(REDIS_GRACE)
        dispose()
        self._say(reporter.stopped)

    def _say(self, report: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        # The terminal may be closed, which is one way to end an instance: it ends in order all the same.
        with suppress(OSError):
            report(*args, **kwargs)

    def _everyone(self) -> list[Child]:
        return [*([self.redis.child] if self.redis else []), *self.children]

    def _addresses(self, ready_after: float) -> Addresses:
        config = settings()
        return Addresses(
            folder=self.folder.path,
            database=without_secrets(config.sqlalchemy_url),
            blobs=config.storage_url,
            broker=without_secrets(config.broker_url.get_secret_value()),
            processes={child.name: child.pid for child in self._everyone()},
            metrics=self.metrics,
            ready_after=ready_after,
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(*_: object) -> None:
            self.stops += 1

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def commands(workers: int) -> list[tuple[str, list[str]]]:
    """Names and commands of the processes beside Redis."""
    celery = [sys.executable, "-m", "celery", "-A", "workers"]
    others = ",".join(queue for queue in QueueName if queue is not QueueName.INFERENCE)
    # Two slots that never infer: a tick, a submission or a small job's plan finds one free, whatever else is going on.
    # A unit keeps many requests in flight by itself, so more than two at once would only take turns.
    plans = [(others, 2), *[(QueueName.INFERENCE.value, 2)] * (workers - 1)]
    if workers == 1:
        plans = [(",".join(QueueName), 3)]
    found = []
    for number, (queues, slots) in enumerate(plans, start=1):
        options = ["--queues", queues, "--concurrency", str(slots), "--hostname", f"worker-{number}@%h"]
        options += ["--without-mingle", "--without-gossip", "--loglevel", "INFO"]
        found.append((f"worker-{number}", [*celery, "worker", *options]))
    return [*found, ("beat", [*celery, "beat", "--pidfile", "", "--loglevel", "INFO"])]
