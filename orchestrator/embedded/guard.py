"""Kills its process group as soon as its standard input closes: nothing outlives the `up` that started it.

A program of its own, with the standard library alone, so that it is there in an instant.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Wait for the other end of standard input to close, however it does; then end the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
