"""Every instant at which a schedule was due has one row that says what was done, however many ticked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Select, select, text, update
from sqlalchemy.orm import Session

from orchestrator import ledger, schedules
from orchestrator.database import engine, reading, transact, writing
from orchestrator.errors import InvalidRequest, ScheduleNotFound
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.schedules import OccurrenceState, Overlap, Schedule, queries, tick
from orchestrator.schedules.decisions import BATCH, decide
from orchestrator.schedules.tables import ScheduleRow
from tests.support.ledger import PowerCut
from tests.support.schedules import at, create, occurrences

pytestmark = pytest.mark.usefixtures("database")

START = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FIRED, SKIPPED, QUEUED, CAUGHT_UP = (
    OccurrenceState.FIRED,
    OccurrenceState.SKIPPED,
    OccurrenceState.QUEUED,
    OccurrenceState.CAUGHT_UP,
)


def emissions() -> list[str]:
    """The jobs that submit, oldest first."""
    with reading() as session:
        return list(session.scalars(select(JobRow.id).where(JobRow.kind == "schedules").order_by(JobRow.id)))


def end_jobs() -> None:
    """Whatever was submitted has ended."""
    for job_id in emissions():
        transact(ledger.close, job_id)


def test_an_instant_that_has_come_fires_once_however_often_somebody_ticks() -> None:
    schedule = create(starts_at=START)
    for seconds in (0, 0, 1, 59):
        tick(at(START + timedelta(seconds=seconds)))
    assert occurrences(schedule.id) == {START: FIRED}
    tick(at(START + MINUTE))
    assert [*occurrences(schedule.id)] == [START, START + MINUTE]
    with reading() as session:
        payloads = session.scalars(select(UnitRow.payload).order_by(UnitRow.id)).all()
    assert payloads == [{"schedule_id": schedule.id, "due_at": START.isoformat()}]


def test_many_that_tick_at_once_decide_every_instant_once() -> None:
    ids = [create(name=f"number {n}", starts_at=START, overlap=Overlap.ALLOW).id for n in range(5)]
    together = threading.Barrier(3)

    def ticks() -> None:
        together.wait()
        for minute in range(6):
            tick(at(START + minute * MINUTE))

    threads = [threading.Thread(target=ticks) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(list(occurrences(one).values()) == [FIRED] * 6 for one in ids)
    assert len(emissions()) == 30


def test_what_was_missed_for_longer_than_the_window_is_skipped_and_the_rest_made_up_for() -> None:
    schedule = create(every=timedelta(hours=1), starts_at=START, catch_up=timedelta(hours=2), overlap=Overlap.ALLOW)
    ticked = tick(at(START + timedelta(hours=5, minutes=30)))
    assert list(occurrences(schedule.id).values()) == [SKIPPED] * 4 + [CAUGHT_UP] * 2
    assert (ticked.skipped, ticked.caught_up) == (4, 2)


def test_a_long_outage_is_booked_in_bounded_steps() -> None:
    schedule = create(starts_at=START, catch_up=timedelta(), overlap=Overlap.ALLOW)
    end = START + MINUTE * (BATCH + 10)
    assert transact(lambda session: decide(session, session.get_one(ScheduleRow, schedule.id), end)).skipped == BATCH
    tick(at(end))
    decided = occurrences(schedule.id)
    assert [*decided] == [START + MINUTE * n for n in range(BATCH + 11)]
    assert decided[end] == FIRED


def test_a_schedule_that_cannot_be_decided_holds_up_nobody() -> None:
    broken = create(name="broken", starts_at=START - timedelta(days=1))
    transact(lambda session: session.execute(update(ScheduleRow).values(cron="0 0 * * *", interval_seconds=None)))
    transact(lambda session: session.execute(update(ScheduleRow).values(time_zone="Mars/Olympus")))
    schedule = create(starts_at=START)
    tick(at(START))
    assert occurrences(schedule.id) == {START: FIRED}
    assert schedules.update_schedule(broken.id, time_zone="UTC").time_zone == "UTC"
    schedules.delete_schedule(broken.id)


def test_a_schedule_whose_job_is_still_at_work_skips_and_says_so() -> None:
    schedule = create(starts_at=START, overlap=Overlap.SKIP)
    tick(at(START))
    tick(at(START + MINUTE))
    end_jobs()
    tick(at(START + 2 * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED, SKIPPED, FIRED]
    assert "still at work" in schedules.list_occurrences(schedule.id)[1].reason


def test_a_queue_lets_one_go_after_the_other() -> None:
    schedule = create(starts_at=START, overlap=Overlap.QUEUE)
    for minute in range(3):
        tick(at(START + minute * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED, QUEUED, QUEUED]
    for made in (2, 3):
        end_jobs()
        tick(at(START + 2 * MINUTE))
        tick(at(START + 2 * MINUTE))
        assert len(emissions()) == made
    assert list(occurrences(schedule.id).values()) == [FIRED, CAUGHT_UP, CAUGHT_UP]


def test_a_queue_that_is_full_skips_what_comes_due_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.schedules.decisions.MOST_WAITING", 2)
    schedule = create(starts_at=START, overlap=Overlap.QUEUE)
    for minute in range(5):
        tick(at(START + minute * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED, QUEUED, QUEUED, SKIPPED, SKIPPED]
    assert "2 wait already" in schedules.list_occurrences(schedule.id)[0].reason
    end_jobs()
    tick(at(START + 5 * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED, CAUGHT_UP, QUEUED, SKIPPED, SKIPPED, QUEUED]


def test_whatever_waits_goes_at_once_when_overlaps_become_allowed() -> None:
    schedule = create(starts_at=START, overlap=Overlap.QUEUE)
    for minute in range(4):
        tick(at(START + minute * MINUTE))
    schedules.update_schedule(schedule.id, overlap=Overlap.ALLOW)
    tick(at(START + 4 * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED, CAUGHT_UP, CAUGHT_UP, CAUGHT_UP, FIRED]


def test_overlapping_jobs_that_are_allowed_are_all_submitted() -> None:
    schedule = create(starts_at=START, overlap=Overlap.ALLOW)
    for minute in range(3):
        tick(at(START + minute * MINUTE))
    assert list(occurrences(schedule.id).values()) == [FIRED] * 3


def test_a_paused_schedule_says_that_it_was_and_goes_on_from_the_next_instant() -> None:
    schedule = create(starts_at=START, overlap=Overlap.ALLOW)
    schedules.pause_schedule(schedule.id)
    tick(at(START))
    schedules.resume_schedule(schedule.id)
    tick(at(START + MINUTE))
    assert list(occurrences(schedule.id).values()) == [SKIPPED, FIRED]


def test_nothing_is_due_before_the_start_after_the_end_or_once_deleted() -> None:
    schedule = create(starts_at=START, ends_at=START + MINUTE, overlap=Overlap.ALLOW)
    tick(at(START - timedelta(seconds=1)))
    assert occurrences(schedule.id) == {}
    tick(at(START + timedelta(hours=1)))
    assert [*occurrences(schedule.id)] == [START, START + MINUTE]
    other = create(name="other", starts_at=START)
    schedules.delete_schedule(other.id)
    tick(at(START + timedelta(hours=1)))
    assert occurrences(other.id) == {}


def test_a_new_timing_neither_repeats_nor_loses_what_was_decided() -> None:
    schedule = create(starts_at=START, overlap=Overlap.ALLOW)
    tick(at(START + 2 * MINUTE))
    schedules.update_schedule(schedule.id, every=timedelta(minutes=5))
    assert schedules.get_schedule(schedule.id).next_due_at == START + 5 * MINUTE  # type: ignore[union-attr]  # it is there
    tick(at(START + 6 * MINUTE))
    assert [*occurrences(schedule.id)] == [START + MINUTE * n for n in (0, 1, 2, 5)]


def test_a_start_that_has_not_come_may_be_put_off_and_brought_forward() -> None:
    later, earlier = START + 300 * HOUR, START + HOUR
    schedule = create(starts_at=START)
    for start in (later, earlier):
        assert schedules.update_schedule(schedule.id, starts_at=start).next_due_at == start
    tick(at(earlier))
    assert occurrences(schedule.id) == {earlier: FIRED}


def neglected(hours: int, **values: Any) -> Schedule:
    """A schedule of every hour, which nobody has looked at so often when it was due; the last time half an hour ago."""
    now = datetime.now(UTC)
    schedule = create(every=HOUR, starts_at=now - 100.5 * HOUR, overlap=Overlap.ALLOW, **values)
    since = schedule.next_due_at - (hours + 1) * HOUR if schedule.next_due_at else now
    missed = {"decided_until": since, "next_due_at": since + HOUR}
    transact(lambda session: session.execute(update(ScheduleRow).values(**missed)))
    return schedule


def states(schedule: Schedule) -> list[str]:
    return list(occurrences(schedule.id).values())


def test_what_is_due_when_the_timing_changes_is_decided_by_the_timing_it_was_due_by() -> None:
    schedule = neglected(3)
    schedules.update_schedule(schedule.id, every=timedelta(days=1000))
    assert states(schedule) == [SKIPPED, SKIPPED, CAUGHT_UP]
    assert tick() == schedules.Ticked()


@pytest.mark.parametrize("paused, reason", [(False, "the schedule was deleted"), (True, "the schedule was paused")])
def test_what_is_late_when_a_schedule_is_deleted_does_not_fire(paused: bool, reason: str) -> None:
    schedule = neglected(2, paused=paused, catch_up=10 * HOUR)
    schedules.delete_schedule(schedule.id)
    assert [(one.state, one.reason) for one in schedules.list_occurrences(schedule.id)] == [(SKIPPED, reason)] * 2


@pytest.mark.parametrize("change", [schedules.pause_schedule, schedules.resume_schedule])
def test_what_is_late_when_a_schedule_is_paused_or_resumed_does_not_fire(change: Callable[[str], Schedule]) -> None:
    schedule = neglected(2, paused=change is schedules.resume_schedule, catch_up=10 * HOUR)
    change(schedule.id)
    assert states(schedule) == [SKIPPED, SKIPPED]
    assert tick() == schedules.Ticked()


def test_a_run_at_once_counts_as_a_job_at_work_and_hides_no_other() -> None:
    schedule = create(starts_at=START, overlap=Overlap.SKIP)
    first = schedules.run_schedule_now(schedule.id)
    assert (first.state, first.reason) == (FIRED, "somebody asked for it")
    assert schedules.run_schedule_now(schedule.id).due_at != first.due_at
    transact(ledger.close, emissions()[1])
    tick(at(START))
    assert occurrences(schedule.id)[START] == SKIPPED, "the first of them is still at work"
    end_jobs()
    tick(at(START + MINUTE))
    assert occurrences(schedule.id)[START + MINUTE] == FIRED


def test_a_run_at_the_very_instant_at_which_a_schedule_is_due_stands_for_both() -> None:
    schedule = create(starts_at=START)
    now = schedules.run_schedule_now(schedule.id).due_at
    moved = {"starts_at": now, "decided_until": now - MINUTE, "next_due_at": now}
    transact(lambda session: session.execute(update(ScheduleRow).values(**moved)))
    tick(at(now))
    assert occurrences(schedule.id) == {now: FIRED}
    assert len(emissions()) == 1


def plan(session: Session, query: Select[str]) -> str:
    """How the database goes about a query."""
    compiled = query.compile(engine())
    given = compiled.construct_expanded_state(compiled.params)
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        values = tuple(given.positional_parameters or ())
        return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {given.statement}", values).all())
    return str(connection.exec_driver_sql(f"EXPLAIN {given.statement}", dict(given.parameters)).all())


def test_ten_thousand_schedules_at_rest_cost_a_tick_one_look_into_an_index() -> None:
    schedule = create(starts_at=START)
    with reading() as session:
        rows = [column.name for column in ScheduleRow.__table__.columns if column.name not in ("id", "name")]
    copied = ", ".join(rows)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
    copies = f"{numbers} SELECT 'copy ' || i, 'copy ' || i, {copied} FROM schedules, n"
    transact(lambda session: session.execute(text(f"INSERT INTO schedules (id, name, {copied}) {copies}")))
    tick(at(START - MINUTE))
    with writing() as session:
        session.execute(text("ANALYZE schedules"))
        assert "ix_schedules_due" in plan(session, queries.due(START - MINUTE, (), 200))
        assert "ix_schedule_occurrences_queued" in plan(session, queries.released((), 200))
    assert occurrences(schedule.id) == {}


def die(*_: object) -> None:
    """The process ends here."""
    raise PowerCut


def test_a_tick_that_dies_before_it_commits_has_decided_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = create(starts_at=START)
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.schedules.decisions.insert_occurrences", die)
        with pytest.raises(PowerCut):
            tick(at(START))
    assert occurrences(schedule.id) == {}
    assert emissions() == []
    tick(at(START))
    assert (occurrences(schedule.id), len(emissions())) == ({START: FIRED}, 1)


def test_a_schedule_that_somebody_else_decides_for_is_left_to_him() -> None:
    schedule = create(starts_at=START)
    transact(
        lambda session: session.execute(update(ScheduleRow).values(decided_until=START, next_due_at=START + MINUTE))
    )
    assert tick(at(START)) == schedules.Ticked()
    assert occurrences(schedule.id) == {}


@pytest.mark.parametrize("name", ["starts_at", "ends_at"])
@pytest.mark.parametrize("year, hours", [(1, 5), (9999, -5), (9999, 0)])
def test_an_end_of_the_calendar_bounds_no_schedule(name: str, year: int, hours: int) -> None:
    edge = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=timezone(timedelta(hours=hours)))
    with pytest.raises(InvalidRequest, match=name):
        create(cron="0 0 1 1 *", **{name: edge})


@pytest.mark.parametrize("name", ["\0", "\ud800"])
def test_nothing_is_called_by_what_no_database_stores(name: str) -> None:
    assert schedules.get_schedule(name) is None
    assert schedules.find_schedule(name, name) is None
    assert schedules.list_schedules(name) == []
    assert schedules.list_occurrences(name) == []
    with pytest.raises(ScheduleNotFound):
        schedules.pause_schedule(name)


@pytest.mark.parametrize("values", [{"limit": -1}, {"limit": 2**70}, {"before": datetime(2030, 1, 1)}])  # noqa: DTZ001  that is what is refused
def test_a_history_of_no_such_length_or_end_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(values))):
        schedules.list_occurrences("any", **values)
