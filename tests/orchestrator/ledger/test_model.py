"""The ledger against a simple model of it, through any sequence of work, crashes, delays and lost messages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from orchestrator import clock, ledger
from orchestrator.database import reading, transact, writing
from orchestrator.errors import LeaseLost
from orchestrator.ledger import MOVES, UNFINISHED, Lease, Outcome, UnitState
from orchestrator.ledger.backoff import LONGEST_POSTPONEMENT, backoff
from orchestrator.ledger.models import ATTEMPTS
from orchestrator.ledger.tables import JobRow, ShareRow, UnitRow
from orchestrator.settings import settings
from tests.conftest import forget_settings
from tests.support.ledger import AwayWire, DyingWire, PowerCut, Wire, open_job, unit_ids

READY, PUBLISHED, LEASED = UnitState.READY, UnitState.PUBLISHED, UnitState.LEASED
DONE, DEAD, CANCELLED = UnitState.DONE, UnitState.DEAD, UnitState.CANCELLED


@dataclass
class Unit:
    """What the model knows of a unit."""

    job_id: str
    due: datetime
    finishes: bool = False
    state: UnitState = READY
    attempt: int = 0
    max_attempts: int = ledger.models.ATTEMPTS
    postponements: int = 0
    expires: datetime | None = None
    published: datetime | None = None
    done: int = 0
    stale: int = 0

    def settle(self, state: UnitState, *, delay: timedelta = timedelta()) -> None:
        self.state, self.expires = state, None
        if state is READY:
            self.due, self.published = clock.now() + delay, None


@dataclass
class Job:
    """What the model knows of a job."""

    paused: bool = False
    closed: bool = False
    finishers: list[str] = field(default_factory=list)


class LedgerMachine(RuleBasedStateMachine):
    """Each rule does something to the ledger and to the model; the invariants hold them against each other."""

    now = datetime(2024, 1, 1, tzinfo=UTC)

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    @initialize(target=jobs, units=st.integers(2, 4))
    def begin(self, units: int) -> object:
        with writing() as session:
            for table in (UnitRow, JobRow, ShareRow):
                session.execute(delete(table))
        type(self).now = datetime(2024, 1, 1, tzinfo=UTC)
        self.wire = Wire()
        self.units: dict[str, Unit] = {}
        self.known: dict[str, Job] = {}
        self.seen: dict[str, UnitState] = {}
        return self.submit(units, "a", 3)

    @rule(target=jobs, units=st.integers(1, 4), project=st.sampled_from("ab"), attempts=st.integers(1, 3))
    def submit(self, units: int, project: str, attempts: int) -> str:
        job_id = open_job(units, project=project, max_attempts=attempts)
        self.known[job_id] = Job()
        for unit_id in unit_ids(job_id):
            self.units[unit_id] = Unit(job_id, clock.now(), max_attempts=attempts)
        return job_id

    @rule(fate=st.sampled_from(["arrive", "arrive twice", "broker away", "power cut"]))
    def dispatch(self, fate: str) -> None:
        going = [unit for unit in self.units.values() if self._is_publishable(unit)]
        match fate:
            case "broker away":
                assert ledger.dispatch(AwayWire()) == 0
                return
            case "power cut":
                if going:
                    with pytest.raises(PowerCut):
                        ledger.dispatch(DyingWire())
                    # The planning queue goes first; the cut comes before the other's turn.
                    first = [unit for unit in going if unit.finishes] or going
                    self._publish(first)
                return
        before = len(self.wire.sent)
        assert ledger.dispatch(self.wire) == len(going)
        if fate == "arrive twice":
            self.wire.sent += self.wire.sent[before:]
        self._publish(going)

    @rule(target=leases)
    def work(self) -> object:
        """What happens most of the time: units are published, and a worker takes the one that waits longest."""
        self.dispatch("arrive")
        lease = self._claim(self.wire.sent.pop(0)) if self.wire.sent else None
        return multiple() if lease is None else lease

    @precondition(lambda self: self.wire.sent)
    @rule(target=leases, data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> object:
        """A worker receives some message, perhaps not for the last time."""
        index = data.draw(st.integers(0, len(self.wire.sent) - 1))
        unit_id = self.wire.sent[index] if keep else self.wire.sent.pop(index)
        lease = self._claim(unit_id)
        return multiple() if lease is None else lease

    @rule(target=leases, former=leases)
    def deliver_again(self, former: Lease) -> object:
        """The message of some earlier attempt turns up again, whatever became of its unit."""
        lease = self._claim(former.unit_id)
        return multiple() if lease is None else lease

    @rule(target=leases, former=leases)
    def overtake(self, former: Lease) -> object:
        """The attempt freezes until its lease has run out, and another takes the unit."""
        self.wait(31)
        lease = self._claim(former.unit_id)
        return multiple() if lease is None else lease

    @rule(lease=leases, done=st.integers(0, 5))
    def write(self, lease: Lease, done: int) -> None:
        """Any attempt writes, whether or not it still owns its unit."""
        if self._fenced(lease, lambda: transact(ledger.hold, lease, done=done)):
            unit = self.units[lease.unit_id]
            unit.done += done
            unit.expires = clock.now() + settings().lease
            if done:
                unit.postponements = 0
                unit.max_attempts = max(unit.max_attempts, unit.attempt + ATTEMPTS)

    @rule(lease=leases)
    def beat(self, lease: Lease) -> None:
        if self._fenced(lease, lambda: ledger.renew(lease)):
            self.units[lease.unit_id].expires = clock.now() + settings().lease

    @rule(
        lease=leases,
        outcome=st.sampled_from(
            [
                ledger.Done(),
                ledger.Done(),
                ledger.Again(),
                ledger.Again(5),
                ledger.Postponed("away"),
                ledger.Failed("oops"),
                ledger.Hopeless("never"),
            ]
        ),
        killed=st.booleans(),
        doubled=st.booleans(),
    )
    def settle(self, lease: Lease, outcome: Outcome, killed: bool, doubled: bool) -> None:
        """An attempt ends; its process may be killed before it looks whether that was the job's last unit.

        The unit's message may come a second time at that moment, to a worker that then dies.
        """
        unit = self.units[lease.unit_id]
        if not self._fenced(lease, lambda: transact(ledger.settle, lease, outcome)):
            return
        match outcome:
            case ledger.Done():
                unit.settle(DONE)
            case ledger.Again(delay):
                unit.max_attempts = max(unit.max_attempts, lease.max_attempts + 1)
                unit.settle(READY, delay=timedelta(seconds=delay))
            case ledger.Postponed():
                unit.max_attempts = max(unit.max_attempts, lease.max_attempts + 1)
                unit.postponements += 1
                unit.settle(READY, delay=min(backoff(unit.postponements), LONGEST_POSTPONEMENT))
            case ledger.Failed() if unit.attempt < unit.max_attempts:
                unit.settle(READY, delay=backoff(ATTEMPTS - (unit.max_attempts - unit.attempt)))
            case _:
                unit.settle(DEAD)
        if not killed:
            expected = self._needs_finisher(unit.job_id)
            assert transact(ledger.finish_if_drained, unit.job_id) is expected
            if expected:
                self._learn_finisher(unit.job_id)
        if doubled:
            self._claim(lease.unit_id)

    @rule(lease=consumes(leases))
    def crash(self, lease: Lease) -> None:
        """The attempt's process is gone, and its lease is never heard of again."""

    @rule(seconds=st.sampled_from([0.5, 2, 6, 31, 61]))
    def wait(self, seconds: float) -> None:
        type(self).now += timedelta(seconds=seconds)

    @rule()
    def wipe_the_broker(self) -> None:
        self.wire.sent.clear()

    @rule()
    def reconcile(self) -> None:
        lost, rescued = self._lost(), 0
        for unit in self.units.values():
            if unit.state is LEASED and unit.expires is not None and unit.expires < clock.now():
                unit.settle(DEAD if unit.attempt >= unit.max_attempts else READY)
                rescued += 1
        for unit_id in lost:
            self.units[unit_id].state, self.units[unit_id].published = READY, None
        finishing = [job_id for job_id in self.known if self._needs_finisher(job_id)]
        assert ledger.reconcile(self.wire) == ledger.Reconciled(rescued, len(lost), len(finishing))
        for job_id in finishing:
            self._learn_finisher(job_id)

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        if not self.known[job_id].closed:
            transact(ledger.pause, job_id)
            self.known[job_id].paused = True
            self._unpublish(job_id)

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        transact(ledger.resume, job_id)
        self.known[job_id].paused = False
        self._unpublish(job_id)

    @rule(job_id=jobs)
    def abort(self, job_id: str) -> None:
        with writing() as session:
            ledger.cancel(session, job_id)
            ledger.close(session, job_id)
        for unit in self._units_of(job_id):
            if unit.state in UNFINISHED:
                unit.settle(CANCELLED)
        self.known[job_id].closed, self.known[job_id].paused = True, False

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        with reading() as session:
            found = {row.id: row for row in session.scalars(select(UnitRow))}
        assert set(found) == set(self.units)
        for unit_id, unit in self.units.items():
            row = found[unit_id]
            assert (row.state, row.attempt, row.max_attempts) == (unit.state, unit.attempt, unit.max_attempts)
            assert (row.done_count, row.stale_writes) == (unit.done, unit.stale)
            assert row.lease_expires_at == unit.expires
            assert row.state != READY or row.not_before == unit.due

    @invariant()
    def no_unit_moves_but_as_declared(self) -> None:
        for unit_id, unit in self.units.items():
            before = self.seen.get(unit_id, unit.state)
            assert before is unit.state or unit.state in MOVES[before]
            self.seen[unit_id] = unit.state

    def teardown(self) -> None:
        """Once nothing goes wrong any more, every job comes to its end in a bounded number of rounds."""
        for job_id, job in self.known.items():
            if job.paused:
                self.resume(job_id)
        for _ in range(12):
            type(self).now += timedelta(seconds=61)
            self.reconcile()
            self.dispatch("arrive")
            while self.wire.sent:
                lease = self._claim(self.wire.sent.pop(0))
                if lease is not None:
                    self.settle(lease, ledger.Done(), killed=False, doubled=True)
            self.the_ledger_is_as_the_model_says()
        assert all(unit.state not in UNFINISHED for unit in self.units.values())
        for job in self.known.values():
            assert job.closed or self.units[job.finishers[-1]].state is DONE
            assert sum(self.units[unit_id].state is DONE for unit_id in job.finishers) <= 1

    def _claim(self, unit_id: str) -> Lease | None:
        unit = self.units[unit_id]
        expired = unit.state is LEASED and unit.expires is not None and unit.expires < clock.now()
        free = unit.state in (READY, PUBLISHED) or expired
        expected = (
            free and unit.due <= clock.now() and unit.attempt < unit.max_attempts and not self.known[unit.job_id].paused
        )
        lease = ledger.claim(unit_id, "worker")
        assert (lease is not None) == expected
        if lease is not None:
            unit.state, unit.attempt, unit.expires = LEASED, unit.attempt + 1, clock.now() + settings().lease
            assert lease.attempt == unit.attempt
        return lease

    def _fenced(self, lease: Lease, write: Callable[[], object]) -> bool:
        """Write; it must succeed if, and only if, the lease's attempt still owns its unit."""
        unit = self.units[lease.unit_id]
        owns = unit.state is LEASED and unit.attempt == lease.attempt
        if owns:
            write()
            return True
        with pytest.raises(LeaseLost):
            write()
        ledger.count_stale_write(lease)
        unit.stale += 1
        return False

    def _units_of(self, job_id: str) -> list[Unit]:
        return [unit for unit in self.units.values() if unit.job_id == job_id]

    def _is_publishable(self, unit: Unit) -> bool:
        return unit.state is READY and unit.due <= clock.now() and not self.known[unit.job_id].paused

    def _publish(self, units: list[Unit]) -> None:
        for unit in units:
            unit.state, unit.published = PUBLISHED, clock.now()

    def _unpublish(self, job_id: str) -> None:
        for unit in self._units_of(job_id):
            if unit.state is PUBLISHED:
                unit.state, unit.published = READY, None

    def _lost(self) -> list[str]:
        """Published units that are missed: those that wait longest, as many as the broker has too few messages for."""
        found = []
        for finishes in (False, True):  # which are in queues of their own
            published = sorted(
                (unit.published, unit_id)
                for unit_id, unit in self.units.items()
                if unit.state is PUBLISHED and unit.published is not None and unit.finishes is finishes
            )
            waiting = len(self.wire.sent)
            patience = settings().republish_seconds if waiting else settings().republish_empty_seconds
            late = [unit_id for at, unit_id in published if clock.now() - at > timedelta(seconds=patience)]
            found += late[: max(0, len(published) - waiting)]
        return found

    def _needs_finisher(self, job_id: str) -> bool:
        job = self.known[job_id]
        if job.closed or any(unit.state in UNFINISHED for unit in self._units_of(job_id)):
            return False
        return not job.finishers or self.units[job.finishers[-1]].state is not DONE

    def _learn_finisher(self, job_id: str) -> None:
        (new,) = set(unit_ids(job_id)) - set(self.units)
        self.units[new] = Unit(job_id, clock.now(), finishes=True)
        self.known[job_id].finishers.append(new)


@pytest.fixture
def ledger_of_its_own(home: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SQLite file, a wide window, and a clock that only the machine moves."""
    home.mkdir()
    shutil.copyfile(sqlite_template, home / "orchestrator.db")
    forget_settings()
    monkeypatch.setattr(settings(), "dispatch_window", 1000)
    monkeypatch.setattr(clock, "now", lambda: LedgerMachine.now)
    yield
    forget_settings()


@pytest.mark.timeout(900)  # seconds while all is well; a counterexample takes minutes to shrink
@pytest.mark.usefixtures("ledger_of_its_own")
@pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.endurance)])
def test_whatever_happens_in_whatever_order_the_ledger_does_as_its_model(examples: int) -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
