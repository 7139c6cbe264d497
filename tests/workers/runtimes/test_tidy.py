"""Tidying: processes of launches that are over go at once, their folders once they are days old."""

from __future__ import annotations

import os
import shutil
import signal
import time
from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator.database import writing
from orchestrator.training_v2.models import RunState
from orchestrator.training_v2.tables import RunRow
from tests.support.local_runs import Stage, is_running, left_behind
from tests.support.processes import wait_until
from tests.support.training import state
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import here
from workers.runtimes.tidy import KEPT, sweep, tidy


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


def launch_elsewhere(run_id: str) -> None:
    """Let the run have been launched again by a host that cannot see this one."""
    with writing() as session:
        session.execute(update(RunRow).where(RunRow.id == run_id).values(launch=2, place="elsewhere"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_launch_that_was_given_up_elsewhere_is_ended_although_its_supervisor_is_frozen(stage: Stage) -> None:
    given_up, current = stage.start(), stage.start()
    folder = stage.folder(given_up)
    supervisor, trainer = stage.supervisor(given_up), stage.trainer(given_up)
    os.kill(supervisor, signal.SIGSTOP)
    assert sweep(stage.runtime) == 0
    launch_elsewhere(given_up)
    assert sweep(stage.runtime) == 1
    wait_until(lambda: not is_running(supervisor) and not is_running(trainer), "nothing is left of it")
    assert sweep(stage.runtime) == 0
    assert folder.is_over
    assert is_running(stage.trainer(current))
    assert state(current) is RunState.JOB_RUNNING


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_dead_supervisor_has_left_of_a_deleted_run_is_ended_unless_it_is_of_others(stage: Stage) -> None:
    folder = LaunchFolder(stage.runtime.root / "deleted-1")
    dead = here()._replace(start=1)
    with left_behind("deleted") as left:
        folder.prepare({"owner": "another database"}, {})
        folder.claim(dead)
        assert sweep(stage.runtime) == 0
        assert left.poll() is None
        folder.prepare({"owner": stage.runtime.owner}, {})
        assert sweep(stage.runtime) == 1
        assert left.wait(10) == -signal.SIGKILL
    assert sweep(stage.runtime) == 0
    assert folder.is_over
