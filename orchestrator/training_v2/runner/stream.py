"""The stream of metrics and progress: a buffer that every thread fills, and one thread that empties it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence

from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.runner import wire
from orchestrator.training_v2.runner.channel import Connection

log = logging.getLogger(__name__)

#: Seconds in which metrics gather before they are sent.
INTERVAL = 0.1
#: Metrics that are not sent yet; whoever adds more has to wait.
FULL = 100_000


class Stream:
    """What this process reports, on one connection. Nothing is dropped: while nobody takes it, who reports waits."""

    def __init__(self) -> None:
        self._connection = Connection()
        self._changed = threading.Condition()
        self._metrics: list[NewMetric] = []
        self._progress: list[wire.Progress] | None = None
        #: Flushes that were asked for, and those that were answered.
        self._asked = self._answered = 0
        self._is_sending = self._is_hurried = False
        self._failure: Exception | None = None
        threading.Thread(target=self._run, name="runner", daemon=True).start()

    def add(self, metrics: Sequence[NewMetric]) -> None:
        """Take metrics that were checked, as soon as there is room."""
        with self._changed:
            if len(self._metrics) >= FULL:
                self._changed.notify_all()
                self._changed.wait_for(lambda: len(self._metrics) < FULL or self._failure)
            self._check()
            if not self._metrics:
                self._changed.notify_all()
            self._metrics.extend(metrics)

    def replace(self, progress: list[wire.Progress]) -> None:
        """Take the whole progress, instead of what was not sent yet."""
        with self._changed:
            self._check()
            self._progress = progress
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything that was taken is stored."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= mine or self._failure)
            self._check()

    def hand_over(self) -> None:
        """Wait until everything that was taken is with the supervisor."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_empty or self._failure)
            self._is_hurried = False
            self._check()

    def abandon(self) -> None:
        """Let go of the connection, whatever anybody was doing with it."""
        self._connection.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # each time anew, or else it would grow

    def _run(self) -> None:
        try:
            with self._connection:
                while True:
                    self._send_what_there_is()
        except Exception as error:  # noqa: BLE001  raised in every thread that reports from now on
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _send_what_there_is(self) -> None:
        metrics, progress, asked = self._take()
        for start in range(0, len(metrics), wire.METRICS):
            self._connection.tell(wire.Metrics(metrics[start : start + wire.METRICS]))
        if progress is not None:
            self._connection.tell(wire.CurrentProgress(progress))
        if asked > self._answered:
            self._connection.tell(wire.Flush())
            self._connection.hear(wire.Done)
        with self._changed:
            self._answered, self._is_sending = asked, False
            self._changed.notify_all()

    def _take(self) -> tuple[list[NewMetric], list[wire.Progress] | None, int]:
        """What is to be sent next, once there is something."""
        with self._changed:
            self._changed.wait_for(lambda: self._metrics or self._progress is not None or self._asked > self._answered)
            self._changed.wait_for(self._is_urgent, INTERVAL)
            metrics, self._metrics = self._metrics, []
            progress, self._progress = self._progress, None
            self._is_sending = True
            self._changed.notify_all()
            return metrics, progress, self._asked

    @property
    def _is_empty(self) -> bool:
        return not self._metrics and self._progress is None and not self._is_sending

    def _is_urgent(self) -> bool:
        return self._is_hurried or self._asked > self._answered or len(self._metrics) >= FULL


_stream: Stream | None = None
_opening = threading.Lock()


def stream() -> Stream:
    """This process's stream, opened at the first call.

    Raises:
        NotInARun: this process is no run's trainer.
        SupervisorGone: nobody listens.
    """
    global _stream
    if _stream is None:
        with _opening:
            if _stream is None:
                _stream = Stream()
                at_exit(hand_over)
    return _stream


def flush() -> None:
    """Wait until every metric and the progress that this process has reported are stored.

    Raises:
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    if _stream is not None:
        _stream.flush()


def hand_over() -> None:
    """Let the supervisor have everything, at the end of the process."""
    if _stream is not None:
        try:
            _stream.hand_over()
        except Exception as error:  # noqa: BLE001  the process ends in any case
            log.warning("the last metrics of this trainer were not reported: %s", error)


def _start_afresh() -> None:
    """Let a forked child open a stream of its own: the parent's, with what is in it, is the parent's to send."""
    global _stream, _opening
    if _stream is not None:
        _stream.abandon()
    _stream, _opening = None, threading.Lock()


os.register_at_fork(after_in_child=_start_afresh)


def at_exit(work: Callable[[], None]) -> None:
    """Have `work` done when this process ends, also one of `multiprocessing`, which may skip the interpreter's exit."""
    atexit.register(work)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, work, exitpriority=0)
