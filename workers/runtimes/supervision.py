"""What a supervisor does, from the moment it has claimed its launch.

The order in which it ends things is what makes any death of its own harmless: first no process of the trainer is
left, then everything that it reported is stored, then how it ended is kept in the folder, then the database is told.
Whoever finds the supervisor dead finds the outcome in the folder, or none: then nobody knows how the run ended, and
it goes on from its latest checkpoint.
"""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import Unavailable
from orchestrator.logs import configure_logging
from orchestrator.settings import settings
from orchestrator.training_v2 import intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.runtime import Exited
from workers.runtimes.environment import trainer_environment
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import ProcessId, here, uptime
from workers.runtimes.liaison import Liaison
from workers.runtimes.limits import Cores
from workers.runtimes.reports import Reports
from workers.runtimes.signals import Signals
from workers.runtimes.trainer import Trainer

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Seconds between two looks at the trainer when nothing happens.
GLANCE = 1.0
#: Seconds between two tries to reach the database.
PAUSE = 0.5
#: Seconds within which signals to a trainer and to its supervisor are one event.
SAME_TIME = 0.2
#: Seconds a trainer has whose supervisor is told to end, as when the host shuts down.
SHUTDOWN_GRACE = 5.0
#: Seconds in which what the trainer left behind must be stored, and its end reported.
PATIENCE = 300.0


def supervise(folder: LaunchFolder, signals: Signals) -> None:
    """Train the folder's launch, unless it is over."""
    configure_logging()
    order = folder.order
    run_id, launch = order["run_id"], order["launch"]
    structlog.contextvars.bind_contextvars(run=run_id, launch=launch)
    if not _arrive(run_id, launch, within=settings().training_heartbeat_seconds):
        folder.note_outcome(started=False)
        return
    path = folder.short_path()
    try:
        Supervision(folder, path, signals).run()
    finally:
        folder.drop_short_path()


class Supervision:
    """One launch that has arrived. `path` is the folder, by a name that is short enough for its socket."""

    def __init__(self, folder: LaunchFolder, path: Path, signals: Signals) -> None:
        order = folder.order
        self.run_id: str = order["run_id"]
        self.launch: int = order["launch"]
        self.memory: int = order["memory"]
        self.folder = folder
        self.path = path
        self.signals = signals
        self.cores = Cores(folder.path.parent / "cores", Decimal(order["cpu"]))
        self.reports = Reports(self.run_id, self.launch, path)
        self.trainer = Trainer(self.run_id, self.launch, order["command"], self.cores.numbers)
        self.liaison = Liaison(self.run_id, self.launch, is_alive=self._is_alive, wake=signals.wake)
        #: Why the trainer was ended, as its exit will have it; None as long as it was not.
        self.ending: Exited | None = None

    def run(self) -> None:
        """Start the trainer, watch it to its end, and report that."""
        self.reports.open()
        self.liaison.start()
        exited = self._train()
        self._leave(replace(exited, stored=True) if self.reports.close(PATIENCE) else self._incomplete(exited))
        self.liaison.stop()
        for name in ("checkpoints", "loaded"):
            shutil.rmtree(self.folder.path / name, ignore_errors=True)

    def _train(self) -> Exited:
        environment = trainer_environment(self.run_id, self.launch, self.path, len(self.cores.numbers))
        try:
            output = self.trainer.start(environment)
        except OSError as error:
            return Exited(127, reason=f"its trainer could not be started: {error}")
        if self.trainer.id is not None:
            self._note_trainer(self.trainer.id)
        self.reports.keep_output(output)
        looked = uptime()
        while (code := self.trainer.reap()) is None:
            if uptime() - looked >= GLANCE:
                looked = uptime()
                self._check_memory()
            self._check_standing()
            self.signals.wait(self._pause())
        self.trainer.kill()
        return self._exited(code)

    def _note_trainer(self, trainer: ProcessId) -> None:
        try:
            self.folder.note_trainer(trainer)
        except OSError as error:
            log.warning("trainer_not_noted", error=str(error))  # it is found by its parent and its environment, too

    def _check_standing(self) -> None:
        """End the trainer if it must not go on, or has been told to and its time is up."""
        if self.liaison.is_stale or self.reports.stale:
            self._kill("its launch is over")
        elif self.liaison.is_cut_off:
            self._kill("its supervisor could not reach the database")
        elif (end := self._end()) is not None:
            if uptime() >= end:
                self._kill("it was told to end")
            elif self.ending is None:
                self.ending = Exited(0, signalled=True, reason="it was told to end")
                self.trainer.tell()

    def _check_memory(self) -> None:
        used = self.trainer.memory_above(self.memory)
        if used is not None:
            self._kill(f"out of memory: used {used:,} of {self.memory:,} bytes", signalled=False)

    def _kill(self, reason: str, *, signalled: bool = True) -> None:
        log.warning("trainer_killed", reason=reason)
        self.ending = self.ending or Exited(0, signalled=signalled, reason=reason)
        self.trainer.kill()

    def _end(self) -> float | None:
        """When the trainer must have ended, whoever wants it."""
        if signal.SIGTERM in self.signals.caught:
            self.signals.caught.discard(signal.SIGTERM)
            self.folder.request_end(uptime() + SHUTDOWN_GRACE)
        return min((end for end in (self.folder.end, self.liaison.end) if end is not None), default=None)

    def _pause(self) -> float:
        """Seconds until there is something to look at, if nobody wakes us before."""
        end = self._end()
        return GLANCE if end is None else min(GLANCE, end - uptime())

    def _exited(self, code: int) -> Exited:
        if self.ending is not None:
            return replace(self.ending, code=code)
        if code == -signal.SIGTERM:
            # When a host shuts down everybody is told at once, and the trainer may be the first to hear it.
            self._await_sigterm(SAME_TIME)
        if signal.SIGTERM in self.signals.caught:
            return Exited(code, signalled=True, reason="its supervisor was told to end")
        if code == -signal.SIGKILL and self.folder.end is not None:
            return Exited(code, signalled=True, reason="it was told to end")
        return Exited(code, reason=f"its trainer was ended by {signal.Signals(-code).name}" if code < 0 else "")

    def _await_sigterm(self, seconds: float) -> None:
        deadline = uptime() + seconds
        # Children of the trainer that end at the same time wake us, too.
        while signal.SIGTERM not in self.signals.caught and (left := deadline - uptime()) > 0:
            self.signals.wait(left)

    def _incomplete(self, exited: Exited) -> Exited:
        """The end of a trainer of whose reports some are lost: as if it had been ended, so that it trains again."""
        return replace(exited, signalled=True, reason="what it reported could not be stored")

    def _leave(self, exited: Exited) -> None:
        try:
            self.folder.note_outcome(**asdict(exited))
        except OSError as error:
            # On a full disk, say: the database is told all the same.
            log.warning("outcome_not_kept", error=str(error))
        try:
            _insist(lambda: intake.leave(self.run_id, self.launch, exited), within=PATIENCE)
        except StaleLaunch as error:
            log.info("left_in_silence", reason=str(error))

    def _is_alive(self) -> bool:
        """Whether there is a sign of life to give: the trainer trains, or what it left behind is being stored."""
        return self.trainer.code is not None or self.trainer.is_active


def _arrive(run_id: str, launch: int, *, within: float) -> bool:
    """Report the supervisor; False if its launch is over, or the database does not answer for so many seconds."""
    me = here()
    name = f"{socket.gethostname()} {me.pid} {me.start} {me.boot}"
    try:
        return _insist(lambda: intake.arrive(run_id, launch, name), within=within) is not None
    except StaleLaunch as error:
        log.warning("not_started", reason=str(error))
        return False


def _insist(work: Callable[[], T], *, within: float) -> T | None:
    """What `work` returns once the database answers; None if it does not for so many seconds."""
    deadline = uptime() + within
    while True:
        try:
            return work()
        except (SQLAlchemyError, Unavailable) as error:
            log.warning("database_away", error=str(error))
        if uptime() > deadline:
            return None
        time.sleep(PAUSE)
