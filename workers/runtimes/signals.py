"""Signals as something to wait for, together with other wakings and with time."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType

#: What a runtime sends when it has left a request in the launch's folder.
REQUEST = signal.SIGUSR1


class Signals:
    """Catches signals from now on, in the main thread of a process; none is lost, and none ends the process."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.caught: set[int] = set()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._catch)

    def wait(self, seconds: float) -> None:
        """Return when a signal comes, or `wake` is called, or the time is up."""
        select.select([self._reader], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)

    def wake(self) -> None:
        """Have `wait` return; any thread may."""
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        self.caught.add(number)
