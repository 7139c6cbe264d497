"""Schedules at work: beat's tick decides what is due, and the units that it writes submit."""

from __future__ import annotations

from dataclasses import asdict

import structlog

from orchestrator import meters, schedules
from orchestrator.database import transact
from orchestrator.ledger import Done, Lease, Outcome, pulses
from orchestrator.queues import app
from workers.tasks.submissions import KINDS
from workers.tasks.ticks import publish
from workers.unit import unit

log = structlog.get_logger(__name__)


@app.task(name="ticks.schedules")
def tick() -> None:
    """Decide what is due, and publish what that made ready."""
    transact(pulses.beat, "tick:schedules", {})
    ticked = schedules.tick()
    for state, count in asdict(ticked).items():
        if count:
            meters.OCCURRENCES.labels(state).inc(count)
    if ticked != schedules.Ticked():
        log.info("schedules_ticked", **asdict(ticked))
        publish()


@unit("schedules.fire")
def fire(lease: Lease) -> Outcome:
    """Submit the job of one occurrence."""
    return schedules.fire(lease, KINDS)


@unit("schedules.finish")
def finish(lease: Lease) -> Outcome:
    """Close what is left of an occurrence whose firing was given up."""
    transact(schedules.give_up, lease)
    return Done()
