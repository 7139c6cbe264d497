"""The rate and the time left that a watched job shows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.cli.pace import WINDOW, Pace


def test_nothing_is_said_before_the_second_look() -> None:
    pace = Pace()
    pace.look(0.0, 10)
    assert pace.rate is None
    assert pace.remaining(5) is None


def test_the_rate_smooths_over_flushes_and_forgets_what_is_long_past() -> None:
    pace = Pace()
    for second in range(100):
        pace.look(float(second), 0 if second < 50 else 1000 * (second - 50))
    assert pace.rate == pytest.approx(1000)
    assert pace.remaining(500) == timedelta(seconds=0.5)
    for second in range(100, 100 + 2 * int(WINDOW)):
        pace.look(float(second), 49_000)
    assert pace.rate == 0
    assert pace.remaining(500) is None


def test_a_retry_that_forgets_failures_starts_the_measuring_anew() -> None:
    pace = Pace()
    for second, count in enumerate([0, 100, 90, 100]):
        pace.look(float(second), count)
    assert pace.rate == 10
