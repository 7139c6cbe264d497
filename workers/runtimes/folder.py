"""The folder of a launch: what it is told, who claimed it, until when it may run, how it ended.

Every record is written whole under another name first, so that who reads it finds all of it or nothing.
The standard library alone: a supervisor claims its launch before it imports anything else.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.runtimes.identity import ProcessId, boot_id

#: Records, by what they say.
ORDER, CLAIM, TRAINER, OUTCOME, LINK = "launch.json", "claim.json", "trainer.json", "outcome.json", "link.json"
#: What a request to end is called, before the instant on `uptime`'s clock, in milliseconds, that is the end.
END = "end-"
#: The name of a folder of launches, in it.
NAME = "name.json"
#: What supervisors print.
LOG = "supervisor.log"
#: Of two ends that are as close together, in seconds, the first stands for both.
CLOSE = 0.05
#: Bytes of a Unix socket's path that every system takes, less its name in the folder.
SOCKET_PATH = 100 - len("/socket")


@dataclass(frozen=True, slots=True)
class LaunchFolder:
    """One launch's folder, which may not exist."""

    path: Path

    def prepare(self, order: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write what a supervisor has to know, and what its trainer reads.

        Raises:
            OSError: it cannot be written.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(self.path / "config.json", config)
        _replace(self.path / ORDER, order)

    @property
    def order(self) -> dict[str, Any]:
        """What was asked for."""
        order = _read(self.path / ORDER)
        assert order is not None, "a launch is prepared before anybody supervises it"
        return order

    def claim(self, owner: ProcessId | None) -> bool:
        """Claim the launch for ever, for a supervisor or (None) for nobody; says whether it was free."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.is_claimed:
            return False  # also on a disk that is full
        return _create(self.path / CLAIM, _of(owner))

    @property
    def owner(self) -> str | None:
        """Whose launch it is, as its order says; None if nothing was ordered."""
        order = _read(self.path / ORDER)
        return None if order is None else str(order["owner"])

    @property
    def is_ours(self) -> bool:
        """Whether this is a launch's folder at all."""
        return any((self.path / record).is_file() for record in (CLAIM, ORDER))

    @property
    def is_claimed(self) -> bool:
        """Whether it can be claimed no more."""
        return (self.path / CLAIM).exists()

    @property
    def supervisor(self) -> ProcessId | None:
        """Who has claimed the launch; None if nobody has, or nobody ever will."""
        return _process(_read(self.path / CLAIM))

    @property
    def trainer(self) -> ProcessId | None:
        """The leader of the trainer's session, once it was started."""
        return _process(_read(self.path / TRAINER))

    def note_trainer(self, trainer: ProcessId) -> None:
        """Keep who the trainer is."""
        _replace(self.path / TRAINER, _of(trainer))

    @property
    def is_over(self) -> bool:
        """Whether it has an outcome."""
        return (self.path / OUTCOME).exists()

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How the trainer ended, once that and everything before it was reported, or never will be."""
        return _read(self.path / OUTCOME)

    def note_outcome(self, **outcome: Any) -> None:
        """Keep how the trainer ended."""
        _replace(self.path / OUTCOME, outcome)

    def request_end(self, at: float) -> float:
        """Ask the supervisor to have ended its trainer by `at`, on `uptime`'s clock; returns the earliest request."""
        earlier = self.end
        if earlier is not None and earlier <= at + CLOSE:
            return earlier
        # A name of its own for each instant: of requests made at the same time none can hide another.
        (self.path / f"{END}{at * 1000:.0f}-{boot_id()}").touch()
        return at

    @property
    def end(self) -> float | None:
        """When the trainer must have ended, as the earliest request has it; None without one."""
        found = (path.name.removeprefix(END).split("-", 1) for path in self.path.glob(f"{END}*"))
        return min((int(at) / 1000 for at, boot in found if boot == boot_id()), default=None)

    def short_path(self) -> Path:
        """The folder by a name short enough for its socket: its own, or that of a link among temporary files."""
        if len(os.fsencode(self.path)) <= SOCKET_PATH:
            return self.path
        link = Path(tempfile.mkdtemp(prefix="orchestrator-")) / "run"
        _replace(self.path / LINK, {"path": str(link)})
        link.symlink_to(self.path)
        return link

    def drop_short_path(self) -> None:
        """Remove the link that `short_path` made, if it did."""
        record = _read(self.path / LINK)
        if record is not None:
            link = Path(record["path"])
            with suppress(OSError):
                link.unlink(missing_ok=True)
                link.parent.rmdir()


def name_of(root: Path) -> str:
    """What tells a folder of launches from any other that has the same path, on another host or in another container.

    Whoever asks first makes it up.

    Raises:
        OSError: there is none, and none can be written.
    """
    record = _read(root / NAME)
    if record is None:
        root.mkdir(parents=True, exist_ok=True)
        _create(root / NAME, {"name": uuid.uuid4().hex})
        record = _read(root / NAME)
    assert record is not None, "nobody removes it"
    return str(record["name"])


def _create(path: Path, value: Mapping[str, Any]) -> bool:
    """Write a record that is never replaced; says whether there was none."""
    draft = _draft(path.parent, value)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _replace(path: Path, value: Mapping[str, Any]) -> None:
    _draft(path.parent, value).replace(path)


def _draft(folder: Path, value: Mapping[str, Any]) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=".draft-", dir=folder)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        # A record that a power cut left empty would be no record for ever.
        file.flush()
        os.fsync(descriptor)
    return Path(name)


def _of(process: ProcessId | None) -> dict[str, Any]:
    return {} if process is None else process._asdict()


def _process(record: Mapping[str, Any] | None) -> ProcessId | None:
    return ProcessId(**record) if record else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return found
