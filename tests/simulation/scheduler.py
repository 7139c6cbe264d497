"""Processes and threads that are none: they run one at a time, in an order and at times that a seed decides.

Each simulated thread is a greenlet that runs the real code. It hands over at its waits and right
before each transaction, so that between two of them nobody else runs: what a database serialises is
taken as serialised, and a seed is all that there is to chance.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]  # it ships no types

#: When every simulation begins.
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
FOREVER = float("inf")


class Killed(GreenletExit):  # type: ignore[misc]  # greenlet is untyped
    """The thread's process is no more: nothing may catch this and go on."""


class Process:
    """What lives and dies as a whole: its threads, and what they know."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        #: When something was last done to it that may cost it a lease.
        self.troubled_at = -FOREVER
        #: Seconds by which its own clock is wrong.
        self.skew = 0.0


class Thread:
    """One line of work of a process."""

    def __init__(self, scheduler: Scheduler, process: Process, name: str, body: Callable[[], Any]) -> None:
        self.process = process
        self.name = name
        self.wakes_at = scheduler.now
        self.ended = scheduler.event()
        self.greenlet = greenlet(self._run)
        self.body = body

    def _run(self) -> None:
        try:
            self.body()
        finally:
            self.ended.set()


class Event:
    """As `threading.Event`, on the simulated clock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.is_raised = False
        self.waiting: list[Thread] = []

    def set(self) -> None:
        """Wake everybody who waits."""
        self.is_raised = True
        for thread in self.waiting:
            thread.wakes_at = min(thread.wakes_at, self.scheduler.now)
        self.waiting.clear()

    def is_set(self) -> bool:
        """Whether nobody would have to wait."""
        return self.is_raised

    def clear(self) -> None:
        """Let whoever waits from now on wait."""
        self.is_raised = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event, at most so many simulated seconds; say whether it happened."""
        thread = self.scheduler.current
        if not self.is_raised and thread is not None:
            self.waiting.append(thread)
            self.scheduler.sleep(FOREVER if timeout is None else timeout)
            if thread in self.waiting:
                self.waiting.remove(thread)
        return self.is_raised


class Scheduler:
    """Whose turn it is, and what time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.threads: list[Thread] = []
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.current: Thread | None = None
        self.steps = 0
        self.numbers = 0
        #: What happened: when, to whom, what.
        self.trace: list[tuple[float, str, str]] = []

    @property
    def instant(self) -> datetime:
        """The simulated time of the database."""
        return EPOCH + timedelta(seconds=self.now)

    def event(self) -> Event:
        """An event on this clock."""
        return Event(self)

    def note(self, what: str) -> None:
        """Remember what happened, for whoever replays the seed."""
        who = "world" if self.current is None else f"{self.current.process.name}/{self.current.name}"
        self.trace.append((self.now, who, what))

    def start(self, process: Process, name: str, body: Callable[[], Any]) -> Thread:
        """Begin a thread of the process."""
        thread = Thread(self, process, name, body)
        self.threads.append(thread)
        return thread

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back then, from outside of every process."""
        self.numbers += 1
        heapq.heappush(self.timers, (self.now + seconds, self.numbers, callback))

    def sleep(self, seconds: float) -> None:
        """Let others run for so long; the current thread may be killed meanwhile, which ends it here."""
        thread = self.current
        if thread is None:
            return
        if not thread.process.alive:
            raise Killed
        thread.wakes_at = self.now + seconds
        thread.greenlet.parent.switch()
        if not thread.process.alive:
            raise Killed

    def kill(self, process: Process) -> None:
        """End the process where it stands: no thread of it takes another step."""
        process.alive = False
        process.frozen = False
        mine = [thread for thread in self.threads if thread.process is process]
        self.threads = [thread for thread in self.threads if thread.process is not process]
        for thread in mine:
            if thread is not self.current:
                self._resume(thread)  # to unwind it

    def run(self, is_over: Callable[[], bool], *, until: float = FOREVER, most_steps: int = 100_000) -> bool:
        """Run until it is over; False when `until` has come or too many steps were taken first."""
        while not is_over():
            if self.now >= until or self.steps >= most_steps:
                return False
            self.steps += 1
            now = self.now
            if self.timers and self.timers[0][0] <= now:
                heapq.heappop(self.timers)[2]()
                continue
            able = [thread for thread in self.threads if thread.wakes_at <= now and not thread.process.frozen]
            if able:
                self.now += self.chance.random() * 0.004
                self._resume(able[int(self.chance.random() * len(able))])
            else:
                self._advance(until)
        return True

    def _advance(self, until: float) -> None:
        wakes = [thread.wakes_at for thread in self.threads if not thread.process.frozen]
        if self.timers:
            wakes.append(self.timers[0][0])
        self.now = max(self.now, min([until, *wakes]))

    def _resume(self, thread: Thread) -> None:
        before, self.current = self.current, thread
        try:
            if thread.greenlet.dead:
                return
            # Whoever switches is the parent to come back to, also when one process kills another.
            thread.greenlet.parent = getcurrent()
            if thread.process.alive:
                thread.greenlet.switch()
            elif thread.greenlet:
                thread.greenlet.throw(Killed)
        finally:
            self.current = before
        if thread.greenlet.dead and thread in self.threads:
            self.threads.remove(thread)
