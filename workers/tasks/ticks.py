"""Beat's ticks: they only say that it is time; any number of them does no harm."""

from __future__ import annotations

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.ledger import pulses
from orchestrator.queues import app


@app.task(name="ticks.dispatch")
def dispatch() -> None:
    """Fill the broker's windows."""
    transact(pulses.beat, "tick:dispatch", {})
    ledger.dispatch()


@app.task(name="ticks.reconcile")
def reconcile() -> None:
    """Put right what died, and publish what that made ready."""
    transact(pulses.beat, "tick:reconcile", {})
    ledger.reconcile()
    ledger.dispatch()
