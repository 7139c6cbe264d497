"""Metrics and progress on their way into the database: in order, each once, and never more than memory bears."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from orchestrator.training_v2 import intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.models import Progress
from workers.runtimes.reports.outlasting import GivenUp, Outlasting

log = structlog.get_logger(__name__)

#: Metrics in one transaction.
BATCH = 10_000
#: Metrics in memory; whoever brings more has to wait.
FULL = 10 * BATCH


class Measurements:
    """What was measured and is not stored yet, and the thread that stores it."""

    def __init__(self, run_id: str, launch: int, outlasting: Outlasting) -> None:
        self._run_id = run_id
        self._launch = launch
        self._outlasting = outlasting
        self._changed = threading.Condition()
        self._metrics: list[NewMetric] = []
        self._progress: list[Progress] | None = None
        #: Metrics of this launch that are stored.
        self._position = 0
        #: How often progress was taken, and up to which of these it is stored.
        self._replaced = self._kept = 0
        self._is_storing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="measurements", daemon=True)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def add(self, metrics: Sequence[NewMetric]) -> None:
        """Take metrics, which must have been checked, as soon as there is room.

        Raises:
            StaleLaunch: the launch is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._metrics) < FULL or self._is_closed)
            self._check()
            self._metrics.extend(metrics)
            self._changed.notify_all()

    def replace(self, progress: list[Progress]) -> None:
        """Take the run's whole progress, instead of what was not stored yet.

        Raises:
            StaleLaunch: the launch is over.
        """
        with self._changed:
            self._check()
            self._progress = progress
            self._replaced += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is stored that was taken until now.

        Raises:
            StaleLaunch: the launch is over.
        """
        with self._changed:
            metrics, replaced = self._position + len(self._metrics), self._replaced
            self._changed.wait_for(lambda: (self._position >= metrics and self._kept >= replaced) or self._is_closed)
            self._check()

    def close(self, within: float) -> bool:
        """Wait until everything is stored, so many seconds at most, and end; whether everything was."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle or self._is_closed, within)
            is_stored = self._is_idle
            self._is_closed = True
            self._changed.notify_all()
        return is_stored

    @property
    def _is_idle(self) -> bool:
        return not self._metrics and self._progress is None and not self._is_storing

    def _check(self) -> None:
        if self._is_closed:
            raise StaleLaunch(self._run_id, self._launch)

    def _run(self) -> None:
        try:
            while self._store():
                pass
        except (StaleLaunch, GivenUp) as error:
            log.warning("measurements_lost", run=self._run_id, launch=self._launch, error=str(error))
        except Exception:
            # Nobody else would tell; the trainer hears that its launch is over, which is then the case.
            log.exception("measurements_failed", run=self._run_id, launch=self._launch)
        finally:
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()

    def _store(self) -> bool:
        """Store what there is, or wait for it; returns whether there may be more."""
        with self._changed:
            self._changed.wait_for(lambda: self._metrics or self._progress is not None or self._is_closed)
            if self._is_closed:
                return False
            batch, progress = self._metrics[:BATCH], self._progress
            self._progress, self._is_storing = None, True
            replaced = self._replaced
        until_done = self._outlasting.until_done
        if batch:
            until_done(intake.record_metrics, self._run_id, self._launch, self._position, batch)
        if progress is not None:
            until_done(intake.record_progress, self._run_id, self._launch, progress)
        with self._changed:
            self._position += len(batch)
            self._kept = replaced
            del self._metrics[: len(batch)]
            self._is_storing = False
            self._changed.notify_all()
        return True
