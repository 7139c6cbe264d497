"""A process's signs of life: that it runs, and when it last claimed, renewed or settled a unit, or could have."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator import meters
from orchestrator.ledger.probe import probe
from orchestrator.settings import settings
from workers.telemetry import folder

log = structlog.get_logger(__name__)

#: Seconds between two signs of life, and between two looks at the windows.
INTERVAL = 1.0


@dataclass(slots=True)
class Sign:
    """What a process says of itself; times are seconds of the machine's monotonic clock."""

    pid: int
    seen_at: float
    able_at: float
    #: Why it could not claim the last time, if it could not; or what it waits for.
    trouble: str = ""


_able_at = 0.0


def prove() -> None:
    """This process has just claimed, renewed or settled: it needs no probe for a while."""
    global _able_at
    _able_at = time.monotonic()


def start(place: Path, pid: int) -> None:
    """Write this process's signs of life to `place`, from a thread of its own, as long as it lives."""
    prove()
    threading.Thread(target=_live, args=(place, pid), daemon=True, name="life").start()


def read(place: Path) -> Sign | None:
    """The last sign of life there, if there is one."""
    try:
        return Sign(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _live(place: Path, pid: int) -> None:
    # A frozen process writes nothing, nor does one that waits for a database without an end: either way
    # its last sign grows old.
    trouble, tried_at = "", 0.0
    while True:
        try:
            meters.sample()
            if time.monotonic() - max(_able_at, tried_at) > probe_after():
                _write(place, Sign(pid, time.monotonic(), _able_at, trouble or "the database has not answered yet"))
                tried_at = time.monotonic()
                trouble = _try_to_work()
            _write(place, Sign(pid, time.monotonic(), _able_at, trouble if _able_at < tried_at else ""))
        except OSError as error:
            log.warning("sign_of_life_not_written", error=str(error))
        time.sleep(INTERVAL)


def probe_after() -> float:
    """Seconds without a claim, a renewal or an outcome after which a probe is due."""
    return settings().liveness_seconds / 6


def _try_to_work() -> str:
    try:
        probe()
    except (SQLAlchemyError, OSError) as error:
        return f"{type(error).__name__}: {str(getattr(error, 'orig', None) or error).splitlines()[0]}"
    prove()
    return ""


def _write(place: Path, sign: Sign) -> None:
    folder.write(place, json.dumps(asdict(sign)))
