"""Lifecycles: only declared moves, one winner each, and events without gaps."""

from __future__ import annotations

import threading
from datetime import datetime
from enum import StrEnum
from functools import partial

import pytest
from sqlalchemy import ForeignKey, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator.database import Identifier, UtcDateTime, engine, reading, transact, writing
from orchestrator.errors import IllegalTransition
from orchestrator.transitions import EventRow, Lifecycle, events_of
from tests.support.ledger import at_once


class Light(StrEnum):
    RED = "red"
    GREEN = "green"
    BROKEN = "broken"


class Town(DeclarativeBase):
    """Tables of this module's own, beside the project's."""

    type_annotation_map = {datetime: UtcDateTime()}


class LightRow(Town):
    __tablename__ = "lights"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    state: Mapped[str]
    finished_at: Mapped[datetime | None]
    colour_blind: Mapped[bool] = mapped_column(default=False)


class CarRow(Town):
    """Refers to a light, as a failure refers to its job."""

    __tablename__ = "cars"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    light_id: Mapped[str] = mapped_column(ForeignKey("lights.id"))


LIGHTS = Lifecycle(
    name="light",
    table=LightRow,
    initial=Light.RED,
    terminal=frozenset({Light.BROKEN}),
    moves={
        Light.RED: frozenset({Light.GREEN, Light.BROKEN}),
        Light.GREEN: frozenset({Light.RED}),
        Light.BROKEN: frozenset({Light.RED}),
    },
)


@pytest.fixture(autouse=True)
def light(database: object) -> str:
    """A red light, alone in the town."""
    Town.metadata.create_all(engine())
    with writing() as session:
        session.add(LightRow(id="light", state=Light.RED))
        session.flush()
        LIGHTS.begin(session, "light")
    return "light"


def move(to: Light, **options: object) -> bool:
    return transact(lambda session: LIGHTS.move(session, "light", to, **options))  # type: ignore[arg-type]  # any option


def shown() -> LightRow:
    with reading() as session:
        return session.get_one(LightRow, "light")


def history() -> list[tuple[int, str | None, str]]:
    with reading() as session:
        return [(event.sequence, event.from_state, event.to_state) for event in events_of(session, "light")]


@pytest.mark.parametrize("to", list(Light))
@pytest.mark.parametrize("before", list(Light))
def test_a_subject_moves_as_the_table_says_or_stays(before: Light, to: Light) -> None:
    assert before is Light.RED or move(before)
    events = len(history())
    moved = move(to)
    assert moved == (to in LIGHTS.moves[before])
    assert shown().state == (to if moved else before)
    assert len(history()) == events + moved


def test_each_move_leaves_an_event_that_says_whence_whither_and_why() -> None:
    move(Light.GREEN, reason="nobody 'waits' \0 here")
    with reading() as session:
        first, second = events_of(session, "light")
    assert (first.sequence, first.from_state, first.to_state, first.lifecycle) == (1, None, "red", "light")
    assert (second.sequence, second.from_state, second.to_state) == (2, "red", "green")
    assert second.reason == "nobody 'waits' \N{REPLACEMENT CHARACTER} here"
    assert first.created_at <= second.created_at


def test_an_event_keeps_the_details_of_its_move() -> None:
    move(Light.GREEN, details={"lamp": 2, "watts": [40, 60]})
    with reading() as session:
        assert [event.details for event in events_of(session, "light")] == [None, {"lamp": 2, "watts": [40, 60]}]


def test_only_terminal_states_have_an_end_and_leaving_one_takes_it_back() -> None:
    assert shown().finished_at is None
    move(Light.BROKEN)
    assert shown().finished_at is not None
    move(Light.RED)
    assert shown().finished_at is None


def test_other_columns_change_with_the_state_or_not_at_all() -> None:
    assert move(Light.RED, colour_blind=True) is False
    assert shown().colour_blind is False
    assert move(Light.GREEN, colour_blind=True) is True
    assert shown().colour_blind is True


def test_a_move_may_be_narrowed_to_some_of_its_sources_but_not_widened() -> None:
    assert move(Light.RED, only_from={Light.GREEN}) is False
    with pytest.raises(IllegalTransition, match=r"light has no move from .*green.* to broken"):
        move(Light.BROKEN, only_from={Light.GREEN})


def test_an_unknown_subject_does_not_move() -> None:
    with writing() as session:
        assert LIGHTS.move(session, "no such light", Light.GREEN) is False
        assert session.scalars(select(EventRow).where(EventRow.subject_id == "no such light")).all() == []


def test_a_move_that_is_undone_leaves_no_event() -> None:
    def change_of_mind(session: Session) -> None:
        LIGHTS.move(session, "light", Light.GREEN)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        transact(change_of_mind)
    assert (shown().state, len(history())) == ("red", 1)


def test_of_many_that_make_the_same_move_at_once_one_does() -> None:
    assert at_once([partial(move, Light.GREEN)] * 8).count(True) == 1
    assert history() == [(1, None, "red"), (2, "red", "green")]


def test_a_move_is_judged_by_the_state_that_a_concurrent_move_leaves() -> None:
    """The second waits until the first has committed: only from where that leads may it go on."""
    moved, waiting = threading.Event(), threading.Event()

    def go(session: Session) -> bool:
        done = LIGHTS.move(session, "light", Light.GREEN)
        moved.set()
        waiting.wait(30)
        return done

    def stop() -> bool:
        moved.wait(30)
        threading.Timer(0.3, waiting.set).start()  # by then this waits for the lock of the other
        return move(Light.RED)

    assert at_once([lambda: transact(go), stop]) == [True, True]
    assert history() == [(1, None, "red"), (2, "red", "green"), (3, "green", "red")]


def test_events_have_no_gaps_and_no_forks_whoever_races() -> None:
    def toggle() -> int:
        return sum(move(to) for _ in range(5) for to in (Light.GREEN, Light.RED, Light.BROKEN))

    moves = sum(at_once([toggle] * 4))
    events = history()
    assert [sequence for sequence, _, _ in events] == list(range(1, moves + 2))
    assert [before for _, before, _ in events[1:]] == [after for _, _, after in events[:-1]]
    assert events[-1][2] == shown().state


def test_transactions_that_refer_to_a_subject_and_then_move_it_do_not_deadlock(database: object) -> None:
    """As two units do that record failures of one job at the same moment."""
    together = threading.Barrier(2)
    runs: list[str] = []

    def drive(session: Session, car: str) -> bool:
        runs.append(car)
        session.execute(insert(CarRow).values(id=car, light_id="light"))
        if session.get_bind().dialect.name == "postgresql":  # SQLite lets only one in at a time
            together.wait(30)
        return LIGHTS.move(session, "light", Light.GREEN)

    moved = at_once([partial(transact, drive, car) for car in ("a", "b")])
    assert sorted(moved) == [False, True]
    assert sorted(runs) == ["a", "b"]  # nobody had to run twice
