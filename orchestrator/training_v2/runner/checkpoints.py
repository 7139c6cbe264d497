"""Checkpoints, as training code saves and loads them: folders."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import index
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, SupportsIndex, TypeVar

from orchestrator.errors import OrchestratorError
from orchestrator.training_v2.exceptions import CheckpointDoesNotExistError, RunnerError, ValidationError
from orchestrator.training_v2.measured import check_step
from orchestrator.training_v2.runner import wire
from orchestrator.training_v2.runner.channel import ask
from orchestrator.training_v2.runner.stream import flush
from orchestrator.training_v2.runner.surroundings import CHECKPOINTS, LOADED, surroundings

T = TypeVar("T")

#: Files that are on their way at a time.
AT_ONCE = 4
#: How often the latest checkpoint may be deleted, by its run's policy, just as it is being loaded.
TRIES = 5


class LoadedCheckpoint(NamedTuple):
    """A checkpoint whose files are in the folder `path`."""

    path: Path
    id: str
    global_step: int


@contextmanager
def save_checkpoint(global_step: SupportsIndex) -> Iterator[Path]:
    """Save what the block writes to the folder that it is given, whose name is the checkpoint's id.

    The checkpoint is complete once the block is left: leaving it waits until every file is stored, and so is every
    metric that was reported before. If the block, or that, fails, the checkpoint is discarded. Folders in it may be
    nested; empty ones are not kept. Links to files are followed, links to folders are refused.

    Raises:
        NotInARun: this process is no run's trainer.
        ValidationError: the step is negative; or what was written is no file, or has a name that not every
            system can have.
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    check_step(step := index(global_step))
    folder = surroundings().folder / CHECKPOINTS / ask(wire.Begin(step), wire.Begun).checkpoint_id
    try:
        folder.mkdir(parents=True)
        yield folder
        # Which checkpoints are kept may depend on a metric of their step.
        flush()
        _at_once(lambda path: _keep(folder, path), list(files_below(folder)))
        ask(wire.Complete(folder.name), wire.Done)
    except BaseException:
        with suppress(OrchestratorError):
            ask(wire.Discard(folder.name), wire.Done)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(checkpoint_id: str) -> Path:
    """The folder with the files of a checkpoint, of this run or another; loaded once by each launch.

    Raises:
        NotInARun: this process is no run's trainer.
        CheckpointDoesNotExistError: there is no such checkpoint.
        TrainingConflict: it is incomplete.
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    return _load(ask(wire.Find(checkpoint_id), wire.Found)).path


def load_latest_checkpoint() -> LoadedCheckpoint | None:
    """The newest complete checkpoint of this run, over all its launches; None if there is none: start afresh.

    Raises:
        NotInARun: this process is no run's trainer.
        SupervisorGone: the supervisor has gone.
        StaleLaunch: the launch is over: end the trainer.
    """
    for left in reversed(range(TRIES)):
        try:
            found = ask(wire.Find(None), wire.Found)
        except CheckpointDoesNotExistError:
            return None
        try:
            return _load(found)
        except CheckpointDoesNotExistError:
            if not left:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def files_below(folder: Path) -> Iterator[str]:
    """The paths of the files in a folder, sorted.

    Raises:
        ValidationError: something there is neither a file nor a folder.
        OSError: a folder cannot be read.
    """
    for current, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        here = Path(current)
        for name in sorted(files) + [each for each in folders if (here / each).is_symlink()]:
            path = here / name
            if not path.is_file():
                raise ValidationError(
                    f"checkpoint file {str(path.relative_to(folder))!r} is no file: links to folders, sockets and "
                    "the like cannot be saved"
                )
            yield path.relative_to(folder).as_posix()


def _refuse(error: OSError) -> None:
    # Left out in silence, what is in there would be missing from a checkpoint that says that it is complete.
    raise error


def _keep(folder: Path, path: str) -> None:
    with (folder / path).open("rb") as file:
        ask(wire.Keep(folder.name, path), wire.Done, file.fileno())


def _load(found: wire.Found) -> LoadedCheckpoint:
    loaded = surroundings().folder / LOADED
    target = loaded / found.checkpoint_id
    if not target.is_dir():
        loaded.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=loaded, prefix=".", ignore_cleanup_errors=True) as partial:
            whole = Path(partial, found.checkpoint_id)
            whole.mkdir()
            _at_once(lambda number: _fill(whole, found, number), range(len(found.paths)))
            # Another thread or process may have been faster; its files are the same.
            with suppress(OSError):
                whole.rename(target)
            if not target.is_dir():
                raise RunnerError(f"the checkpoint cannot be put into {loaded}")
    return LoadedCheckpoint(target, found.checkpoint_id, found.global_step)


def _fill(folder: Path, found: wire.Found, number: int) -> None:
    path = folder / found.paths[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        ask(wire.Fill(found.checkpoint_id, number), wire.Done, file.fileno())


def _at_once(work: Callable[[T], None], on: Sequence[T]) -> None:
    """Do the work on each, several at a time; after an error nothing new is begun.

    A pool of the standard library would refuse to work for threads that outlive the main one.
    """
    left, failures = SimpleQueue[T](), list[BaseException]()
    for each in on:
        left.put(each)

    def take_turns() -> None:
        with suppress(Empty):
            while not failures:
                each = left.get_nowait()
                try:
                    work(each)
                except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
                    failures.append(error)

    helpers = [threading.Thread(target=take_turns, daemon=True) for _ in range(min(AT_ONCE, len(on)) - 1)]
    for helper in helpers:
        helper.start()
    take_turns()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]
