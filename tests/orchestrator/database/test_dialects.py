"""What the two databases say differently means the same: counts, hostile values, locks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import ColumnElement, Select, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from orchestrator import clock
from orchestrator.database import exclusive, insert_ignoring, of_each, reading, skip_locked, storable, transact, writing
from orchestrator.ledger.tables import JobRow, PulseRow, ShareRow, SubmissionRow, UnitRow
from tests.conftest import Database
from tests.support.ledger import at_once, open_job

pytestmark = pytest.mark.usefixtures("database")

HOSTILE = [
    "",
    "it's",
    "\"double\" 'single' `back`",
    "'); DROP TABLE pulses; --",
    ":rows %s %(rows)s ? $1",
    "back\\slash \\u0000 \\\\u0000",
    "line\nfeed\r\ttab",
    "☃ é e\u0301 \U0001f600 \u202e",
    "[]{}",
    "null",
]


def pulse(name: str, **values: Any) -> dict[str, Any]:
    now = clock.now()
    return {"name": name, "details": {}, "started_at": now, "seen_at": now, **values}


def put(*rows: dict[str, Any]) -> int:
    return transact(insert_ignoring, PulseRow, list(rows))


def found() -> dict[str, PulseRow]:
    with reading() as session:
        return {row.name: row for row in session.scalars(select(PulseRow))}


def test_inserting_nothing_inserts_nothing() -> None:
    assert put() == 0


def test_the_count_is_that_of_the_rows_that_went_in() -> None:
    assert put(pulse("a"), pulse("b")) == 2
    assert put(pulse("b"), pulse("c"), pulse("c"), pulse("a")) == 1
    assert sorted(found()) == ["a", "b", "c"]


def test_what_was_there_first_stays() -> None:
    put(pulse("a", details={"first": True}))
    put(pulse("a", details={"first": False}))
    assert found()["a"].details == {"first": True}


def test_many_rows_go_in_at_once_and_are_counted() -> None:
    assert put(*(pulse(f"p{n:05}") for n in range(3000))) == 3000
    assert put(*(pulse(f"p{n:05}") for n in range(1500, 4500))) == 1500


def test_of_many_that_insert_the_same_rows_at_once_each_row_counts_for_one() -> None:
    rows = [pulse(f"p{n}") for n in range(50)]
    shuffled = [rows[n * 7 % 50 :] + rows[: n * 7 % 50] for n in range(6)]
    assert sum(at_once([partial(put, *each) for each in shuffled])) == 50


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_text_comes_back_as_it_went_in(hostile: str) -> None:
    put(pulse(f"name {hostile}", details={hostile: [hostile, {"deep": hostile}]}))
    assert found()[f"name {hostile}"].details == {hostile: [hostile, {"deep": hostile}]}


@pytest.mark.parametrize("bad", ["a\0b", "half a pair \ud83d", "\0\ud800\\u0000"], ids=ascii)
def test_text_that_a_database_refuses_is_made_storable_wherever_it_is(bad: str) -> None:
    assert put(pulse(bad, details={bad: [bad]}), pulse("good \\u0000")) == 2
    rows = found()
    assert rows[storable(bad)].details == {storable(bad): [storable(bad)]}
    assert "good \\u0000" in rows


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda n: {"n": n}, lambda n: {"deep": [1, {"n": n}]}], ids=["flat", "deep"])
def test_numbers_that_json_does_not_know_are_refused(bad: float, wrap: Callable[[float], dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"pulses\.details"):
        put(pulse("good"), pulse("bad", details=wrap(bad)))
    with pytest.raises(ValueError, match=r"dispatch_shares\.deficit"):
        transact(insert_ignoring, ShareRow, [{"queue": "q", "project_id": "p", "deficit": bad}])
    assert found() == {}


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pulses\.seen_at"):
        put(pulse("a", seen_at=datetime(2024, 1, 1)))  # noqa: DTZ001  the mistake that is refused


def test_a_value_of_an_unknown_type_is_an_error_and_not_its_description() -> None:
    with pytest.raises((TypeError, StatementError), match="serializable"):
        put(pulse("a", details={"what": object()}))
    assert found() == {}


def test_only_a_broken_unique_constraint_is_passed_over() -> None:
    with pytest.raises(IntegrityError):
        put(pulse("a", details=None))


def test_a_null_is_null_and_never_equal_to_another() -> None:
    now = clock.now()
    row = {"message_id": None, "request_id": None, "reason": "r", "excerpt": "e", "created_at": now}
    assert transact(insert_ignoring, SubmissionRow, [{**row, "id": "1"}, {**row, "id": "2"}]) == 2
    with reading() as session:
        assert session.scalar(text("SELECT count(*) FROM rejected_submissions WHERE message_id IS NULL")) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(details=st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_any_json_comes_back_storable_and_otherwise_as_it_went_in(details: dict[str, Any]) -> None:
    with writing() as session:
        session.execute(text("DELETE FROM pulses"))
        assert insert_ignoring(session, PulseRow, [pulse("a", details=details)]) == 1
    assert found()["a"].details == made_storable(details)


def made_storable(value: Any) -> Any:
    """What `insert_ignoring` promises, said a second time."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): made_storable(part) for key, part in value.items()}
    return [made_storable(part) for part in value] if isinstance(value, list) else value


def test_rows_that_somebody_holds_are_passed_over(database: Database) -> None:
    if database.kind == "sqlite":
        pytest.skip("on SQLite whoever writes holds everything")
    put(pulse("a"), pulse("b"), pulse("c"))
    statement = select(PulseRow.name).order_by(PulseRow.name)
    with writing() as first, writing() as second:
        assert first.scalars(skip_locked(statement.limit(2), first, PulseRow)).all() == ["a", "b"]
        assert second.scalars(skip_locked(statement, second, PulseRow)).all() == ["c"]


def test_rows_that_are_only_joined_to_the_selected_ones_are_not_held(database: Database) -> None:
    if database.kind == "sqlite":
        pytest.skip("on SQLite whoever writes holds everything")
    job_id = open_job(1)
    joined = select(UnitRow.id).join(JobRow, JobRow.id == UnitRow.job_id)
    with writing() as first, writing() as second:
        assert len(first.scalars(skip_locked(joined, first, UnitRow)).all()) == 1
        assert second.scalars(skip_locked(select(JobRow.id), second, JobRow)).all() == [job_id]


def test_each_of_many_is_asked_for_its_first_rows_in_the_order_of_its_select() -> None:
    put(*(pulse(f"{kind}{number}") for kind in "abc" for number in range(4)))

    def last_of(kind: ColumnElement[str]) -> Select[str]:
        return select(PulseRow.name).where(PulseRow.name.like(kind + "%")).order_by(PulseRow.name.desc()).limit(2)

    with writing() as session:
        found = of_each(session, ["c", "x", "a"], lambda each: skip_locked(last_of(each), session, PulseRow), {})
        assert [name for (name,) in found] == ["c3", "c2", "a3", "a2"]
        assert not of_each(session, [], last_of, {})


def test_what_is_exclusive_is_done_by_one_at_a_time_and_other_names_do_not_wait() -> None:
    inside: list[str] = []
    overlaps: list[list[str]] = []

    def enter(session: Session, who: str) -> None:
        exclusive(session, "door")
        inside.append(who)
        overlaps.append(list(inside))
        threading.Event().wait(0.02)  # gives an intruder the time to show
        inside.remove(who)

    at_once([partial(transact, enter, f"visitor {n}") for n in range(5)])
    assert [len(present) for present in overlaps] == [1] * 5


def test_a_name_that_is_held_does_not_hold_another(database: Database) -> None:
    if database.kind == "sqlite":
        pytest.skip("on SQLite whoever writes holds everything")
    with writing() as session:
        exclusive(session, "one door")
        transact(exclusive, "another door")
