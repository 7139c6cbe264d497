"""The benchmark programs, with tiny numbers: that they run to their end and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT


@pytest.mark.faults
def test_every_benchmark_runs_to_its_end_and_cleans_up(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.smoke"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr[-3000:]
    for work in (
        "batch size 4",
        "refused requests",
        "spread of the rate",
        "first result, idle",
        "dispatch of a window",
        "label, rare",
        "signs of life",
        "longest transaction of the sweep",
    ):
        assert work in ended.stdout
    assert list(tmp_path.iterdir()) == []
