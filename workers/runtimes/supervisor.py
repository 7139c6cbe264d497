"""The supervisor of one local trainer: `python -m workers.runtimes.supervisor FOLDER`.

It claims the launch of the folder, which one process can do once, and leaves if it is taken. The command itself
returns as soon as that is settled, and leaves the supervisor behind, in a session of its own and with no parent
that would have to take note of its end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import here
from workers.runtimes.signals import REQUEST, Signals


def main() -> int:
    """Fork the supervisor, and wait until it has claimed its launch, or ended."""
    folder = LaunchFolder(Path(sys.argv[1]))
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)
        return 0
    os.close(reader)
    os.setsid()
    signals = Signals([REQUEST, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    is_mine = folder.claim(here())
    os.close(writer)
    if is_mine:
        # Only now: it takes a second to import, and nobody is to wait for that.
        from workers.runtimes.supervision import supervise

        supervise(folder, signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
