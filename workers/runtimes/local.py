"""The local runtime: a trainer is a process of this host, under a supervisor that outlives the worker that started it.

A trainer works in the worker's own folder, so that `["python", "-m", "examples.digits.train"]` means there what it
means to a person; "python" is the Python of the worker. What it writes it should write to `ORCHESTRATOR_RUN_FOLDER`.
Its environment is that of `environment.py`, its limits are those of `limits.py`.

Nothing is remembered but in the launch's folder. Who a process is, is told from its number, its start and the host's
boot: after a restart of the worker everything is found again, and after one of the host, that it is gone.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psutil

from orchestrator.database.urls import without_secrets
from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2.quantities import Demand, parse_quantity
from orchestrator.training_v2.runtime import (
    Alive,
    Exited,
    Gone,
    Launch,
    LaunchName,
    LaunchRefused,
    Observation,
    OutOfSight,
    job_id,
)
from workers.runtimes import processes
from workers.runtimes.folder import LOG, LaunchFolder, name_of
from workers.runtimes.identity import boot_id, find, process_namespace, uptime
from workers.runtimes.limits import host_cores
from workers.runtimes.processes import Marks
from workers.runtimes.signals import REQUEST

#: What keeps a folder from being written for a while, and not for ever.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
#: Seconds in which a supervisor has claimed its launch, on a host that does much else.
STARTED = 30.0
#: Seconds that a supervisor may go on to report after its trainer's end was due.
LINGER = 10.0
#: Seconds in which killed processes have gone.
KILLED = 2.0
#: Characters of a place, before what tells it from others that are called the same.
PLACE = 180


class LocalRuntime:
    """Launches training runs on this host, in folders of `ORCHESTRATOR_TRAINING_FOLDER`."""

    @property
    def root(self) -> Path:
        """The folder of the launches' folders."""
        return settings().launches_folder

    @property
    def place(self) -> str:
        """This host and the folder; two containers, or two hosts, may call both of them the same.

        Raises:
            Unavailable: the folder cannot be read or written now.
        """
        place = f"{socket.gethostname()}:{self.root}"
        return f"{place[:PLACE]} {_digest(place, self._folder_name(), process_namespace())}"

    @property
    def owner(self) -> str:
        """What tells launches of ours from those of others who have the same folder: containers, databases."""
        return _digest(self.place, without_secrets(settings().sqlalchemy_url))

    @property
    def capacity(self) -> Demand:
        """What the settings say, or else this process's cores and the host's memory."""
        chosen = settings()
        cpu, memory = chosen.training_cpu, chosen.training_memory
        return Demand(
            cpu=parse_quantity(cpu, "ORCHESTRATOR_TRAINING_CPU") if cpu else Decimal(len(host_cores())),
            memory=int(parse_quantity(memory, "ORCHESTRATOR_TRAINING_MEMORY") if memory else _host_memory()),
        )

    def submit(self, launch: Launch) -> Observation:
        """Start a supervisor for the launch, unless one has claimed it.

        Raises:
            LaunchRefused: there is no entry point, no such program, or its folder cannot be written.
            Unavailable: no supervisor could be started; nothing was.
        """
        folder = self._folder(launch)
        if not folder.is_claimed:
            self._prepare(folder, launch)
            _start_supervisor(folder)
        return self.observe([launch])[0]

    def observe(self, launches: Sequence[LaunchName]) -> Sequence[Observation]:
        """How the launches fare; what has outlived its supervisor is killed, since nobody else would."""
        place = self.place
        seen = [self._glance(launch) if launch.place == place else OutOfSight() for launch in launches]
        lost = [launch for launch, one in zip(launches, seen, strict=True) if one is None]
        left = processes.members([self._marks(launch) for launch in lost]) if lost else []
        rest = iter([Alive() if processes.strike(found) else Gone() for found in left])
        return [one if one is not None else next(rest) for one in seen]

    def terminate(self, launch: LaunchName, grace: timedelta) -> None:
        """Have the supervisor end the trainer within `grace`; without one, or without a supervisor, do it.

        A supervisor whose trainer is killed has a few seconds to report what the trainer has reported to it.
        """
        folder = self._folder(launch)
        if launch.place != self.place or folder.claim(None):
            return
        marks = self._marks(launch)
        if marks.supervisor is None:
            return
        now = uptime()
        end = folder.request_end(now + grace.total_seconds())
        standing = find(marks.supervisor)
        if standing is None or standing.is_held or now > end + LINGER:
            processes.kill_with_supervisor(marks, within=KILLED)
            return
        processes.send(marks.supervisor, REQUEST)
        if end <= now:
            processes.kill(marks, within=KILLED)

    def _glance(self, launch: LaunchName) -> Observation | None:
        """How a launch fares; None if its supervisor has died without a word, and may have left something behind."""
        folder = self._folder(launch)
        supervisor = folder.supervisor
        if supervisor is None:
            return Gone()
        is_alive = find(supervisor) is not None
        # Looked for last: whoever is found dead has left it before. And it counts also as long as he lives: it may be
        # that he cannot tell the database.
        outcome = folder.outcome
        if outcome is not None:
            return Exited(**outcome) if "code" in outcome else Gone()
        if is_alive:
            return Alive()
        return None if supervisor.boot == boot_id() else Gone()

    def _marks(self, launch: LaunchName) -> Marks:
        folder = self._folder(launch)
        return Marks(launch.run_id, launch.number, folder.supervisor, folder.trainer)

    def _folder_name(self) -> str:
        try:
            return name_of(self.root)
        except OSError as error:
            if error.errno in PASSING:
                raise Unavailable(f"the folder of the launches cannot be used now: {error}") from error
            return ""  # whatever is launched here is refused for the same reason, and its run says so

    def _folder(self, launch: LaunchName) -> LaunchFolder:
        return LaunchFolder(self.root / job_id(launch.run_id, launch.number))

    def _prepare(self, folder: LaunchFolder, launch: Launch) -> None:
        order = {
            "run_id": launch.run_id,
            "launch": launch.number,
            "command": command_of(launch),
            "cpu": str(launch.demand.cpu),
            "memory": launch.demand.memory,
            "owner": self.owner,
        }
        try:
            folder.prepare(order, launch.config)
        except OSError as error:
            if error.errno in PASSING:
                raise Unavailable(f"the folder of the launch cannot be written now: {error}") from error
            raise LaunchRefused(f"its config cannot be written to {folder.path}: {error}") from error
        except (TypeError, ValueError) as error:
            raise LaunchRefused(f"its config cannot be written to {folder.path}: {error}") from error


def command_of(launch: Launch) -> list[str]:
    """The command that trains, with its program as it is found from here.

    Raises:
        LaunchRefused: there is none, or no such program.
    """
    if not launch.entry_point:
        raise LaunchRefused("its blueprint has no entry point, which a local process needs")
    program, *arguments = launch.entry_point
    if program == "python":
        return [sys.executable, *arguments]
    found = shutil.which(program)
    if found is None:
        raise LaunchRefused(f"the program {program!r} of its entry point is not installed here, or not executable")
    return [found, *arguments]


def _start_supervisor(folder: LaunchFolder) -> None:
    command = [sys.executable, "-m", "workers.runtimes.supervisor", str(folder.path)]
    try:
        with (folder.path / LOG).open("ab") as output:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                timeout=STARTED,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"no supervisor could be started: {error}") from error
    if not folder.is_claimed:
        raise Unavailable(f"no supervisor could be started: see {folder.path / LOG}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _host_memory() -> int:
    return int(psutil.virtual_memory().total)
