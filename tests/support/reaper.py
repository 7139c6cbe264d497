"""Ends what a test run started, even when the run itself is killed: a second process watches over the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class Reaper:
    """Told of every process group that a run starts and ends; kills those that outlive the run."""

    def __enter__(self) -> Self:
        # Its own session: Ctrl-C at the terminal must reach the run, and only then, through it, the reaper.
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)

    def watch(self, group: int) -> None:
        """Kill process group `group` if this run ends without `forget`."""
        self.tell(f"watch {group}")

    def forget(self, group: int) -> None:
        """Process group `group` has ended; its number may soon mean somebody else."""
        self.tell(f"forget {group}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def main() -> None:
    """Keep the list that the run sends on standard input; when that closes, kill what is still on it."""
    watched: set[int] = set()
    for line in sys.stdin:
        verb, group = line.split()
        (watched.add if verb == "watch" else watched.discard)(int(group))
    for group in watched:
        kill_group(group)


def kill_group(group: int) -> None:
    """SIGKILL every process of the group; none left is as good."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
