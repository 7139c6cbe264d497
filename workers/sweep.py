"""The sweep of a retention task: pages that are short however large a model is, one after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from orchestrator import meters
from orchestrator.database import checkpoint, give_way
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention import manifest
from orchestrator.inference_store.retention.manifest import Approved
from orchestrator.inference_store.retention.sweep import Page, Place, run_batch, sweep_page
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.ledger import Again, Done, Lease, Outcome

#: Seconds that one transaction should take: writers may have to wait for it, on SQLite all of them.
TARGET = 0.08
#: Inferences in the first page of an attempt, in the smallest and in the largest.
FIRST, SMALLEST, LARGEST = 200, 16, 8192
#: Inferences after which what they left in SQLite's log is copied back.
LOGGED = 8192
#: Seconds of work after which a unit comes back, so that others get the worker in between.
SLICE = 3.0


class Pace:
    """How many inferences to take at a time, so that a transaction takes about `TARGET` seconds."""

    def __init__(self) -> None:
        self.size = FIRST

    def learn(self, seconds: float) -> None:
        """Take in how long the last page took."""
        wanted = self.size * TARGET / max(seconds, TARGET / 4)
        if seconds < 2 * TARGET:
            # Half of the way, up to twice as many: a page may be quick, or slow, by chance.
            wanted = math.sqrt(self.size * wanted)
        self.size = int(max(SMALLEST, min(LARGEST, wanted)))


def sweep(lease: Lease, task: RetentionTaskRow, action: Action) -> Outcome:
    """Delete what is older than the task's limits, from where the attempt before came to."""
    place: Place | None = Place.of(lease)

    def turn(size: int) -> Page:
        nonlocal place
        assert place is not None, "asked for as long as there is more"
        page, place = sweep_page(lease, task, action, place, size)
        return page

    return go_on(turn, lambda: place is not None)


def run_manifest(lease: Lease, task: RetentionTaskRow, action: Action, approved: Approved) -> Outcome:
    """Delete what an approved manifest names, from where the attempt before came to.

    Raises:
        BlobNotFound: the manifest is gone.
        Conflict: the manifest is not what was approved.
    """
    with manifest.verified(approved) as file:
        file.seek(lease.payload.get("offset", 0))

        def turn(size: int) -> Page | None:
            batch = manifest.take(file, action, size)
            return None if batch is None else run_batch(lease, task, batch)

        return go_on(turn, lambda: True)


def go_on(turn: Callable[[int], Page | None], is_more: Callable[[], bool]) -> Outcome:
    """Take pages until there are no more, or the unit's time is up."""
    pace = Pace()
    logged = 0
    deadline = time.monotonic() + SLICE
    while is_more() and (page := turn(pace.size)) is not None:
        meters.RETAINED.labels(page.action).inc(page.count)
        meters.RETENTION_PAGES.labels(page.action).observe(page.seconds)
        pace.learn(page.seconds)
        if time.monotonic() > deadline and is_more():
            return Again()
        give_way(page.seconds)
        logged += page.count
        if logged >= LOGGED:
            checkpoint()
            logged = 0
    return Done()
