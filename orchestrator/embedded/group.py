"""A process group that cannot outlive this process.

Its leader, the guard, holds one end of a pipe whose other end is here alone. Whatever ends this
process closes the pipe, and the guard then kills the group. A child is in the group from before its
first instruction, so there is no moment in which it could be left behind; nor does Ctrl-C at the
terminal reach it: whoever owns the group tells its members when to end.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

GUARD = Path(__file__).with_name("guard.py")


class Group:
    """Starts processes that end with this one; used in a `with` block, they end with the block.

    `inherited` are file descriptors that stay open until the last process of the group has ended.
    """

    def __init__(self, *inherited: int) -> None:
        self.inherited = inherited

    def __enter__(self) -> Self:
        self.guard = self._start_guard(0)
        self.id = self.guard.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(self.guard)

    def start(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """A process of the group, which writes to the end of `log`."""
        self.keep_guarded()
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=self.id,
            )

    def keep_guarded(self) -> None:
        """Replace a guard that somebody has killed."""
        if self.guard.poll() is None:
            return
        self._close(self.guard)
        try:
            self.guard = self._start_guard(self.id)
        except PermissionError:
            # The guard was the group's last member: there is no group left to join.
            self.guard = self._start_guard(0)
            self.id = self.guard.pid

    def _start_guard(self, group: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(GUARD)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, process_group=group, pass_fds=self.inherited)

    def _close(self, guard: subprocess.Popen[bytes]) -> None:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
