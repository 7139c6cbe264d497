"""Log lines as a collector reads them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PROGRAM = """
import logging, structlog
from orchestrator.logs import configure_logging
configure_logging()
structlog.get_logger("ours").warning("said", unit="u1", size=3)
logging.getLogger("theirs").warning("said %s", "too")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("ours").exception("broke")
    logging.getLogger("theirs").exception("broke")
"""


def test_ours_and_the_libraries_lines_are_json_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LOG_FORMAT", "json")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    ours, theirs, *broken = [json.loads(line) for line in ran.stderr.splitlines()]
    assert (ours["event"], ours["unit"], ours["size"], ours["level"]) == ("said", "u1", 3, "warning")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("said too", "theirs", "warning")
    assert all(line["timestamp"].endswith("Z") for line in (ours, theirs))
    assert ["ZeroDivisionError" in line["exception"] for line in broken] == [True, True]
