"""The inference loop: reading, inferring and writing at the same time, until a unit is done or its time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from orchestrator.errors import OrchestratorError
from workers.inference.bisect import Infers, Outcome, RetryPolicy, infer_batch
from workers.inference.congestion import Window
from workers.inference.feed import Feed

DEFAULT_POLICY = RetryPolicy()

#: A flush is due after this many outcomes, or this many seconds; the first ones sooner, so that an
#: attempt that is killed early has not been in vain.
FLUSH_ITEMS = 2000
FLUSH_SECONDS = 0.5
FIRST_FLUSH_SECONDS = 0.05
#: Outcomes that may wait for the database before inference waits, too.
BACKLOG_ITEMS = 4 * FLUSH_ITEMS
#: Seconds that an attempt infers for; what is left then is for other units.
BUDGET = 10.0


class Sink(Protocol):
    """Stores outcomes; called off the event loop, one call at a time."""

    def __call__(self, outcomes: Sequence[Outcome], in_flight: int) -> bool:
        """Store the outcomes; say whether the unit should go on."""


class Loop:
    """One attempt at a unit's datums.

    As many consumers run as the window allows: each takes a batch, sees it to its end and takes the
    next. One flusher writes what they leave, and learns once a second whether the unit is still wanted.
    """

    def __init__(
        self, client: Infers, window: Window, feed: Feed, sink: Sink, *, policy: RetryPolicy = DEFAULT_POLICY
    ) -> None:
        self.client = client
        self.window = window
        self.feed = feed
        self.sink = sink
        self.policy = policy
        self.outcomes: list[Outcome] = []
        self.consumers = 0
        self.failure: OrchestratorError | None = None
        #: Datums that got an outcome in a second.
        self.rate = 0.0
        self.flush_seconds = FIRST_FLUSH_SECONDS
        #: Wakes the flusher; and, cleared, holds consumers back while the database lags.
        self.due = asyncio.Event()
        self.room = asyncio.Event()

    async def run(self, budget: float = BUDGET) -> bool:
        """Infer until the feed is empty or `budget` seconds have passed; say whether it is empty.

        Whatever was inferred by then is stored, also when this raises one of the first three:

        Raises:
            Unreachable: the server is away.
            EndpointRefused: the server will never answer.
            Unavailable: the blob store is away.
            LeaseLost: or whatever else the sink raises; what it was given is not stored.
        """
        self.room.set()
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as self.group:
                self.group.create_task(self.fill())
                self.grow()
                self.group.create_task(self.flush(started, started + budget))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if self.failure is not None:
            raise self.failure
        return not self.feed.was_closed

    async def fill(self) -> None:
        """Read ahead until the feed has handed out everything."""
        try:
            await self.feed.fill()
        except OrchestratorError as error:
            self.give_up(error)

    def grow(self) -> None:
        """Start consumers until there are as many as the window allows."""
        while self.feed.is_open and self.consumers < self.window.limit:
            self.consumers += 1
            self.group.create_task(self.consume())

    async def consume(self) -> None:
        """See batch after batch to its end, while there are any and the window has a place for this consumer."""
        while self.consumers <= self.window.limit:
            await self.room.wait()
            batch = await self.feed.next()
            if batch is None:
                break
            try:
                outcomes = await infer_batch(self.client, batch, self.policy, gate=self.window)
            except OrchestratorError as error:
                self.give_up(error)
            else:
                # Not `+= await …`: that would add to the list as it was before the wait, long since flushed.
                self.outcomes += outcomes
            self.press()
            self.grow()
        self.consumers -= 1
        self.press()

    def press(self) -> None:
        """Wake the flusher when a flush is due; hold consumers back when it lags."""
        if self.consumers == 0 or len(self.outcomes) >= FLUSH_ITEMS:
            self.due.set()
        if len(self.outcomes) >= BACKLOG_ITEMS:
            self.room.clear()

    async def flush(self, started: float, deadline: float) -> None:
        """Write outcomes until the consumers have left; end the feed when the unit is unwanted or its time is up."""
        flushed = 0
        try:
            while self.consumers or self.outcomes or self.feed.lost:
                await self.wait_until_due()
                outcomes, self.outcomes = self.outcomes + self.feed.lost, []
                self.feed.lost = []
                self.room.set()
                wanted = await asyncio.to_thread(self.sink, outcomes, self.window.in_flight)
                flushed += len(outcomes)
                now = time.monotonic()
                self.rate = flushed / (now - started)
                if not wanted or now >= deadline:
                    self.feed.close()
        finally:
            # A request that is answered in the moment of its cancellation swallows it: without a
            # flusher, its consumer must find the feed at an end, or it would wait for ever.
            self.feed.close()
            self.room.set()

    async def wait_until_due(self) -> None:
        """Until enough outcomes have come together, or a second has passed."""
        try:
            async with asyncio.timeout(self.flush_seconds):
                await self.due.wait()
        except TimeoutError:
            return
        finally:
            self.flush_seconds = min(2 * self.flush_seconds, FLUSH_SECONDS)
            self.due.clear()

    def give_up(self, error: OrchestratorError) -> None:
        """Keep the first error, and let everyone finish what is in flight."""
        self.failure = self.failure or error
        self.feed.close()
