"""Real trainer processes, and this process as their supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

from orchestrator.errors import Unavailable
from orchestrator.training_v2.logs import read_log
from orchestrator.training_v2.runner.surroundings import CONFIG, LAUNCH, RUN_FOLDER, RUN_ID
from tests.support.processes import ROOT, wait_until
from workers.runtimes.reports import Reports

#: Seconds that a trainer may take to do what a test says.
PATIENCE = 60.0


class Supervised:
    """A launch whose trainers are pieces of code, and whose reports come here."""

    def __init__(self, folder: Path, run_id: str, launch: int, *, shared: bool = False) -> None:
        self.folder = folder
        self.run_id = run_id
        self.launch = launch
        self.reports = Reports(run_id, launch, folder, shared=shared)
        self.trainers: list[subprocess.Popen[bytes]] = []

    def start(self, code: str) -> subprocess.Popen[bytes]:
        """Start a trainer that does this, with `runner` and a few modules imported."""
        prelude = "import os, signal, sys, threading, time\nfrom pathlib import Path\n"
        prelude += "from orchestrator.training_v2 import runner\n"
        # A thread that fails must not be overlooked.
        prelude += "threading.excepthook = lambda failed: (print(repr(failed.exc_value)), os._exit(99))\n"
        reads, writes = os.pipe()
        trainer = subprocess.Popen(
            [sys.executable, "-c", prelude + dedent(code)],
            stdout=writes,
            stderr=writes,
            cwd=ROOT,
            env=self.environment(),
            start_new_session=True,
        )
        os.close(writes)
        self.reports.keep_output(reads)
        self.trainers.append(trainer)
        return trainer

    def environment(self) -> dict[str, str]:
        """What a runtime gives a trainer: nothing secret."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        ours = {RUN_FOLDER: str(self.folder), RUN_ID: self.run_id, LAUNCH: str(self.launch), "PYTHONUNBUFFERED": "1"}
        return inherited | ours

    def run(self, code: str) -> str:
        """Let a trainer do this to its end, which must be a good one; returns what was printed."""
        trainer = self.start(code)
        ended = trainer.wait(PATIENCE)
        self.close()
        assert ended == 0, self.log()
        return self.log()

    def close(self) -> None:
        """End the launch; everything must be stored."""
        assert self.reports.close(PATIENCE), self.log()

    def log(self) -> str:
        """What was printed and kept."""
        try:
            return b"".join(read_log(self.run_id, self.launch)).decode()
        except Unavailable:
            return ""  # nothing was ever stored

    def wait_for(self, printed: str) -> None:
        """Wait until a trainer has printed this."""
        wait_until(lambda: printed in self.log(), f"a trainer says {printed!r}")


@contextmanager
def supervised(run_id: str, launch: int = 1, *, shared: bool = False) -> Iterator[Supervised]:
    """A launch of a run whose supervisor has arrived."""
    # Not below a test's own folder, whose path may be too long for a socket.
    with TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / CONFIG).write_text(json.dumps({"epochs": 3}))
        ours = Supervised(Path(folder), run_id, launch, shared=shared)
        ours.reports.open()
        try:
            yield ours
        finally:
            for trainer in ours.trainers:
                if trainer.poll() is None:
                    os.killpg(trainer.pid, signal.SIGKILL)
                trainer.wait()
            ours.reports.close(0)
