"""Becomes the trainer: `python -I -S start.py SUPERVISOR CORES COMMAND …`.

A program of its own, with the standard library alone. What it does to itself between fork and exec could not be done
safely in a copy of a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

#: prctl: the signal that comes when the parent has died.
PR_SET_PDEATHSIG = 1
#: The kernel, when it is out of memory, ends a trainer before anything else of this user.
OOM_SCORE = "500"


def main() -> None:
    """Tie this process to its supervisor and to its cores, then run the command."""
    supervisor, cores, *command = sys.argv[1:]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and so would whatever it becomes
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, map(int, cores.split(",")))
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor has ended: nothing is started")
    try:
        os.execvp(command[0], command)  # noqa: S606  a list, and no shell
    except OSError as error:
        sys.exit(f"{command[0]!r} cannot be run: {error}")


if __name__ == "__main__":
    main()
