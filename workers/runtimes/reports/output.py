"""What a trainer prints, read from a pipe and kept as chunks of its log."""

from __future__ import annotations

import os
import select
import threading
import time

import structlog

from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.logs import keep_log
from workers.runtimes.reports.outlasting import GivenUp, Outlasting

log = structlog.get_logger(__name__)

#: Seconds after which what was printed is kept.
INTERVAL = 1.0
#: Bytes of one chunk, at most.
CHUNK = 1 << 20
#: Seconds after which a silent pipe is left to look whether the launch is over.
GLANCE = 0.25


class Output:
    """The thread that reads one pipe until its end. While nothing can be kept the pipe fills, and printing waits."""

    def __init__(self, run_id: str, launch: int, descriptor: int, outlasting: Outlasting) -> None:
        self._run_id = run_id
        self._launch = launch
        self._descriptor = descriptor
        self._outlasting = outlasting
        self._is_whole = False
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def close(self, within: float) -> bool:
        """Wait for the end of the pipe, so many seconds at most; whether everything was kept."""
        self._thread.join(within)
        return self._is_whole

    def _run(self) -> None:
        try:
            self._is_whole = self._keep_chunks()
        except (StaleLaunch, GivenUp) as error:
            log.warning("output_lost", run=self._run_id, launch=self._launch, error=str(error))
        finally:
            os.close(self._descriptor)

    def _keep_chunks(self) -> bool:
        """Keep chunk after chunk; returns whether the pipe came to its end."""
        number, is_open = 0, True
        while is_open and not self._outlasting.is_over:
            data, is_open = self._read_chunk()
            if data and not self._outlasting.is_stale:
                self._outlasting.until_done(keep_log, self._run_id, self._launch, number, data)
                number += 1
        return not is_open and not self._outlasting.is_stale

    def _read_chunk(self) -> tuple[bytes, bool]:
        """What is printed within an interval from the first byte on, and whether more may follow."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        data, due = bytearray(), time.monotonic() + GLANCE
        while len(data) < CHUNK and (left := due - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                part = os.read(self._descriptor, CHUNK - len(data))
                if not part:
                    return bytes(data), False
                due = due if data else time.monotonic() + INTERVAL
                data += part
        return bytes(data), True
