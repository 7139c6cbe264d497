"""What passes between the ledger and those who use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.ledger.lifecycle import UNFINISHED
from orchestrator.queues import QueueName

#: Attempts in a row that get nowhere after which a unit is given up, unless it says otherwise.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit to be added to a job; `key` names it within the job, so that adding twice adds once."""

    kind: str
    key: str
    queue: QueueName
    payload: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = ATTEMPTS
    #: What the unit needs that is outside of us, such as an endpoint; units of one gate wait for it together.
    gate: str | None = None
    #: What of it is done, or has failed, already: another unit had it before.
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one attempt to act on one unit; every write it makes names `attempt`."""

    unit_id: str
    attempt: int
    max_attempts: int
    kind: str
    queue: str
    job_id: str
    job_kind: str
    project_id: str
    owner: str
    payload: Mapping[str, Any]
    postponements: int
    gate: str | None = None

    @property
    def follows_failure(self) -> bool:
        """Whether the attempt before this one got nowhere: it failed, or fell silent, and left nothing behind."""
        return self.max_attempts - self.attempt < ATTEMPTS - 1


@dataclass(frozen=True, slots=True)
class Published:
    """A unit whose id is on its way to the broker."""

    id: str
    kind: str
    queue: str
    job_id: str
    key: str
    gate: str | None = None

    @property
    def label(self) -> str:
        """What Flower shows as the task's arguments."""
        return f"job={self.job_id} {self.key}"


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's counts, summed over its units; nothing else stores them."""

    done: int
    failed: int
    in_flight: int
    units: Mapping[str, int]

    @property
    def unfinished(self) -> int:
        """Units that still have something to do."""
        return sum(self.units.get(state, 0) for state in UNFINISHED)


@dataclass(frozen=True, slots=True)
class UnitSummary:
    """A unit as a person sees it."""

    id: str
    job_id: str
    job_kind: str
    kind: str
    key: str
    queue: str
    state: str
    attempt: int
    max_attempts: int
    done_count: int
    failed_count: int
    stale_writes: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


# Outcomes of an attempt: what `workers.unit` makes of each is in `leases.py`.


@dataclass(frozen=True, slots=True)
class Done:
    """The unit's effect is stored."""


@dataclass(frozen=True, slots=True)
class Split:
    """The unit's effect is stored as far as `payload` now says; `rest` are units of their own for what it leaves.

    What they have done already is theirs from now on.
    """

    payload: Mapping[str, Any]
    rest: Sequence[NewUnit]


@dataclass(frozen=True, slots=True)
class Again:
    """There is more to do and nothing went wrong: come back after `delay` seconds."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Postponed:
    """Something outside the unit is away: come back later, without using up an attempt."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; another may succeed."""

    error: str


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The unit failed in a way that no further attempt can mend."""

    error: str


Outcome = Done | Split | Again | Postponed | Failed | Hopeless
