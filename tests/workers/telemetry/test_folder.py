"""A worker's folder lives as long as the worker, and what a killed one left behind is no verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from workers import health
from workers.telemetry import folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def leave(made: Path, *, healthy: bool = True, age: float = 0) -> None:
    """A verdict that is `age` seconds old."""
    reasons = [] if healthy else ["broken"]
    status = {"name": "one@here", "pid": 1, "healthy": healthy, "reasons": reasons}
    folder.write(made / folder.STATUS, json.dumps({**status, "at": time.monotonic() - age, "valid_for": 15}))


def test_a_folder_is_held_by_its_maker_and_nobody_else_can_read_it() -> None:
    made = folder.make()
    assert folder.is_held(made)
    assert folder.folders() == [made]
    assert [path.stat().st_mode & 0o077 for path in (made, folder.root())] == [0, 0]


def test_a_killed_process_s_folder_is_no_verdict_and_goes_with_the_next_start(place: Path) -> None:
    program = (
        "import os, signal; from workers.telemetry import folder; folder.make(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "TMPDIR": str(place)}, check=False)
    (left,) = folder.folders()
    leave(left)
    assert not folder.is_held(left)
    assert health.main([]) == 1
    made = folder.make()
    assert folder.folders() == [made]


def test_a_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = folder.root()
    taken.mkdir()
    owner = taken.stat().st_uid
    monkeypatch.setattr(folder, "root", lambda: taken)
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match="TMPDIR"):
        folder.make()


@pytest.mark.parametrize(
    "names, healthy, age, code, said",
    [
        ([], True, 0, 0, "one@here (pid 1): healthy\n"),
        ([], False, 0, 1, "one@here (pid 1): broken\n"),
        (["one@here"], True, 0, 0, "one@here (pid 1): healthy\n"),
        (["two@here"], True, 0, 1, "no two@here runs here\n"),
        ([], True, 60, 1, "one@here (pid 1): it has said nothing for 60 s\n"),
    ],
)
def test_a_probe_s_exit_code_says_what_the_verdict_says(
    names: list[str], healthy: bool, age: float, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(folder.make(), healthy=healthy, age=age)
    assert (health.main(names), capsys.readouterr().out) == (code, said)


def test_where_no_worker_ever_ran_a_probe_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert (health.main([]), capsys.readouterr().out) == (1, "no worker runs here\n")
