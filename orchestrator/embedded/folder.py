"""The folder of an embedded instance: who holds it, its logs, and the addresses it leaves for other shells."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Conflict
from orchestrator.settings import ENV_FILE

#: Seconds to wait for the processes of an `up` that was killed a moment ago: they hold the lock to their end.
PATIENCE = 3.0


class Folder:
    """An embedded instance's folder; created when it is first held."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.environment_file = self.path / ENV_FILE
        self.targets_file = self.path / "metrics.json"

    @contextmanager
    def held(self) -> Iterator[int]:
        """Be the one `up` on this folder; yields the descriptor that holds the lock.

        Raises:
            Conflict: another `up` holds it; says which.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            # Whoever was killed has left it behind, with addresses where nobody listens.
            self.environment_file.unlink(missing_ok=True)
            try:
                yield lock
            finally:
                self.environment_file.unlink(missing_ok=True)
                self.targets_file.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def write_environment(self, values: Mapping[str, str]) -> None:
        """Leave settings where every process with this home folder finds them; readable by this user alone."""
        lines = ["# Written by `orchestrator up`, and gone when it ends.\n"]
        for name, value in values.items():
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"{name}='{quoted}'\n")
        write_private(self.environment_file, "".join(lines))

    def write_targets(self, found: Sequence[Mapping[str, object]]) -> None:
        """Leave word for Prometheus of where metrics are."""
        self.targets_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def new_log(self, name: str) -> Path:
        """An empty log; what the last run wrote is kept beside it."""
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        return log

    def _take(self, lock: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode().strip()
                if is_alive(holder) or time.monotonic() > deadline:
                    raise Conflict(
                        f"{self.path} is in use by another `orchestrator up` (pid {holder or 'unknown'}): "
                        "use that one, stop it, or name another folder"
                    ) from None
                time.sleep(0.05)
            else:
                return


def is_alive(pid: str) -> bool:
    """Whether a process with this number runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
