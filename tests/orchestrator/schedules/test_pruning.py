"""What is told of instants is forgotten after a while, and never decided again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator import ledger, schedules
from orchestrator.database import transact
from orchestrator.schedules import Overlap, pruning
from orchestrator.schedules.tables import ScheduleRow
from tests.orchestrator.schedules.test_decisions import CAUGHT_UP, FIRED, QUEUED, SKIPPED, emissions
from tests.support.schedules import at, create, occurrences

pytestmark = pytest.mark.usefixtures("database")

HOUR = timedelta(hours=1)
KEPT = timedelta(days=90)


def test_what_was_decided_long_ago_is_forgotten_but_not_what_waits_or_is_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = datetime.now(UTC) - KEPT - 10.5 * HOUR
    schedule = create(every=HOUR, overlap=Overlap.QUEUE, catch_up=timedelta())
    begun = {"starts_at": start, "decided_until": start - HOUR, "next_due_at": start}
    transact(lambda session: session.execute(update(ScheduleRow).values(**begun)))
    schedules.tick(at(start + 6 * HOUR))
    schedules.tick(at(start + 7 * HOUR))
    assert list(occurrences(schedule.id).values()) == [*[SKIPPED] * 6, FIRED, QUEUED]
    schedules.tick(at(start + 20 * HOUR))
    decided = occurrences(schedule.id)
    monkeypatch.setattr(pruning, "BATCH", 2)
    assert schedules.prune(KEPT) == 6
    left = occurrences(schedule.id)
    assert set(decided) - set(left) == {start + HOUR * n for n in range(6)}, "the others were decided late"
    assert (left[start + 6 * HOUR], left[start + 7 * HOUR]) == (FIRED, QUEUED)
    assert schedules.tick(at(start + 20 * HOUR)) == schedules.Ticked()
    for job_id in emissions():
        transact(ledger.close, job_id)
    schedules.tick(at(start + 20 * HOUR))
    assert occurrences(schedule.id)[start + 7 * HOUR] == CAUGHT_UP
    assert schedules.prune(KEPT) == 1
