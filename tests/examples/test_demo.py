"""The demo, as a stranger runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.processes import ROOT, wait_until


def test_the_demo_infers_over_real_digits_and_leaves_no_process_behind(tmp_path: Path) -> None:
    """One command from nothing to an accuracy; what it leaves is its folder."""
    # The fixtures point at a broker that is not there; the demo must bring its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    command = [sys.executable, "-m", "examples.digits", "--json", "--folder", str(tmp_path / "demo")]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert (summary["status"], summary["datums"], summary["failed"]) == ("succeeded", 597, 0)
    assert summary["accuracy"] > 0.9
    assert (summary["trained"]["metrics"], summary["trained"]["checkpoints"][-1]) == (40, 20)
    exported, retained = summary["exported"], summary["retained"]
    assert (exported["inferences"], exported["images"], exported["same"]) == (597, 597, True)
    assert (retained["listed"], retained["deleted"], retained["left"]) == (597, 596, 1)
    assert Path(summary["confusion_picture"]).read_bytes().startswith(b"\x89PNG")
    wait_until(lambda: not processes_of(tmp_path), "everything that the demo started has ended")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes whose command names the folder, or whose environment has it as their home."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) or str(folder) in process.environ().get(
                "ORCHESTRATOR_HOME", ""
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
