"""Real processes for tests: started, awaited, killed, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tests.support.reaper import Reaper, kill_group

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that a process may take to become ready, on a machine that does much else.
PATIENCE = 60.0


def wait_until(condition: Callable[[], T], what: str, *, within: float = 60.0) -> T:
    """The first true answer of `condition`; asks again and again, and leaves most of a processor to what it waits for.

    Raises:
        TimeoutError: `what` did not come true `within` so many seconds.
    """
    deadline = (asked := time.monotonic()) + within
    while not (answer := condition()):
        if (answered := time.monotonic()) > deadline:
            raise TimeoutError(f"waited {within:g} s in vain: {what}")
        time.sleep(min(max(0.02, 4 * (answered - asked)), 0.5))
        asked = time.monotonic()
    return answer


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Running:
    """A process that leads a group of its own, and writes to a log file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        reaper: Reaper,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.log = log
        self.reaper = reaper
        self.ended = False
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else (),
            )
        reaper.watch(self.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, condition: Callable[[], object], *, within: float = PATIENCE) -> None:
        """Wait for `condition`; if the process ends or the time is up, raise with the end of its log."""
        try:
            wait_until(lambda: condition() or not self.is_running, "the process is ready", within=within)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log_tail()}") from None
        if not self.is_running:
            raise RuntimeError(f"it ended with {self.process.returncode} instead of becoming ready\n{self.log_tail()}")

    def send(self, number: signal.Signals) -> None:
        """Send `number` to the leader alone, as an operator or a container runtime would."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group: what a power cut looks like from outside."""
        if self.ended:
            return  # its number may already be somebody else's
        kill_group(self.pid)
        self.process.wait()
        self.ended = True
        self.reaper.forget(self.pid)

    def stop(self, *, number: signal.Signals = signal.SIGTERM, within: float = 20.0) -> int:
        """Ask it to end, and kill what is left of its group; return the leader's exit code."""
        if self.is_running:
            self.send(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        self.kill()
        return int(self.process.returncode)

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of the log, under its name."""
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.log.name} ---", *text])


class Workers:
    """Celery processes for one test, with the environment that its fixtures have set."""

    def __init__(self, folder: Path, reaper: Reaper) -> None:
        self.folder = folder
        self.reaper = reaper
        self.started: list[Running] = []

    def start(self, *queues: str, concurrency: int = 2, environment: Mapping[str, str] | None = None) -> Running:
        """A worker that serves `queues` (all, if none is named); returns when it is ready for messages."""
        name = f"worker-{len(self.started)}"
        options = ["--pool", "prefork", "--concurrency", str(concurrency), "--hostname", f"{name}@%h"]
        options += ["--without-mingle", "--without-gossip", "--loglevel", "INFO"]
        if queues:
            options += ["--queues", ",".join(queues)]
        worker = self.celery(name, "worker", *options, environment=environment)
        worker.wait_ready(lambda: " ready." in worker.log.read_text(encoding="utf-8", errors="replace"))
        return worker

    def beat(self, *, environment: Mapping[str, str] | None = None) -> Running:
        """Celery beat, with its schedule in the test's folder; returns when it ticks."""
        name = f"beat-{len(self.started)}"
        schedule = self.folder / f"{name}.schedule"
        beat = self.celery(
            name, "beat", "--schedule", str(schedule), "--pidfile", "", "--loglevel", "INFO", environment=environment
        )
        beat.wait_ready(lambda: "beat: Starting" in beat.log.read_text(encoding="utf-8", errors="replace"))
        return beat

    def celery(
        self,
        name: str,
        *arguments: str,
        app: str = "workers.celery",
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """`celery -A workers.celery …`, or of another composition root, as a process called `name`."""
        command = [sys.executable, "-m", "celery", "-A", app, *arguments]
        return self.run(name, command, environment=environment)

    def run(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Running:
        """Any other program, ended with the test like the rest."""
        started = Running(command, log=self.folder / f"{name}.log", reaper=self.reaper, environment=environment)
        self.started.append(started)
        return started

    def close(self) -> None:
        """Kill whatever still runs: a test that cares how a worker ends stops it itself."""
        for running in self.started:
            running.kill()

    def logs(self) -> list[tuple[str, str]]:
        """Name and last lines of every log, for the report of a test that failed."""
        return [(running.log.stem, running.log_tail()) for running in self.started]
