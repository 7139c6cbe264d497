"""A process that freezes, loses its unit to another, and wakes up: what it then writes is refused, and counted."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from orchestrator import ledger
from orchestrator.bulk_inference import ProgressState
from orchestrator.bulk_inference.models import SubmitOptions
from orchestrator.bulk_inference.record import _record
from orchestrator.bulk_inference.submit import _write
from orchestrator.database import engine, reading, writing
from orchestrator.ledger import UnitState, conclude
from orchestrator.ledger.tables import UnitRow
from tests.chaos import journal
from tests.chaos.harness import Harness
from tests.chaos.points import CLAIM, Point, Strike
from tests.support.bulk_inference import Scene, stored

if TYPE_CHECKING:
    from tests.conftest import Database

DATUMS = 300
#: Seconds in which SQLite's write lock must be free now and then.
BREATH = 1.0


@dataclass(frozen=True)
class Zombie:
    """A process that froze during an attempt at a unit."""

    pid: int
    unit_id: str
    attempt: int


class Graveyard:
    """Jobs whose processes freeze, one job after another."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.scene: Scene = harness.scene(DATUMS)
        self.refused = 0
        self.seen = 0
        harness.server.behaviour.delay = 0.01
        harness.start(workers=2, concurrency=3)
        self.planning = self.find_planning()

    def find_planning(self) -> list[str]:
        """The transactions of the unit that plans a job, but for its claim and its end."""
        job_id = self.harness.submit(self.scene)
        self.harness.wait(job_id, within=60)
        planner = select(UnitRow.id).where(UnitRow.job_id == job_id, UnitRow.kind == "bulk_inference.plan")
        with reading() as session:
            unit_id = session.scalars(planner).one()
            noted = [line.what for line in journal.lines(session.connection()) if line.unit_id == unit_id]
        return [what for what in noted if what not in (CLAIM, journal.CLAIM, conclude.__qualname__)]

    def choose_places(self) -> dict[str, int]:
        """Three places for one job: in planning, at the claim of a unit and between two flushes."""
        chance = self.harness.chance
        places = {_record.__qualname__: chance.randint(1, 3), CLAIM: chance.randint(2, 3)}
        return {**places, chance.choice(self.planning): 1}

    def run_job(self, places: dict[str, int], *, moment: str = "after") -> None:
        """Run a job of which the given transactions freeze their process, each at a pass of its own."""
        points = {Point("child", f"{moment} commit {name}"): number for name, number in places.items()}
        self.seen = len(self.harness.points.struck())
        with writing() as session:
            job_id, _ = _write(session, self.scene.request(), SubmitOptions())
            for point, number in points.items():
                self.harness.points.arm(point, [number], job_id=job_id, strike=signal.SIGSTOP)
        self.harness.job_ids.append(job_id)
        ledger.nudge()
        zombies: list[Zombie] = []
        strikes = self.seen + len(points)
        self.harness.until(
            lambda: self.gather(zombies) == strikes or self.harness.is_over(job_id), "processes have frozen", within=60
        )
        self.gather(zombies)
        self.harness.until(lambda: all(map(has_been_followed, zombies)), f"others follow {zombies}", within=60)
        for zombie in zombies:
            self.harness.wake(zombie.pid)
        self.harness.until(lambda: all(map(was_refused, zombies)), f"{zombies} were refused", within=60)
        self.refused += len(zombies)
        (details,) = self.harness.wait(job_id, within=60)
        for point in points:
            self.harness.points.disarm(point, job_id=job_id)
        assert (details.status, details.reason, details.num_failed) == (ProgressState.SUCCEEDED, "", 0)
        assert stored(job_id) == list(range(DATUMS))

    def gather(self, zombies: list[Zombie]) -> int:
        """Add the processes that have frozen since the last time; returns how many did so far.

        One whose other thread was writing holds SQLite's only write lock: nobody can follow it, nor
        do anything else. It is woken at once, and does not count.
        """
        for strike in self.harness.points.struck()[self.seen :]:
            self.seen += 1
            self.harness.frozen.add(strike.pid)
            if can_be_written():
                zombies.append(find_zombie(strike))
            else:
                self.harness.wake(strike.pid)
        return self.seen


def can_be_written() -> bool:
    """Whether SQLite's write lock is to be had; a transaction of PostgreSQL that stands still is ended by it."""
    if engine().dialect.name != "sqlite":
        return True
    with closing(sqlite3.connect(str(engine().url.database), timeout=BREATH, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def find_zombie(strike: Strike) -> Zombie:
    """The frozen process, with the unit that it holds."""
    mine = UnitRow.state == UnitState.LEASED, UnitRow.lease_owner.endswith(f":{strike.pid}")
    with reading() as session:
        unit_id, attempt = session.execute(select(UnitRow.id, UnitRow.attempt).where(*mine)).one()
    return Zombie(strike.pid, unit_id, attempt)


def has_been_followed(zombie: Zombie) -> bool:
    """Whether a later attempt has begun."""
    with reading() as session:
        return session.get_one(UnitRow, zombie.unit_id).attempt > zombie.attempt


def was_refused(zombie: Zombie) -> bool:
    """Whether a write of the zombie was refused, and counted."""
    with reading() as session:
        return any(
            (line.pid, line.unit_id, line.attempt) == (zombie.pid, zombie.unit_id, zombie.attempt)
            for line in journal.lines(session.connection())
            if line.what == journal.REFUSAL
        )


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_process_writes_that_froze_and_lost_its_unit_is_refused(harness: Harness) -> None:
    graveyard = Graveyard(harness)
    graveyard.run_job({CLAIM: 2, _record.__qualname__: 1, graveyard.planning[0]: 1})
    assert graveyard.refused == 3


@pytest.mark.faults
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_process_that_froze_within_a_transaction_loses_it(harness: Harness, database: Database) -> None:
    # As in production, but for the time: PostgreSQL ends the transaction, and with it the lock on the unit.
    url = database.url.update_query_dict({"options": "-c idle_in_transaction_session_timeout=2s"})
    harness.environment["ORCHESTRATOR_DATABASE_URL"] = url.render_as_string(hide_password=False)
    graveyard = Graveyard(harness)
    graveyard.run_job({_record.__qualname__: 2}, moment="before")
    assert graveyard.refused == 1


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_processes_that_froze_write_nothing_when_they_wake(harness: Harness) -> None:
    # On each of the databases, which makes fifty.
    graveyard = Graveyard(harness)
    while graveyard.refused < 25:
        graveyard.run_job(graveyard.choose_places())
