"""What a runtime is to the control plane: it starts, shows and ends trainers, and forgets nothing it was told.

Implementations are in `workers.runtimes`. A runtime may be asked the same thing any number of times, by
workers that were killed half-way and by others after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.training_v2.quantities import Demand


class LaunchRefused(OrchestratorError):
    """The runtime will never start this launch; the message says why."""


@dataclass(frozen=True, slots=True)
class LaunchName:
    """One start of a run's trainer: (`run_id`, `number`) names it, everywhere and for ever."""

    run_id: str
    number: int
    #: Where it is to be: the runtime's `place`.
    place: str


@dataclass(frozen=True, slots=True)
class Launch(LaunchName):
    """A launch, and what is to be started."""

    image: str | None
    entry_point: Sequence[str] | None
    demand: Demand
    config: Mapping[str, Any]


def job_id(run_id: str, launch: int) -> str:
    """The documented name of a run's launch."""
    return f"{run_id}-{launch}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The launch is known and has not begun; `reason` says what it waits for."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alive:
    """Its trainer runs, as far as the runtime can tell."""


@dataclass(frozen=True, slots=True)
class Exited:
    """Its trainer has ended, and no process of it is left but for its supervisor, which may still have to report.

    `signalled`: it ended because it was told to, by SIGTERM or SIGKILL of the runtime.
    `stored`: everything that it reported is known to be stored.
    """

    code: int
    signalled: bool = False
    reason: str = ""
    stored: bool = field(default=False, compare=False)

    @property
    def is_last_word(self) -> bool:
        """Whether it says all there is to say of a launch, also of one that was given up meanwhile."""
        return self.stored and not self.signalled


@dataclass(frozen=True, slots=True)
class Gone:
    """No process of it is left, or ever was, and nobody knows how it ended; `reason` says what is known of why."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class OutOfSight:
    """It may run at a place that the runtime cannot look at from here."""


Observation = Waiting | Alive | Exited | Gone | OutOfSight


class Runtime(Protocol):
    """Where trainers run. Every method returns at once, and raises `Unavailable` when it cannot tell."""

    @property
    def place(self) -> str:
        """Where this worker's launches go, and no others do: a host, or a cluster and namespace."""

    @property
    def capacity(self) -> Demand | None:
        """What fits there at a time; None when whatever comes waits there by itself, as in a cluster."""

    def submit(self, launch: Launch) -> Observation:
        """Start the launch unless it was started before; a launch is started once, and never again.

        Raises:
            LaunchRefused: it can never be started; nothing of it is left.
        """

    def observe(self, launches: Sequence[LaunchName]) -> Sequence[Observation]:
        """How each of the launches fares, in their order."""

    def terminate(self, launch: LaunchName, grace: timedelta) -> None:
        """Tell its trainer to end (SIGTERM, once), and kill whatever is left of it after `grace` from now.

        Told again, the earlier end holds. With no grace at all it is killed. A launch that was never
        submitted can not be submitted any more.
        """


#: The runtimes of a worker by the names that runs have them under.
Runtimes = Mapping[str, Runtime]
