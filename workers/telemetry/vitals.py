"""Whether a worker can still claim and finish: judged by what it did lately, never by an answer to a ping.

Each check is a moment at which something went well. Nothing here waits for anything: a check that
hangs only grows old, and what is older than `liveness_seconds` is a reason.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from orchestrator.errors import Unavailable
from orchestrator.queues import CeleryPublisher
from orchestrator.settings import settings
from workers.telemetry import life

log = structlog.get_logger(__name__)

#: Signs of life are in files of this name, one for each place in the pool.
SIGNS = "slot-*.json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a process does what it is there for, and if not, why; `checks` has seconds since each went well."""

    healthy: bool
    reasons: Sequence[str]
    checks: Mapping[str, float | None]


@dataclass(slots=True)
class Vitals:
    """What a worker's parent process knows of itself and its children."""

    folder: Path
    #: The consumer's event loop went round; None where there is no such loop to watch.
    loop_at: float | None = field(default_factory=time.monotonic)
    #: The broker answered a question on a connection of its own.
    broker_at: float = field(default_factory=time.monotonic)
    broker_trouble: str = ""
    #: Since when messages have waited that an idle place could have taken; None while none do.
    ignoring_since: float | None = None
    ignored_queue: str = ""
    started_at: float = field(default_factory=time.monotonic)
    #: A worker on its way out takes nothing, and nobody should kill it for that.
    stopping: bool = False

    def judge(self) -> Verdict:
        """The verdict of this moment."""
        now, patience = time.monotonic(), settings().liveness_seconds
        able_at, trouble = self._children(now, patience)
        checks = {
            "able to claim and settle": now - able_at,
            "event loop": None if self.loop_at is None else now - self.loop_at,
            "broker": now - self.broker_at,
            "messages taken": 0.0 if self.ignoring_since is None else now - self.ignoring_since,
        }
        reasons = {
            "able to claim and settle": trouble,
            "event loop": "the consumer is stuck or has no broker connection",
            "broker": self.broker_trouble or "the broker has not answered",
            "messages taken": f"messages wait in {self.ignored_queue}, a place is idle, and none is taken",
        }
        found = [
            f"{reasons[name]} (for {age:.0f} s)" for name, age in checks.items() if age is not None and age > patience
        ]
        healthy = self.stopping or not found
        return Verdict(healthy, () if healthy else found, checks)

    def slots(self) -> Mapping[str, int]:
        """How many places of the pool show life, and how many do not."""
        now, patience = time.monotonic(), settings().liveness_seconds
        signs = self._signs()
        alive = sum(now - sign.seen_at <= patience for sign in signs)
        return {"alive": alive, "silent": len(signs) - alive}

    def _signs(self) -> list[life.Sign]:
        return [sign for place in self.folder.glob(SIGNS) if (sign := life.read(place)) is not None]

    def _children(self, now: float, patience: float) -> tuple[float, str]:
        """When any child was last able to work, and what keeps the one that was."""
        signs = self._signs()
        if not signs:
            return self.started_at, "no pool process has started"
        best = max(signs, key=lambda sign: sign.able_at)
        if all(now - sign.seen_at > patience / 2 for sign in signs):
            return best.able_at, "no pool process shows life: all of them are frozen, dead, or wait for the database"
        return best.able_at, best.trouble or "no pool process can claim"


def watch_broker(vitals: Vitals, queues: Sequence[str], idle: Callable[[], bool], taken: Callable[[], int]) -> None:
    """Ask the broker, again and again, from a thread of its own, and note whether messages wait for nothing.

    `idle` says whether a place in the pool is free, `taken` how many messages were received so far.
    """
    watch = threading.Thread(target=_watch, args=(vitals, queues, idle, taken), daemon=True, name="watch-broker")
    watch.start()


def _watch(vitals: Vitals, queues: Sequence[str], idle: Callable[[], bool], taken: Callable[[], int]) -> None:
    publisher, before = CeleryPublisher(), -1
    while not vitals.stopping:
        try:
            was_idle, received = idle(), taken()
            depths = {queue: publisher.depth(queue) for queue in (queues if was_idle else queues[:1])}
            vitals.broker_at, vitals.broker_trouble = time.monotonic(), ""
            waiting = next((queue for queue, depth in depths.items() if depth), "")
            if was_idle and idle() and waiting and received == before:
                vitals.ignored_queue = waiting
                vitals.ignoring_since = vitals.ignoring_since or time.monotonic()
            else:
                vitals.ignoring_since = None
            before = received
        except Unavailable as error:
            vitals.broker_trouble, before = error.body, -1
        except Exception as error:
            # The watch must outlive whatever a transport may raise: its silence would look like the broker's.
            log.exception("broker_not_watched")
            vitals.broker_trouble, before = f"{type(error).__name__}: {error}", -1
        time.sleep(settings().liveness_seconds / 6)


@dataclass(slots=True)
class BeatVitals:
    """What beat knows of itself: when it last handed a tick to the broker."""

    sent_at: float = field(default_factory=time.monotonic)

    def judge(self) -> Verdict:
        """The verdict of this moment."""
        age = time.monotonic() - self.sent_at
        # Ticks further apart than that are no fault.
        patience = settings().liveness_seconds + 2 * settings().dispatch_interval
        reason = f"no tick was sent (for {age:.0f} s): beat is stuck, or the broker does not answer"
        healthy = age <= patience
        return Verdict(healthy, () if healthy else (reason,), {"tick sent": age})


def describe(verdict: Verdict, name: str) -> dict[str, object]:
    """The verdict as JSON has it."""
    checks = {check: None if age is None else round(age, 1) for check, age in verdict.checks.items()}
    return {
        "name": name,
        "pid": os.getpid(),
        "healthy": verdict.healthy,
        "reasons": list(verdict.reasons),
        "seconds_since": checks,
    }
