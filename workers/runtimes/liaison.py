"""What a supervisor and the database have to say to each other, in a thread of its own: the supervisor never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from orchestrator.training_v2 import intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.fence import Orders
from workers.runtimes.identity import uptime

log = structlog.get_logger(__name__)

#: Seconds between two questions for orders.
INTERVAL = 0.5


class Liaison:
    """Shows that a launch is alive while it is, and hears what is wanted of it.

    Parameters:
        is_alive: Whether there is a sign of life to give.
        wake: Called when there is news.
    """

    def __init__(self, run_id: str, launch: int, *, is_alive: Callable[[], bool], wake: Callable[[], None]) -> None:
        self.run_id = run_id
        self.launch = launch
        self.patience = settings().training_heartbeat_seconds
        self.is_stale = False
        #: When the trainer must have ended, on `uptime`'s clock; None as long as nobody wants that.
        self.end: float | None = None
        self._is_alive = is_alive
        self._wake = wake
        self._heard = self._shown = uptime()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liaison", daemon=True)

    def start(self) -> None:
        """Begin; the launch has just arrived."""
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for an answer that is under way."""
        self._over.set()

    @property
    def is_cut_off(self) -> bool:
        """Whether the database has been out of reach for so long that the launch may be taken for lost."""
        return uptime() - self._heard > self.patience

    def _run(self) -> None:
        while not self._over.wait(min(INTERVAL, self.patience / 6)):
            asked = uptime()
            try:
                orders = self._report(asked)
            except StaleLaunch:
                self.is_stale = True
                self._wake()
                return
            except (SQLAlchemyError, Unavailable) as error:
                log.warning("database_away", run=self.run_id, error=str(error))
            except Exception:
                # Whatever it is: a supervisor that hears nothing for long ends its trainer, as it should.
                log.exception("orders_failed", run=self.run_id)
            else:
                self._heard = asked
                self._heed(orders)

    def _report(self, now: float) -> Orders:
        if now - self._shown < self.patience / 3 or not self._is_alive():
            return intake.orders(self.run_id, self.launch)
        orders = intake.beat(self.run_id, self.launch)
        self._shown = now
        return orders

    def _heed(self, orders: Orders) -> None:
        if not orders.stop:
            return
        end = uptime() + orders.grace
        if self.end is None or end < self.end:
            # The first time it is news; from then on it only becomes more exact.
            is_news, self.end = self.end is None or end < self.end - INTERVAL, end
            if is_news:
                self._wake()
