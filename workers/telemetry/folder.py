"""A worker's folder: there its processes leave their figures and signs of life, and it leaves its verdict."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The verdict, as JSON.
STATUS = "status.json"
#: Locked as long as the process that made the folder lives.
LOCK = "lock"


def root() -> Path:
    """Where this user's workers have their folders."""
    return Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}"


def make() -> Path:
    """A new folder for this process, removed at its end; what dead processes left behind is removed now.

    Raises:
        OSError: there is no place for temporary files, or somebody else owns ours.
    """
    root().mkdir(mode=0o700, exist_ok=True)
    if root().stat().st_uid != os.getuid():
        raise PermissionError(f"{root()} belongs to somebody else: set TMPDIR")
    with _held(root() / LOCK):
        for folder in folders():
            _remove_if_dead(folder)
        made = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root()))
        # Kept open: the lock says that this process lives, to other containers as well.
        lock = os.open(made / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def folders() -> list[Path]:
    """The folders of this user's workers, dead or alive."""
    return sorted(folder for folder in root().glob("*-*") if folder.is_dir())


def is_held(folder: Path) -> bool:
    """Whether the process that made the folder lives."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def write(path: Path, text: str) -> None:
    """Replace a small file, whole: whoever reads it sees the one before or this one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _remove_if_dead(folder: Path) -> None:
    if not is_held(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
