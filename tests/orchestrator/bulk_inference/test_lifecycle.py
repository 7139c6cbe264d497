"""The life of a job: only declared moves, each with an event, whatever is done to it in whatever order."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator import ledger
from orchestrator.bulk_inference import job as doors
from orchestrator.bulk_inference.finish import finish
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, TERMINAL, end
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.plan import plan
from orchestrator.bulk_inference.record import fail_job
from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import dispose, engine, reading, transact, writing
from orchestrator.errors import Conflict, LeaseLost
from orchestrator.ledger import Again, Done, Failed, Hopeless, Lease, Postponed, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.transitions import events_of
from tests.conftest import forget_settings
from tests.support.bulk_inference import Scene, refuse, run_all, set_scene, store, stored

if TYPE_CHECKING:
    from tests.support.services import Broker

#: Three units' worth.
DATUMS = 150


@pytest.mark.parametrize(
    "state, reached",
    [
        (ProgressState.FAILED, ["initialized", "failed"]),
        (ProgressState.ABORTED, ["initialized", "aborted"]),
        (ProgressState.SUCCEEDED, ["initialized"]),
    ],
)
def test_a_job_that_has_only_been_submitted_can_fail_or_be_aborted_but_not_succeed(
    scene: Scene, state: ProgressState, reached: list[str]
) -> None:
    job_id = doors.submit_bulk_inference_job(scene.request())
    assert transact(end, job_id, state, reason="why") is (len(reached) == 2)
    with reading() as session:
        assert [event.to_state for event in events_of(session, job_id)] == reached
        assert (session.get_one(JobRow, job_id).closed_at is not None) is (len(reached) == 2)


def test_a_job_that_fails_while_it_runs_passes_through_running_failed(scene: Scene) -> None:
    job_id = doors.submit_bulk_inference_job(scene.request())
    run_all(job_id, failing={1})
    with reading() as session:
        states = [event.to_state for event in events_of(session, job_id)]
    assert states == ["initialized", "in_progress", "running", "running_failed", "failed"]


class JobMachine(RuleBasedStateMachine):
    """One job, and everything that people, workers and crashes may do to it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.job_id = doors.submit_bulk_inference_job(scene.request())
        #: Of attempts that somebody believes to be his, whether or not they still hold.
        self.leases: list[Lease] = []

    def state(self) -> ProgressState:
        return doors.get_bulk_inference_details(self.job_id).status

    @rule(choice=st.integers(0, 5))
    def somebody_claims_a_unit(self, choice: int) -> None:
        with writing() as session:
            session.query(UnitRow).update({"not_before": UnitRow.created_at})
        units = ledger.list_units(self.job_id, states=[UnitState.READY, UnitState.PUBLISHED])
        if units and (lease := ledger.claim(units[choice % len(units)].id, "test")):
            self.leases.append(lease)

    def work(self, lease: Lease, share: int = 100, *, fails: bool = False) -> ledger.Outcome:
        """What the attempt does, up to a `share` of its datums."""
        match lease.kind.rpartition(".")[2]:
            case "plan":
                return plan(lease)
            case "infer" if self.state() in TERMINAL:
                return Hopeless("the job has ended")
            case "infer":
                low, high = lease.payload["low"], lease.payload["high"]
                middle = low + (high - low) * share // 100
                missing = set(range(low, middle)) - set(stored(self.job_id)) - self.failed()
                bad = {max(missing)} if fails and missing else set()
                store(lease, missing - bad, bad)
                return Done()
            case _:
                return finish(lease, refuse)

    @precondition(lambda self: self.leases)
    @rule(choice=st.integers(0, 5), share=st.integers(0, 100), fails=st.booleans())
    def an_attempt_works(self, choice: int, share: int, fails: bool) -> None:
        """Any attempt, also one whose lease is long lost."""
        lease = self.leases[choice % len(self.leases)]
        try:
            self.work(lease, share, fails=fails)
        except LeaseLost:
            self.leases.remove(lease)

    @precondition(lambda self: self.leases)
    @rule(choice=st.integers(0, 5), how=st.sampled_from([Again(), Postponed("away"), Failed("broken")]))
    def an_attempt_ends_early(self, choice: int, how: ledger.Outcome) -> None:
        self.settle(self.leases[choice % len(self.leases)], how)

    @precondition(lambda self: self.leases)
    @rule(choice=st.integers(0, 5))
    def an_attempt_completes(self, choice: int) -> None:
        lease = self.leases[choice % len(self.leases)]
        try:
            outcome = self.work(lease)
        except LeaseLost:
            self.leases.remove(lease)
        else:
            self.settle(lease, outcome)

    @precondition(lambda self: any(lease.kind.endswith("infer") for lease in self.leases))
    @rule()
    def the_endpoint_refuses(self) -> None:
        lease = next(lease for lease in self.leases if lease.kind.endswith("infer"))
        try:
            fail_job(lease, "refused")
        except LeaseLost:
            self.leases.remove(lease)

    @rule()
    def every_process_is_killed_and_its_leases_run_out(self) -> None:
        with writing() as session:
            session.query(UnitRow).filter_by(state=UnitState.LEASED).update({"lease_expires_at": UnitRow.created_at})
        ledger.reconcile()

    @rule()
    def somebody_reconciles(self) -> None:
        ledger.reconcile()

    @rule(door=st.sampled_from([doors.pause_bulk_inference_job, doors.resume_bulk_inference_job]))
    def a_person_pauses_or_resumes(self, door: object) -> None:
        assert callable(door)
        if self.state() not in TERMINAL:
            door(self.job_id)

    @rule()
    def a_person_retries(self) -> None:
        before = self.state()
        try:
            doors.retry_bulk_inference_job(self.job_id)
        except Conflict:
            assert self.state() is before
        else:
            assert before in (ProgressState.FAILED, ProgressState.SUCCEEDED)

    @rule(really=st.integers(0, 9))
    def a_person_aborts(self, really: int) -> None:
        if really == 0:
            doors.abort_bulk_inference_job(self.job_id)

    def settle(self, lease: Lease, outcome: ledger.Outcome) -> None:
        self.leases.remove(lease)
        try:
            transact(ledger.settle, lease, outcome)
        except LeaseLost:
            return
        transact(ledger.finish_if_drained, self.job_id)

    def failed(self) -> set[int]:
        with reading() as session:
            return {row.ordinal for row in session.query(FailureRow).filter_by(job_id=self.job_id)}

    @invariant()
    def progress_is_what_is_stored(self) -> None:
        details = doors.get_bulk_inference_details(self.job_id)
        found = stored(self.job_id)
        assert len(found) == len(set(found)) == details.num_computed
        assert len(self.failed()) == details.num_failed
        assert not set(found) & self.failed()

    @invariant()
    def a_job_that_has_ended_has_nothing_left_to_do(self) -> None:
        details = doors.get_bulk_inference_details(self.job_id)
        with reading() as session:
            job = session.get_one(JobRow, self.job_id)
            units = session.query(UnitRow).filter_by(job_id=self.job_id).all()
        assert (details.status in TERMINAL) is (job.closed_at is not None) is (details.finished_at is not None)
        if details.status in TERMINAL:
            assert sum(unit.state in ledger.UNFINISHED for unit in units) <= 1  # whoever ended it, not yet settled
        if details.status is ProgressState.SUCCEEDED:
            assert details.num_computed == DATUMS

    @invariant()
    def events_tell_every_move(self) -> None:
        with reading() as session:
            events = events_of(session, self.job_id)
            assert events[-1].to_state == session.get_one(BulkInferenceJobRow, self.job_id).state
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        for event in events[1:]:
            assert event.from_state is not None
            assert event.to_state in LIFECYCLE.moves[ProgressState(event.from_state)]

    def teardown(self) -> None:
        """Once nobody interferes any more, the job comes to an end, and lacks nothing if it succeeded."""
        if self.state() not in TERMINAL:
            doors.resume_bulk_inference_job(self.job_id)
        for _ in range(60):
            if self.state() in TERMINAL:
                return
            self.every_process_is_killed_and_its_leases_run_out()
            self.somebody_claims_a_unit(0)
            if self.leases:
                self.an_attempt_completes(len(self.leases) - 1)
        raise AssertionError(f"the job is still {self.state()}: {ledger.list_units(self.job_id)}")


@pytest.mark.parametrize("examples", [8, pytest.param(40, marks=[pytest.mark.endurance, pytest.mark.timeout(900)])])
def test_whatever_happens_to_a_job_its_books_balance_and_it_comes_to_an_end(
    sqlite_template: Path, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    files = (tmp_path / f"{number}.db" for number in count())

    def use(template: Path) -> None:
        dispose()  # whoever closes the file last puts the log's content into it
        path = shutil.copyfile(template, next(files))
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", f"sqlite:///{path}")
        forget_settings()

    use(sqlite_template)
    scene = set_scene(tmp_path, DATUMS)
    prepared = Path(str(engine().url.database))

    class Machine(JobMachine):
        def __init__(self) -> None:
            use(prepared)
            super().__init__(scene)

    effort = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=effort)
