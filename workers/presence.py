"""A worker's sign of life in the database, beside the broker's: `orchestrator doctor` reads it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import clock
from orchestrator.database import transact
from orchestrator.ledger import pulses

log = structlog.get_logger(__name__)

#: Seconds between two signs of life.
INTERVAL = 10.0

_stop = threading.Event()


def start(hostname: str, queues: Sequence[str], report: Callable[[], Mapping[str, object]] = dict) -> None:
    """Announce this worker, with what `report` says of it by then, again and again, until `stop`."""
    _stop.clear()
    details = {"pid": os.getpid(), "queues": list(queues)}
    announcer = threading.Thread(
        target=_announce, args=(f"worker:{hostname}", details, report), daemon=True, name="presence"
    )
    announcer.start()


def stop() -> None:
    """Let the announcements end; the last one is removed."""
    _stop.set()


def _announce(name: str, details: dict[str, object], report: Callable[[], Mapping[str, object]]) -> None:
    while True:
        try:
            # The worker's own clock, beside the database's: `orchestrator doctor` compares them.
            transact(pulses.beat, name, {**details, **report(), "clock": clock.now().isoformat()})
        except SQLAlchemyError as error:
            log.warning("presence_not_written", error=str(error))
        except Exception:
            # Such as a file of counters that its process was killed in making: a worker must not seem gone for that.
            log.exception("presence_not_written")
        if _stop.wait(INTERVAL):
            break
    transact(pulses.forget, name)
