"""SIGTERM, as training code hears it: the run is to end, and there is a grace period to save a checkpoint in.

Nothing listens until one of these functions is called for the first time, which must be in the main thread: until then
SIGTERM ends the trainer at once, as it does any program. A handler that the trainer has set before is called, too; one
that it sets later takes this one's place, and is handed this one by `signal.signal` to call. Processes that are forked
from the trainer hear SIGTERM as they would without any of this.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any

from orchestrator.training_v2.exceptions import RunnerError

log = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Listener:
    """Hears SIGTERM for this process, from when it is made."""

    def __init__(self) -> None:
        self.is_asked = False
        self._asked = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        # A handler may interrupt whoever holds a lock; this queue is made for that, and its reader does the rest.
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._before: Handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._hear)
        threading.Thread(target=self._tell, name="runner-stop", daemon=True).start()

    def wait(self, timeout: float | None) -> bool:
        return self._asked.wait(timeout)

    def call(self, callback: Callable[[], object]) -> None:
        """Call back once asked to stop; at once if that was before."""
        with self._lock:
            if not self._asked.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def withdraw(self) -> None:
        """Give the signal back to whom it belonged."""
        if signal.getsignal(signal.SIGTERM) == self._hear and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self._signals.put(None)
        if callable(self._before):
            self._before(number, frame)

    def _tell(self) -> None:
        self._signals.get()
        with self._lock:
            self._asked.set()
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                # One of them must not keep the next from being called.
                log.exception("a callback of on_stop failed")


_listener: Listener | None = None


def stop_requested() -> bool:
    """Whether the run is to end: save a checkpoint if you like, and leave, before the grace period is over.

    Raises:
        RunnerError: this is the first call of this module, and not in the main thread.
    """
    return _listening().is_asked


def wait_for_stop(timeout: float | None = None) -> bool:
    """Wait until the run is to end, so many seconds at most; returns whether it is.

    Raises:
        RunnerError: as `stop_requested`.
    """
    return _listening().wait(timeout)


def on_stop(callback: Callable[[], object]) -> None:
    """Have `callback` called, once, in a thread of its own, when the run is to end; at once if that is already so.

    Raises:
        RunnerError: as `stop_requested`.
    """
    _listening().call(callback)


def _listening() -> Listener:
    global _listener
    if _listener is None:
        try:
            _listener = Listener()
        except ValueError:
            raise RunnerError(
                "signals are heard in the main thread only: call runner.stop_requested() there once, at the start"
            ) from None
    return _listener


def _forget() -> None:
    """Let a forked child be ended by SIGTERM as it would be: whoever forked it counts on that."""
    global _listener
    if _listener is not None:
        _listener.withdraw()
        _listener = None


os.register_at_fork(after_in_child=_forget)
