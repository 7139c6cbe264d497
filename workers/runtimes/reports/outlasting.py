"""What is done again while the database or the blob store is away, and no longer than the launch lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.training_v2.exceptions import StaleLaunch

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Seconds between two tries.
PAUSE = 0.5


class GivenUp(OrchestratorError):
    """The launch ended before the database or the blob store came back."""


class Outlasting:
    """Tries again, for all threads of a launch, until the launch is stale or its time is up."""

    def __init__(self) -> None:
        #: Whether a report was refused because the launch is over.
        self.is_stale = False
        #: Whether the last try of anything failed because something is away.
        self.is_waiting = False
        self._ended = threading.Event()
        self._deadline = float("inf")

    @property
    def is_over(self) -> bool:
        """Whether there is no point in trying anything any more."""
        return self.is_stale or time.monotonic() > self._deadline

    @property
    def left(self) -> float:
        """Seconds in which things are tried."""
        return 0.0 if self.is_stale else max(0.0, self._deadline - time.monotonic())

    def end(self, within: float) -> None:
        """Give up what does not succeed within so many seconds."""
        self._deadline = time.monotonic() + within

    def until_done(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Do `work`, which may be done any number of times, until it succeeds or is refused.

        Raises:
            StaleLaunch: it was refused, or another thing was before, because the launch is over.
            GivenUp: the time is up.
        """
        reported = 0.0
        while True:
            try:
                done = work(*args, **options)
                self.is_waiting = False
                return done
            except StaleLaunch:
                self.is_stale = True
                self._ended.set()
                raise
            except (DataError, IntegrityError):
                raise  # no database will ever take it
            except (SQLAlchemyError, Unavailable, OSError) as error:
                self.is_waiting = True
                if self.is_over:
                    raise GivenUp(f"the launch is over, and still: {error}") from error
                if (now := time.monotonic()) > reported + 10:
                    reported = now
                    log.warning("reports_wait", error=str(error))
            self._ended.wait(min(PAUSE, self.left))
