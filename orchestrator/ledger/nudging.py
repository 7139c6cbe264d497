"""Dispatch for whoever has just committed, in the background: nobody waits for a broker that is away.

What a nudge misses is done by beat's next tick.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import Unavailable
from orchestrator.ledger.dispatch import dispatch
from orchestrator.queues import CeleryPublisher, Publishable, Publisher

log = structlog.get_logger(__name__)

#: Seconds that a caller waits for what mostly takes some milliseconds.
PATIENCE = 0.02
#: Seconds for which a broker that was away is left alone: by then beat's tick has found it, if it is back.
REST = 1.0
#: Seconds that a process which ends gives to what it has not published yet.
LAST_PATIENCE = 1.0

_lock = threading.Lock()
_is_wanted = False
_thread: threading.Thread | None = None
_away_until = 0.0


class _Watched(CeleryPublisher):
    """Remembers that the broker was away."""

    def publish(self, units: Iterable[Publishable]) -> None:
        global _away_until
        try:
            super().publish(units)
        except Unavailable:
            _away_until = time.monotonic() + REST
            raise


def nudge() -> None:
    """Let `dispatch` run now; with a broker that does not answer, the caller goes on at once.

    Nothing is raised, since what the caller was asked to do is done.
    """
    global _is_wanted, _thread
    with _lock:
        _is_wanted = True
        # Whoever is at it looks again. To wait for it would be to wait for the broker.
        if (_thread is not None and _thread.is_alive()) or time.monotonic() < _away_until:
            return
        once = threading.Event()
        _thread = threading.Thread(target=_dispatch_while_wanted, args=(once,), daemon=True, name="nudge")
        _thread.start()
    once.wait(PATIENCE)


def settle_nudges(within: float = LAST_PATIENCE) -> None:
    """Wait until no nudge is at work, but not for longer than `within` seconds."""
    with _lock:
        thread = _thread
    if thread is not None:
        thread.join(within)


def _dispatch_while_wanted(once: threading.Event) -> None:
    global _is_wanted, _thread
    while True:
        with _lock:
            if not _is_wanted:
                _thread = None
                return
            _is_wanted = False
        dispatch_quietly(_Watched())
        once.set()


def dispatch_quietly(publisher: Publisher | None = None) -> None:
    """`dispatch`, which may fail here: its caller has committed, and beat does the same."""
    try:
        dispatch(publisher)
    except SQLAlchemyError as error:
        log.warning("nudge_failed", error=str(error))
    except Exception:
        log.exception("nudge_failed")


atexit.register(settle_nudges)
