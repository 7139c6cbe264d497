"""A process of an embedded instance: started, restarted when it dies, told to end."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.embedded.group import Group

#: Seconds before a dead child is started again: doubled each time from the first to the last.
FIRST_DELAY, LAST_DELAY = 1.0, 30.0
#: A child that has lived this many seconds starts again with the first delay.
HEALTHY = 60.0


class Child:
    """A command that should run all the time."""

    def __init__(
        self, name: str, command: Sequence[str], group: Group, *, log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.command = command
        self.group = group
        self.log = log
        self.environment = environment
        self.delay = FIRST_DELAY
        self.due: float | None = None
        self.start()

    def start(self) -> None:
        """Start it, now."""
        self.process = self.group.start(self.command, environment=self.environment, log=self.log)
        self.started = time.monotonic()
        self.due = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def tend(self) -> str | None:
        """Start it again if it is dead and its time has come; says what happened, if something did."""
        if self.due is None:
            return None if self.is_running else self._mourn()
        if time.monotonic() >= self.due:
            self.start()
            return f"{self.name} was started again"
        return None

    def tell(self, number: signal.Signals) -> None:
        """Send a signal; a child that is dead does not mind."""
        self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self, lines: int = 3) -> str:
        """The end of its log."""
        return " / ".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])

    def _mourn(self) -> str:
        now = time.monotonic()
        if now - self.started >= HEALTHY:
            self.delay = FIRST_DELAY
        self.due = now + self.delay
        cause, delay = ending(self.process.returncode), self.delay
        self.delay = min(2 * self.delay, LAST_DELAY)
        return f"{self.name} {cause}; it is started again in {delay:g} s (see {self.log})"


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
