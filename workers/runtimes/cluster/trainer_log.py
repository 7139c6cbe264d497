"""What the trainer's container prints, as its own sidecar reads it: line by line, each once, from start to end.

It is by its log that a sidecar knows its trainer: there is one once the trainer was started.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime

import structlog

from orchestrator.errors import Unavailable
from workers.runtimes.cluster.api import ClusterApi, Rejected
from workers.runtimes.cluster.manifest import TRAINER
from workers.runtimes.cluster.pods import trainer_state

log = structlog.get_logger(__name__)

#: Seconds between two tries.
PAUSE = 1.0


class TrainerLog:
    """Follows the log in a thread of its own, and writes it into a pipe, which it closes after the last line."""

    def __init__(self, api: ClusterApi, pod: str) -> None:
        self.api = api
        self.pod = pod
        #: The end of the pipe to read from; whoever does closes it.
        self.descriptor, self._into = os.pipe()
        self._is_started = False
        self._known = threading.Event()
        self._ending = threading.Event()
        self._last = b""
        self._thread = threading.Thread(target=self._run, name="trainer-log", daemon=True)
        self._thread.start()

    def await_start(self) -> bool:
        """Wait until the trainer was started; False if it will not be."""
        self._known.wait()
        return self._is_started

    def end(self) -> None:
        """Read what is left, and ask no more: the trainer has ended, or will not begin."""
        self._ending.set()

    def _run(self) -> None:
        try:
            while not self._is_complete():
                self._ending.wait(PAUSE)
        except BrokenPipeError:
            log.warning("trainer_log_given_up", pod=self.pod)  # the launch is over: nobody reads it any more
        finally:
            self._known.set()
            os.close(self._into)

    def _is_complete(self) -> bool:
        """Copy what there is; whether that was all."""
        is_last = self._ending.is_set()
        try:
            self._copy()
            pod = self.api.pod(self.pod)
        except Rejected as rejected:
            return is_last or rejected.status == 404
        except Unavailable as error:
            log.warning("trainer_log_interrupted", pod=self.pod, error=error.body)
            return is_last
        return is_last or pod is None or "terminated" in trainer_state(pod)

    def _copy(self) -> None:
        """Write the lines that were not written, until the connection ends."""
        since = datetime.fromisoformat(self._last.decode()) if self._last else None
        with self.api.log(self.pod, TRAINER, since) as lines:
            self._is_started = True
            self._known.set()
            for line in lines:
                # Times have nine digits each: the order of their letters is theirs.
                time, _, text = line.partition(b" ")
                if time > self._last:
                    _write(self._into, text)
                    self._last = time


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
