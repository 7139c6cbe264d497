"""The one gate of a model's requests: how many may be in flight, how fast they leave, and when none may at all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

from orchestrator.errors import OrchestratorError
from workers.inference.aimd import CEILING, Aimd
from workers.inference.failures import Overloaded, Transient

#: Seconds after which a request that waits for its turn looks whether the rate is another by now.
GLANCE: Final = 0.25
#: Seconds by which a timer may be late without slowing the requests that follow.
LATENESS: Final = 0.005


class Share(NamedTuple):
    """What this window may use of a model's limits, `until` a moment of the window's clock."""

    places: int
    #: Requests a second; None where the model does not limit them.
    rate: float | None
    until: float


class Window:
    """The limit, held by the tasks of one event loop: `async with window.slot():` around each request.

    What leaves the block is the verdict: no error counts as an answer, `Overloaded` and timeouts shrink the limit,
    any other error says nothing about load. A server's `Retry-After` closes the window for that long. Waiting tasks
    go first come, first served.

    `max_concurrency` and `requests_per_second` are the model's; `allot` replaces them by a share of them. Requests
    leave at even distances, the first one distance after the rate is known: so windows that come and go cannot exceed
    a rate together. Without a share in time, nothing leaves.
    """

    def __init__(
        self,
        max_concurrency: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        requests_per_second: float | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.control = Aimd(ceiling=min(CEILING, max_concurrency or CEILING))
        self.clock = clock
        self.sleep = sleep
        self.share = Share(self.control.ceiling, requests_per_second, float("inf"))
        #: Requests under way, and those of them that hold a place but wait for their turn under the rate.
        self.in_flight = 0
        self.pacing = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        #: When the next request may leave under the rate.
        self.next_at = float("-inf")
        #: Whether a request had to wait for that; whoever reads it may reset it.
        self.was_paced = False
        #: Requests sent since the start.
        self.sent = 0
        self.opens_at = float("-inf")
        #: Why nobody may send, for as long as that is known.
        self.refusal: OrchestratorError | None = None

    @property
    def limit(self) -> int:
        """How many requests it makes sense to have ready: never less than one, though it may have to wait."""
        return max(1, min(int(self.control.limit), self.share.places))

    @property
    def overloads(self) -> int:
        """Requests that the server refused for its load, since the process met the model."""
        return self.control.overloads

    @property
    def timeouts(self) -> int:
        """Requests that timed out, since the process met the model."""
        return self.control.timeouts

    def slot(self) -> Slot:
        """A place in flight, for one request."""
        return Slot(self)

    def allot(self, share: Share) -> None:
        """Use `share` from now on."""
        if share.rate and share.rate != self.share.rate:
            now, rate = self.clock(), self.share.rate
            # What was waited for already counts at the old rate.
            left = max(0.0, self.next_at - now) * rate if rate else 1.0
            self.next_at = now + min(left, 1.0) / share.rate
        self.share = share
        self.refusal = None
        self.hand_out()

    def refuse(self, error: OrchestratorError) -> None:
        """Send nothing more until there is a share, and raise `error` for whoever waits or comes."""
        self.refusal = error
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        until = self.clock() + seconds
        if until > self.opens_at:
            self.opens_at = until
            asyncio.get_running_loop().call_later(seconds, self.hand_out)

    def is_open(self, now: float) -> bool:
        """Whether requests may leave at all."""
        return self.opens_at <= now < self.share.until and self.share.rate != 0

    async def acquire(self) -> None:
        """Wait for a place and for this request's turn; it must be given back with `release`.

        Raises:
            OrchestratorError: what `refuse` was called with.
        """
        while True:
            await self.take_place()
            if self.share.rate is None:
                return
            try:
                await self.pace()
            except BaseException:
                self.release()
                raise
            if self.is_open(self.clock()):
                return
            self.release()

    async def take_place(self) -> None:
        """Wait for a place."""
        if self.refusal is not None:
            raise self.refusal
        if not self.waiting and self.has_place(self.clock()):
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # the place was given in the same moment
            raise

    async def pace(self) -> None:
        """Wait for this request's turn under the rate, which may change meanwhile."""
        self.pacing += 1
        credit = 0.0
        try:
            while (rate := self.share.rate) is not None:
                now = self.clock()
                if rate and now >= self.next_at:
                    self.next_at = max(self.next_at, now - credit) + 1 / rate
                    return
                self.was_paced, credit = True, LATENESS
                await self.sleep(min(self.next_at - now, GLANCE) if rate else GLANCE)
        finally:
            self.pacing -= 1

    def has_place(self, now: float) -> bool:
        """Whether one more request may be in flight."""
        limit = self.control.limit
        places = self.share.places
        return self.in_flight < (places if places < limit else int(limit)) and self.is_open(now)

    def release(self) -> None:
        """Give a place back, and hand out what is free."""
        self.in_flight -= 1
        if self.waiting:
            self.hand_out()

    def hand_out(self) -> None:
        """Give free places to those who wait."""
        now = self.clock()
        while self.waiting and self.has_place(now):
            turn = self.waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class Slot:
    """One request's place in a `Window`."""

    __slots__ = ("flying", "sent_at", "window")

    def __init__(self, window: Window) -> None:
        self.window = window

    async def __aenter__(self) -> Self:
        window = self.window
        await window.acquire()
        window.sent += 1
        self.flying = window.in_flight - window.pacing
        self.sent_at = window.clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        window = self.window
        control = window.control
        if error is None:
            control.succeeded(window.clock(), self.sent_at, window.in_flight - window.pacing)
        elif isinstance(error, Overloaded):
            pause = error.retry_after or 0.0
            control.overloaded(window.clock(), self.sent_at, self.flying, pause)
            if pause:
                window.pause(pause)
        elif isinstance(error, Transient) and error.timed_out:
            control.timed_out(window.clock(), self.sent_at)
        window.release()
