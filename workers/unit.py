"""The decorator that turns a function into a task: claimed, kept alive, fenced, settled."""

from __future__ import annotations

import contextvars
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from orchestrator import ledger, meters
from orchestrator.database import reading, transact
from orchestrator.errors import LeaseLost, OrchestratorError
from orchestrator.ledger import Failed, Hopeless, Lease, Outcome, Postponed, UnitState
from orchestrator.ledger.overview import state_of
from orchestrator.queues import app
from orchestrator.settings import settings
from workers.telemetry import life

log = structlog.get_logger(__name__)

#: Seconds between two tries to settle an attempt while the database is away.
AWAY_PAUSE = 0.5


class UnitFailed(OrchestratorError):
    """Shown by Flower as the task's exception; the ledger has decided already what follows."""


def unit(kind: str, **options: Any) -> Callable[[Callable[[Lease], Outcome]], Task[Any, Any]]:
    """Make `work` the task that runs units of `kind`; `options` are Celery's, such as another time limit.

    `work` gets the lease and returns how the attempt ended. An exception counts as `Failed`: another
    attempt follows, until none is left. Whatever it stores must go through `ledger.check` or
    `ledger.hold` in the same transaction.
    """

    def decorate(work: Callable[[Lease], Outcome]) -> Task[Any, Any]:
        @app.task(name=kind, **options)
        def run(unit_id: str) -> None:
            lease = take(unit_id)
            life.prove()
            meters.CLAIMS.labels(kind, "dropped" if lease is None else "claimed").inc()
            if lease is None:
                log.debug("message_dropped", unit=unit_id)
                return
            with structlog.contextvars.bound_contextvars(job=lease.job_id, unit=lease.unit_id, attempt=lease.attempt):
                perform(work, lease)

        return run

    return decorate


def take(unit_id: str) -> Lease | None:
    """Claim the unit whose turn it is on a message that names `unit_id`, or None if there is nothing to do."""
    turn = ledger.whose_turn(unit_id)
    lease = ledger.claim(turn, owner())
    if lease is None and turn != unit_id:
        return ledger.claim(unit_id, owner())  # somebody was faster
    return lease


def perform(work: Callable[[Lease], Outcome], lease: Lease) -> None:
    """Run one attempt and settle it, then let whatever follows from it start."""
    begun = time.monotonic()
    try:
        with heartbeat(lease):
            outcome = attempt(work, lease)
        conclude(lease, outcome)
    except LeaseLost:
        count_lost_lease(lease, time.monotonic() - begun)
        return
    life.prove()
    ended = type(outcome).__name__.lower()
    meters.ATTEMPTS.labels(lease.kind, ended).observe(time.monotonic() - begun)
    log.debug("attempt_ended", kind=lease.kind, outcome=ended)
    count_published("unit", ledger.top_up(lease.project_id))
    if isinstance(outcome, Failed | Hopeless):
        raise UnitFailed(outcome.error)


def count_lost_lease(lease: Lease, seconds: float) -> None:
    """Remember an attempt that lost its unit, and so was refused a write."""
    ledger.count_stale_write(lease)
    with reading() as session:
        cancelled = state_of(session, lease.unit_id) is UnitState.CANCELLED
    # Whoever aborts a job takes its units away on purpose.
    reason = "cancelled" if cancelled else "taken"
    meters.STALE_WRITES.labels(lease.kind).inc()
    meters.LEASES_LOST.labels(lease.kind, reason).inc()
    meters.ATTEMPTS.labels(lease.kind, "lost").observe(seconds)
    log.warning("lease_lost", kind=lease.kind, reason=reason)


def count_published(by: str, units: int) -> None:
    """Count what dispatch published."""
    if units:
        meters.PUBLISHED.labels(by).inc(units)


def attempt(work: Callable[[Lease], Outcome], lease: Lease) -> Outcome:
    """Call `work`; what it raises becomes an outcome, except that the lease is lost."""
    try:
        return work(lease)
    except LeaseLost:
        raise
    except Exception as error:
        if isinstance(error, OperationalError) and not is_too_large(error):
            # No fault of the unit's: an attempt must not be used up.
            log.warning("database_away", kind=lease.kind, error=str(error.orig))
            return Postponed(f"waiting for the database: {error.orig}")
        # The one place where an unforeseen error may end: it is logged, kept on the unit, and retried.
        log.exception("attempt_failed", kind=lease.kind)
        return Failed(f"{type(error).__name__}: {error}")


def is_too_large(error: OperationalError) -> bool:
    """Whether PostgreSQL refused what exceeds one of its limits, which is the statement's fault."""
    return str(getattr(error.orig, "sqlstate", None)).startswith("54")


def conclude(lease: Lease, outcome: Outcome) -> None:
    """Settle the attempt; a database that is away is waited for as long as the lease lasts.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled. It may also be that the
            connection was lost in the moment in which the attempt was settled.
    """
    deadline = time.monotonic() + settings().lease_seconds
    while True:
        try:
            return transact(ledger.conclude, lease, outcome)
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise
            log.warning("database_away", kind=lease.kind, error=str(error.orig))
            time.sleep(AWAY_PAUSE)


@contextmanager
def heartbeat(lease: Lease) -> Iterator[None]:
    """Renew the lease from a thread of its own while the body runs."""
    done = threading.Event()
    # A thread begins without the context that puts job, unit and attempt into its log lines.
    context = contextvars.copy_context()
    beats = threading.Thread(
        target=context.run, args=(_beat, lease, done), name=f"heartbeat-{lease.unit_id}", daemon=True
    )
    beats.start()
    try:
        yield
    finally:
        done.set()
        beats.join()


def _beat(lease: Lease, done: threading.Event) -> None:
    interval = settings().lease_seconds / 3  # two may be lost
    while not done.wait(interval):
        try:
            ledger.renew(lease)
            life.prove()
        except LeaseLost:
            return  # the work's next write is refused, which ends it
        except SQLAlchemyError as error:
            log.warning("heartbeat_failed", error=str(error))


def owner() -> str:
    """Names this process in a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"
