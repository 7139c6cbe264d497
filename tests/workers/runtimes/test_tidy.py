"""Tidying: folders go once they are days old, and their launches over."""

from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta

import pytest

from orchestrator.training_v2.models import RunState
from tests.support.local_runs import Stage
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import here
from workers.runtimes.tidy import KEPT, tidy


def age(folder: LaunchFolder, by: timedelta = KEPT + timedelta(hours=1)) -> None:
    """Make a folder older than it is."""
    then = time.time() - by.total_seconds()
    os.utime(folder.path, (then, then))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_only_what_is_old_and_over_and_dead_is_removed(stage: Stage) -> None:
    live, ended = stage.create(), stage.create("pass")
    stage.step_until(live, RunState.JOB_CREATED)
    stage.finish(ended)
    stage.wait_cleared(ended)
    root = stage.runtime.root
    kept = [stage.folder(live), LaunchFolder(root / "forgotten-1"), LaunchFolder(root / "alive-1")]
    gone = [stage.folder(ended), LaunchFolder(root / f"{live}-0"), LaunchFolder(root / "deleted-1")]
    for folder in [kept[0], kept[1], *gone[1:]]:
        folder.claim(None)
    kept[2].claim(here())
    assert tidy() == 0
    for folder in [kept[0], kept[2], *gone]:
        age(folder)
    assert tidy() == 3
    assert all(folder.path.exists() for folder in kept)
    assert not any(folder.path.exists() for folder in gone)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_there_may_be_no_folder_yet(stage: Stage) -> None:
    assert tidy() == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_else_is_in_the_folder_stays(stage: Stage) -> None:
    mine = LaunchFolder(stage.runtime.root / "my-thesis")
    mine.path.mkdir(parents=True)
    (mine.path / "chapter 1").write_text("In the beginning")
    age(mine)
    note = stage.runtime.root / "notes-1.txt"
    note.write_text("mine, too")
    os.utime(note, (0, 0))
    assert tidy() == 0
    assert (mine.path / "chapter 1").exists()
    shutil.rmtree(mine.path)
    note.unlink()
