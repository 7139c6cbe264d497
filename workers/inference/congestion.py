"""How many requests may be in flight: grows while the server keeps up, shrinks when it does not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from workers.inference.failures import Overloaded, Transient

START: Final = 4
CEILING: Final = 256
#: What remains of the limit after a sign of overload.
BACKOFF: Final = 0.7
#: Latency this many times its minimum, and `SLACK` seconds above it, means that requests queue up.
TOLERANCE: Final = 1.5
SLACK: Final = 0.010
#: More throughput than this, against the best seen, is worth a longer queue.
GAIN: Final = 1.2
#: After this many rounds on hold the minimum may be out of date: it is measured anew at half the limit.
HOLD_ROUNDS: Final = 50


@dataclass(slots=True)
class Aimd:
    """The arithmetic, without a clock or a loop; times are seconds of one monotonic clock.

    Every round, which is as many requests sent and answered as the limit, the limit doubles (until the first sign of
    congestion) or grows by one, but only where it was in use, and not while requests queue up without more throughput.
    """

    ceiling: int = CEILING
    limit: float = START
    slow_start: bool = True
    #: Requests sent before this moment belong to the round that was already answered with a decrease.
    decreased_at: float = float("-inf")
    round_started: float = float("-inf")
    round_answers: int = 0
    #: Those of the answers whose requests were sent in this round, and the sum of their latencies.
    round_measured: int = 0
    round_latency: float = 0.0
    #: The most requests in flight that an answer of this round has seen.
    round_peak: int = 0
    least_latency: float = float("inf")
    best_throughput: float = 0.0
    rounds_on_hold: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.ceiling)

    def succeeded(self, now: float, sent_at: float, in_flight: int) -> None:
        """Count an answer; `in_flight` includes it."""
        if self.round_answers == 0 and self.round_started == float("-inf"):
            self.round_started = sent_at
        self.round_answers += 1
        if sent_at < self.round_started:
            return  # it waited in the queue of the limit before
        self.round_measured += 1
        self.round_latency += now - sent_at
        self.round_peak = max(self.round_peak, in_flight)
        if self.round_measured >= int(self.limit):
            self.end_round(now)

    def overloaded(self, now: float, sent_at: float) -> None:
        """Shrink, once for all the requests that were in flight together."""
        if sent_at <= self.decreased_at:
            return
        self.limit = max(1.0, self.limit * BACKOFF)
        self.slow_start = False
        self.decreased_at = now
        self.start_round(now)

    def end_round(self, now: float) -> None:
        """Judge the round that has just been answered, and grow or hold."""
        latency = self.round_latency / self.round_measured
        throughput = self.round_answers / max(now - self.round_started, 1e-9)
        self.least_latency = min(self.least_latency, latency)
        queueing = latency > self.least_latency * TOLERANCE and latency > self.least_latency + SLACK
        gained = throughput > self.best_throughput * GAIN
        self.best_throughput = max(self.best_throughput, throughput)
        if queueing and not gained:
            self.hold()
        elif self.round_peak >= int(self.limit):
            self.grow()
        self.start_round(now)

    def grow(self) -> None:
        """Twice as many in slow start, else one more."""
        self.limit = min(self.ceiling, self.limit * 2 if self.slow_start else self.limit + 1)

    def hold(self) -> None:
        """Undo the doubling that went too far; later stay, and once in a while ask whether the server has changed."""
        self.rounds_on_hold += 1
        if self.slow_start or self.rounds_on_hold >= HOLD_ROUNDS:
            self.limit = max(1.0, self.limit / 2)
            self.slow_start = False
        if self.rounds_on_hold >= HOLD_ROUNDS:
            self.forget()

    def forget(self) -> None:
        """Learn latency and throughput from the beginning, and grow as fast as then."""
        self.rounds_on_hold = 0
        self.least_latency = float("inf")
        self.best_throughput = 0.0
        self.slow_start = True

    def start_round(self, now: float) -> None:
        """Begin to count anew."""
        self.round_started = now
        self.round_answers = 0
        self.round_measured = 0
        self.round_latency = 0.0
        self.round_peak = 0


class Window:
    """The limit, held by the tasks of one event loop: `async with window.slot():` around each request.

    What leaves the block is the verdict: no error counts as an answer, `Overloaded` and timeouts shrink the limit,
    any other error says nothing about load. Waiting tasks go first come, first served.

    With `requests_per_second`, requests leave this window at even distances, never faster than that.
    """

    def __init__(
        self,
        max_concurrency: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        requests_per_second: float | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.interval = 1 / requests_per_second if requests_per_second else 0.0
        self.next_at = float("-inf")
        self.sleep = sleep
        self.control = Aimd(ceiling=min(CEILING, max_concurrency or CEILING))
        self.clock = clock
        self.in_flight = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return int(self.control.limit)

    def slot(self) -> Slot:
        """A place in flight, for one request."""
        return Slot(self)

    async def acquire(self) -> None:
        """Wait for a place; it must be given back with `release`."""
        if self.in_flight < self.limit and not self.waiting:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the place was given in the same moment
            raise

    async def pace(self) -> None:
        """Wait for this request's turn under `requests_per_second`."""
        if not self.interval:
            return
        turn = max(self.next_at, self.clock())
        self.next_at = turn + self.interval
        await self.sleep(turn - self.clock())

    def release(self) -> None:
        """Give a place back, and hand out what is free."""
        self.in_flight -= 1
        while self.waiting and self.in_flight < self.limit:
            turn = self.waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class Slot:
    """One request's place in a `Window`."""

    __slots__ = ("sent_at", "window")

    def __init__(self, window: Window) -> None:
        self.window = window

    async def __aenter__(self) -> Self:
        await self.window.acquire()
        try:
            await self.window.pace()
        except asyncio.CancelledError:
            self.window.release()
            raise
        self.sent_at = self.window.clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        window = self.window
        if error is None:
            window.control.succeeded(window.clock(), self.sent_at, window.in_flight)
        elif isinstance(error, Overloaded) or (isinstance(error, Transient) and error.timed_out):
            window.control.overloaded(window.clock(), self.sent_at)
        window.release()
