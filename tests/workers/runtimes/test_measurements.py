"""Metrics on their way into the database: whoever waits for his own does not wait for those of everybody else."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator.training_v2 import intake
from orchestrator.training_v2.measured import NewMetric
from workers.runtimes.reports.measurements import Measurements
from workers.runtimes.reports.outlasting import Outlasting


def test_a_flush_returns_although_others_never_stop_reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "record_metrics", lambda *_: time.sleep(0.02))
    measurements = Measurements("run", 1, Outlasting())
    measurements.start()
    is_over = threading.Event()

    def feed() -> None:
        while not is_over.wait(0.002):
            measurements.add([NewMetric(1, "loss", 1.0)])

    feeders = [threading.Thread(target=feed) for _ in range(4)]
    for feeder in feeders:
        feeder.start()
    flush = threading.Thread(target=measurements.flush)
    flush.start()
    flush.join(30)
    assert not flush.is_alive()
    is_over.set()
    for feeder in feeders:
        feeder.join()
    assert measurements.close(30)
