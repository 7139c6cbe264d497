"""How a trainer ended, as its supervisor finds out and says it, also when hardly anything works any more."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.training_v2.runtime import Exited
from tests.support.local_runs import Stage
from tests.support.processes import ROOT, wait_until
from tests.support.training import state
from workers.runtimes.folder import OUTCOME, LaunchFolder
from workers.runtimes.signals import Signals
from workers.runtimes.supervision import Supervision

#: A supervisor that must end a trainer which has become another user's.
POWERLESS = """
import os, signal, sys, time
from unittest.mock import Mock
import psutil
from workers.runtimes.trainer import Trainer
trainer = Trainer("run", 1, [sys.executable, "-c", "import time; time.sleep(600)"], [min(os.sched_getaffinity(0))])
os.close(trainer.start(dict(os.environ)))
may = psutil.Process.kill, os.killpg
psutil.Process.kill, os.killpg = Mock(side_effect=psutil.AccessDenied), Mock(side_effect=PermissionError)
trainer.kill()
assert trainer.is_active
assert trainer.reap() == -signal.SIGKILL
psutil.Process.kill, os.killpg = may
os.kill(trainer.id.pid, signal.SIGKILL)
"""


class Disturbed(Signals):
    """Wakings of which the first is not the one that is waited for."""

    def __init__(self) -> None:
        self.caught = set()
        self.waits = 0

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.waits += 1
        if self.waits == 2:
            self.caught.add(signal.SIGTERM)


def test_a_trainer_that_hears_of_a_shutdown_before_its_supervisor_was_told_to_end(home: Path, tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path / "run-1")
    order = {"run_id": "run", "launch": 1, "command": ["true"], "cpu": "1", "memory": 1 << 30, "owner": "me"}
    folder.prepare(order, {})
    supervision = Supervision(folder, folder.path, Disturbed())
    assert supervision._exited(-signal.SIGTERM) == Exited(-15, True, "its supervisor was told to end")
    supervision.reports.close(0)


def test_a_trainer_that_has_become_another_users_is_not_waited_for() -> None:
    subprocess.run([sys.executable, "-c", POWERLESS], check=True, timeout=100, cwd=ROOT)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_an_outcome_that_finds_no_room_on_the_disk_is_told_all_the_same(stage: Stage) -> None:
    run_id = stage.start("""
        import resource, time
        # As on a full disk: no file of the supervisor's can grow, its log's neither.
        resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        ready()
        sys.exit(3)
    """)
    wait_until(lambda: state(run_id) == "job_failed", "the supervisor has told the database")
    stage.wait_cleared(run_id)
    assert not (stage.folder(run_id).path / OUTCOME).exists()
