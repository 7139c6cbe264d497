"""A trainer's process and all that it has started, as its supervisor sees them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from workers.runtimes import processes
from workers.runtimes.identity import ProcessId, here, look
from workers.runtimes.limits import proportional, resident
from workers.runtimes.processes import Marks

START = Path(__file__).with_name("start.py")
#: prctl: orphans among the descendants become children of this process.
PR_SET_CHILD_SUBREAPER = 36
#: Seconds in which what was killed has gone, unless the kernel itself is stuck.
KILLED = 60.0


class Trainer:
    """Starts the trainer in a session of its own; it dies with this process. To be made in the main thread."""

    def __init__(self, run_id: str, launch: int, command: Sequence[str], cores: Sequence[int]) -> None:
        self._run_id = run_id
        self._launch = launch
        self._command = [sys.executable, "-I", "-S", str(START), str(os.getpid()), ",".join(map(str, cores)), *command]
        self.code: int | None = None

    def start(self, environment: Mapping[str, str]) -> int:
        """Start it; returns a descriptor from which what it prints can be read.

        Raises:
            OSError: it could not be started.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        reader, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self.id = self._identity()
        return reader

    def reap(self) -> int | None:
        """Take note of every child that has ended; the trainer's exit code, or minus its signal, once it has."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._process.pid:
                    self.code = self._process.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.code

    @property
    def is_active(self) -> bool:
        """Whether it runs, and is not stopped."""
        standing = look(self._process.pid)
        return standing is not None and not standing.is_held

    def tell(self) -> None:
        """SIGTERM to its group; only while `reap` has not said that it ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and to all that it has started, until nothing is left that may be killed."""
        if self.code is None:
            self._signal(signal.SIGKILL)
        while not processes.kill(self.marks, within=KILLED, reap=self.reap):
            pass
        if self.reap() is None and look(self._process.pid) is not None:
            # It has become another user's, who alone can end it: nobody is to wait for that.
            self.code = self._process.returncode = -signal.SIGKILL

    @property
    def marks(self) -> Marks:
        """What its processes are known by."""
        return Marks(self._run_id, self._launch, here(), self.id)

    def memory_above(self, limit: int) -> int | None:
        """Bytes of memory that it and its descendants have, if that is more than `limit`."""
        tree = psutil.Process().children(recursive=True)
        if resident(tree) <= limit:
            return None
        used = proportional(tree)
        return used if used > limit else None

    def _signal(self, number: signal.Signals) -> None:
        # Its number is its own until it is reaped. Nobody may be left in the group that would take a signal.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _identity(self) -> ProcessId | None:
        standing = look(self._process.pid)
        return None if standing is None else standing.id
