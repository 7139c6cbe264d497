"""Training code finds its run in its surroundings, and is told so where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.training_v2 import runner
from orchestrator.training_v2.runner.surroundings import LAUNCH, RUN_FOLDER, RUN_ID
from tests.support.processes import ROOT

NEEDS_A_RUN: list[Callable[[], object]] = [
    runner.load_config,
    lambda: runner.save_metric("x", 1, 1),
    lambda: runner.save_metrics([]),
    lambda: runner.save_progress([]),
    lambda: runner.save_checkpoint(1).__enter__(),
    lambda: runner.load_checkpoint("id"),
    runner.load_latest_checkpoint,
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a launch's; nobody listens there."""
    for name, value in ((RUN_FOLDER, str(tmp_path)), (RUN_ID, "run"), (LAUNCH, "1")):
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize("call", NEEDS_A_RUN)
def test_outside_a_run_an_error_says_how_to_start_one(call: Callable[[], object]) -> None:
    assert not runner.is_run()
    with pytest.raises(runner.NotInARun, match="orchestrator run create"):
        call()


def test_a_script_that_is_tried_by_hand_has_a_config_of_its_own() -> None:
    assert runner.load_config(default={"epochs": 1}) == {"epochs": 1}
    runner.flush()


def test_in_a_run_the_config_is_the_run_s(folder: Path) -> None:
    (folder / "config.json").write_text('{"epochs": 3, "name": "Zoë"}')
    assert runner.is_run()
    assert runner.load_config(default={"epochs": 1}) == {"epochs": 3, "name": "Zoë"}


def test_a_config_that_cannot_be_read_is_an_error_that_names_it(folder: Path) -> None:
    with pytest.raises(runner.RunnerError, match=r"config\.json"):
        runner.load_config()


@pytest.mark.parametrize("call", NEEDS_A_RUN[1:])
def test_where_nobody_listens_an_error_says_so(folder: Path, call: Callable[[], object]) -> None:
    with pytest.raises(runner.SupervisorGone):
        call()


def test_the_library_imports_nothing_that_is_installed() -> None:
    code = """
import sys
before = set(sys.modules)
from orchestrator.training_v2 import runner
ours = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(ours - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['orchestrator']"
