"""Beat's ticks: they only say that it is time; any number of them does no harm."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from sqlalchemy.orm import Session

from orchestrator import ledger, meters, schedules
from orchestrator.database import transact
from orchestrator.inference_store import blobs
from orchestrator.inference_store import purge as purging
from orchestrator.ledger import pulses
from orchestrator.queues import app
from orchestrator.settings import settings


@app.task(name="ticks.dispatch")
def dispatch() -> None:
    """Fill the broker's windows."""
    transact(pulses.beat, "tick:dispatch", {})
    publish()


@app.task(name="ticks.reconcile")
def reconcile() -> None:
    """Put right what died, and publish what that made ready."""
    transact(_beat_and_prune)
    for action, count in asdict(ledger.reconcile()).items():
        if count:
            meters.RECONCILED.labels(action).inc(count)
    publish()


@app.task(name="ticks.purge")
def purge() -> None:
    """Remove what nobody needs any more, some seconds' worth of each.

    Deleted inferences and blobs that nobody holds, orphans, and what is told of schedules from long ago.
    """
    purging.purge()
    purging.remove_blobs()
    blobs.sweep_orphans()
    schedules.prune(timedelta(days=settings().schedule_history_days))


def publish() -> None:
    """Dispatch, and count what it published."""
    units = ledger.dispatch()
    if units:
        meters.PUBLISHED.labels("tick").inc(units)


def _beat_and_prune(session: Session) -> None:
    pulses.beat(session, "tick:reconcile", {})
    pulses.prune(session)
