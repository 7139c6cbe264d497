"""What the trainer's container prints, as its own sidecar reads it: as it comes, each line once, from start to end.

It is by its log that a sidecar knows its trainer: there is one once the trainer was started.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

import structlog

from orchestrator.errors import Unavailable
from workers.runtimes.cluster.api import ClusterApi, Rejected
from workers.runtimes.cluster.manifest import TRAINER
from workers.runtimes.cluster.pods import trainer_state

log = structlog.get_logger(__name__)

#: Seconds between two tries.
PAUSE = 1.0
#: A line of a log, or what there is of it.
LINE = re.compile(rb"[^\n]*\n|[^\n]+")
#: What is before a line, and the longest that it may be. What has none, the node says by itself.
TIME = re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)")
LONGEST_TIME = 64


class Part(NamedTuple):
    """A line, or a part of one that is not complete yet."""

    #: Of its line; empty if it has none.
    time: bytes
    text: bytes
    #: Whether its line begins with it.
    is_first: bool


class Mark:
    """A line of the log, as far as it was read."""

    def __init__(self, time: bytes = b"") -> None:
        self.time = time
        self.length = 0
        self._hash = hashlib.sha256()

    def add(self, text: bytes) -> None:
        """Take note of more of it."""
        self.length += len(text)
        self._hash.update(text)

    @property
    def digest(self) -> bytes:
        """What tells its text from another."""
        return self._hash.digest()


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
        self._last = Mark()
        self._latest = b""
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
                time.sleep(PAUSE) if self._ending.is_set() else self._ending.wait(PAUSE)
        except BrokenPipeError:
            log.warning("trainer_log_given_up", pod=self.pod)  # the launch is over: nobody reads it any more
        finally:
            self._known.set()
            os.close(self._into)

    def _is_complete(self) -> bool:
        """Copy what there is; whether that was all, which nobody knows as long as the API is away."""
        is_last = self._ending.is_set()
        try:
            self._copy()
            pod = self.api.pod(self.pod)
        except Rejected as rejected:
            return is_last or rejected.status == 404
        except Unavailable as error:
            log.warning("trainer_log_interrupted", pod=self.pod, error=error.body)
            return False
        return is_last or pod is None or "terminated" in trainer_state(pod)

    def _copy(self) -> None:
        """Write what was not written, until the connection ends."""
        since = datetime.fromisoformat(self._last.time.decode()) if self._last.time else None
        with self.api.log(self.pod, TRAINER, since) as pieces:
            self._is_started = True
            self._known.set()
            for part in self._new(parts(pieces)):
                if part.time:
                    if part.is_first:
                        self._last, self._latest = Mark(part.time), max(part.time, self._latest)
                    self._last.add(part.text)
                _write(self._into, part.text)

    def _new(self, found: Iterator[Part]) -> Iterator[Part]:
        """What follows the last line that was seen, and what is left of that.

        Times do not always increase: of two streams, or when a clock is set. So it is by its time and its text that
        the line is found, or, should the node have forgotten it, by a later time than all those seen.
        """
        last, same = self._last, Mark()
        for part in found if self._latest else ():
            if part.is_first:
                # Times have nine digits each: the order of their letters is theirs.
                if part.time > self._latest:
                    yield part
                    break
                same = Mark(part.time)
            elif same.length == last.length:
                continue  # another line than the last one
            if same.time != last.time:
                continue
            rest = part.text[last.length - same.length :]
            same.add(part.text[: last.length - same.length])
            if same.length == last.length and same.digest == last.digest:
                yield Part(part.time, rest, is_first=False)
                break
        yield from found


def parts(pieces: Iterable[bytes]) -> Iterator[Part]:
    """The lines of a log in pieces, each of which may end anywhere."""
    left, stamp, is_first = b"", b"", True
    for piece in pieces:
        lines, left = LINE.findall(left + piece), b""
        for line in lines:
            text = line
            if is_first:
                stamp, space, text = line.partition(b" ")
                if not space and not line.endswith(b"\n") and len(line) < LONGEST_TIME:
                    left = line
                    break
                if not space or TIME.fullmatch(stamp) is None:
                    stamp, text = b"", line
            yield Part(stamp, text, is_first)
            is_first = line.endswith(b"\n")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
