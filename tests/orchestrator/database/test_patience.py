"""A server that has fallen silent is given up within seconds, and one that is at work never."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from orchestrator.database import exclusive, patience, reading, writing
from orchestrator.database.engine import engine
from tests.chaos.proxy import Direction, Proxy
from tests.conftest import forget_settings

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Postgres

pytestmark = pytest.mark.parametrize("database", ["postgres"], indirect=True)

#: No call may take longer.
LIMIT = 10.0


@pytest.fixture
def proxy(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between this process and its database."""
    assert database.url.port is not None
    with Proxy(database.url.port) as between:
        behind = database.url.set(host="127.0.0.1", port=between.port).render_as_string(hide_password=False)
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", behind)
        forget_settings()
        yield between
        forget_settings()


def answer(number: int = 1, *, after: float = 0) -> int:
    with reading() as session:
        return int(session.scalar(text(f"SELECT {number} FROM pg_sleep({after})")) or 0)


def test_a_pooled_connection_into_a_black_hole_is_given_up_and_so_is_the_new_one(proxy: Proxy) -> None:
    answer()
    proxy.black_hole()
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(OperationalError):
            answer()
        assert time.monotonic() - begun < LIMIT
    proxy.heal()
    assert answer() == 1


def test_a_pooled_connection_that_is_half_open_is_replaced_unnoticed(proxy: Proxy) -> None:
    answer()
    proxy.half_open()
    begun = time.monotonic()
    assert answer() == 1
    assert time.monotonic() - begun < LIMIT


@pytest.mark.parametrize("direction", Direction)
def test_a_statement_whose_answer_gets_lost_fails_and_the_next_is_served(proxy: Proxy, direction: Direction) -> None:
    def lose_an_answer() -> None:
        with writing() as session:
            session.scalar(text("SELECT 1"))
            proxy.black_hole(direction)
            session.scalar(text("SELECT 2"))

    with pytest.raises(OperationalError, match="fell silent"):
        lose_an_answer()
    proxy.heal()
    assert answer() == 1


def test_a_long_statement_is_left_alone_although_the_server_says_nothing(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_brisk(monkeypatch)
    assert answer(7, after=2) == 7
    # One connection for the pool; each other asked whether the first is at work.
    assert proxy.accepted >= 3


def test_a_statement_that_waits_for_a_lock_is_left_alone(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    be_brisk(monkeypatch)
    release = threading.Event()
    with writing() as session:
        exclusive(session, "lock")
        waiting = threading.Thread(target=hold_lock, args=(release,))
        waiting.start()
        time.sleep(2)  # several times as long as the patience of this test
    waiting.join(LIMIT)
    assert release.is_set()


def hold_lock(done: threading.Event) -> None:
    with writing() as session:
        exclusive(session, "lock")
        done.set()


def test_a_server_that_refuses_in_words_is_there(
    proxy: Proxy, database: Database, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_probes(monkeypatch)
    assert database.url.database is not None
    with engine().connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert not patience.is_at_work(driver)  # it is asked nothing just now
        postgres.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.url.database)
        assert patience.is_at_work(driver)
        connection.execute(select(1))


def be_brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask sooner, but wait for the answer: on a busy machine a new connection may take seconds."""
    monkeypatch.setattr(patience, "SILENCE", 0.3)
    monkeypatch.setattr(patience, "GRACE", 0.2)
    wait_for_probes(monkeypatch)


def wait_for_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PROBE_PATIENCE", 60)
