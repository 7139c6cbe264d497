"""What becomes of an occurrence when its job is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator import ledger, schedules
from orchestrator.errors import RequestIdReused
from orchestrator.schedules.firing import fire
from tests.support.schedules import create

pytestmark = pytest.mark.usefixtures("database")


def test_an_occurrence_finds_the_job_that_a_killed_attempt_submitted_before_the_schedule_was_changed() -> None:
    def refuse(spec: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        raise RequestIdReused(f"{options['request_id']} was submitted without {spec}", job_id="the first")

    schedule = create(spec={"changed": True})
    schedules.run_schedule_now(schedule.id)
    [unit] = ledger.list_units()
    lease = ledger.claim(unit.id, "test")
    assert lease is not None
    assert fire(lease, {"test": refuse}) == ledger.Done()
    [occurrence] = schedules.list_occurrences(schedule.id)
    assert (occurrence.job_id, occurrence.state) == ("the first", schedules.OccurrenceState.FIRED)
