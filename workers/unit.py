"""The decorator that turns a function into a task: claimed, kept alive, fenced, settled."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.errors import LeaseLost, OrchestratorError
from orchestrator.ledger import Failed, Hopeless, Lease, Outcome
from orchestrator.queues import app
from orchestrator.settings import settings

log = structlog.get_logger(__name__)


class UnitFailed(OrchestratorError):
    """Shown by Flower as the task's exception; the ledger has decided already what follows."""


def unit(kind: str) -> Callable[[Callable[[Lease], Outcome]], Task[Any, Any]]:
    """Make `work` the task that runs units of `kind`.

    `work` gets the lease and returns how the attempt ended. An exception counts as `Failed`: another
    attempt follows, until none is left. Whatever it stores must go through `ledger.check` or
    `ledger.hold` in the same transaction.
    """

    def decorate(work: Callable[[Lease], Outcome]) -> Task[Any, Any]:
        @app.task(name=kind)
        def run(unit_id: str) -> None:
            lease = ledger.claim(unit_id, owner())
            if lease is None:
                log.debug("message_dropped", unit=unit_id)
                return
            with structlog.contextvars.bound_contextvars(job=lease.job_id, unit=unit_id, attempt=lease.attempt):
                perform(work, lease)

        return run

    return decorate


def perform(work: Callable[[Lease], Outcome], lease: Lease) -> None:
    """Run one attempt and settle it, then let whatever follows from it start."""
    try:
        with heartbeat(lease):
            outcome = attempt(work, lease)
        transact(ledger.conclude, lease, outcome)
    except LeaseLost:
        ledger.count_stale_write(lease)
        log.warning("lease_lost", kind=lease.kind)
        return
    ledger.top_up()
    if isinstance(outcome, Failed | Hopeless):
        raise UnitFailed(outcome.error)


def attempt(work: Callable[[Lease], Outcome], lease: Lease) -> Outcome:
    """Call `work`; what it raises becomes an outcome, except that the lease is lost."""
    try:
        return work(lease)
    except LeaseLost:
        raise
    except Exception as error:
        # The one place where an unforeseen error may end: it is logged, kept on the unit, and retried.
        log.exception("attempt_failed", kind=lease.kind)
        return Failed(f"{type(error).__name__}: {error}")


@contextmanager
def heartbeat(lease: Lease) -> Iterator[None]:
    """Renew the lease from a thread of its own while the body runs."""
    done = threading.Event()
    beats = threading.Thread(target=_beat, args=(lease, done), name=f"heartbeat-{lease.unit_id}", daemon=True)
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
        except LeaseLost:
            return  # the work's next write is refused, which ends it
        except SQLAlchemyError as error:
            log.warning("heartbeat_failed", error=str(error))


def owner() -> str:
    """Names this process in a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"
