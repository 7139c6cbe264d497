"""The life of a run against a simple model of it, through any order of steps, reports, stops, losses and deaths."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.ledger import Hopeless
from orchestrator.ledger.tables import UnitRow
from orchestrator.training_v2 import Run, RunState, TrainingConflict, intake
from orchestrator.training_v2.exceptions import StaleLaunch
from orchestrator.training_v2.lifecycle import LAUNCHING, LIFECYCLE, LOST, STOPPING, WRITABLE
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.runtime import Alive, Exited, Gone, Waiting
from orchestrator.training_v2.tables import TERMINAL
from orchestrator.training_v2.watch import watch
from tests.conftest import forget_settings
from tests.support.ledger import job_row
from tests.support.training import (
    StageRuntime,
    due_unit,
    fall_silent,
    history,
    row,
    runtimes,
    set_scene,
    state,
    take_finish,
    take_step,
)


class RunMachine(RuleBasedStateMachine):
    """Each rule does what a worker, a supervisor, a person or fate may do; the invariants hold after each."""

    @initialize()
    def begin(self) -> None:
        self.runtime = StageRuntime()
        self.run_id = set_scene().create()
        self.position: dict[int, int] = {}

    @rule()
    def work(self) -> None:
        """A worker takes the run's step, if there is one left."""
        if self._unit("training.step"):
            take_step(self.run_id, self.runtime)
        elif self._unit("training.finish"):
            take_finish(self.run_id, self.runtime)

    @rule(times=st.integers(2, 6))
    def work_on(self, times: int) -> None:
        """The same, as it goes most of the time."""
        for _ in range(times):
            self.work()

    @rule(launch=st.integers(1, 4))
    def arrive(self, launch: int) -> None:
        """A supervisor begins; it may be that of a launch that is long over, or of one that is yet to come."""
        now = row(self.run_id)
        first = now.supervisor in (None, f"supervisor {launch}")
        allowed = launch == now.launch and RunState(now.state) in LAUNCHING | WRITABLE and first
        if self._reports(lambda: intake.arrive(self.run_id, launch, f"supervisor {launch}"), allowed=allowed):
            assert state(self.run_id) in STOPPING | {RunState.JOB_RUNNING}

    @rule(launch=st.integers(1, 4))
    def measure(self, launch: int) -> None:
        """A trainer measures something, whether or not it counts."""
        position = self.position.get(launch, 0)
        metric = [NewMetric(position, "loss", float(launch))]
        if self._reports(
            lambda: intake.record_metrics(self.run_id, launch, position, metric), allowed=self._counts(launch)
        ):
            self.position[launch] = position + 1

    @rule(launch=st.integers(1, 4), code=st.sampled_from([0, 1]), signalled=st.booleans(), stored=st.booleans())
    def leave(self, launch: int, code: int, signalled: bool, stored: bool) -> None:
        """A trainer ends, and its supervisor says so; the last word counts also if the launch was lost meanwhile."""
        exited = Exited(code, signalled, stored=stored)
        stopping = state(self.run_id) in STOPPING
        trainer = self.runtime.trainers.get((self.run_id, launch))
        if trainer is not None:
            trainer.seen = exited
        now = row(self.run_id)
        found = launch == now.launch and now.supervisor == LOST and now.finished_at is None
        allowed = self._counts(launch) or (found and stored and not signalled)
        if self._reports(lambda: intake.leave(self.run_id, launch, exited), allowed=allowed):
            natural = RunState.JOB_FAILED if code else RunState.JOB_COMPLETED
            told = RunState.JOB_TERMINATED if stopping else RunState.JOB_UNKNOWN
            assert state(self.run_id) is (told if signalled else natural)

    @rule(seen=st.sampled_from([Gone(), Exited(0), Exited(0, stored=True), Exited(2), Exited(-9, signalled=True)]))
    def die(self, seen: Gone | Exited) -> None:
        """The current trainer dies without a word."""
        trainer = self.runtime.trainers.get((self.run_id, row(self.run_id).launch))
        if trainer is not None:
            trainer.seen = seen

    @rule()
    def freeze(self) -> None:
        fall_silent(self.run_id)

    @rule(greeting=st.sampled_from([Alive(), Waiting("for a GPU"), Exited(1), Gone()]))
    def welcome(self, greeting: Alive | Waiting | Exited | Gone) -> None:
        """Decide what the next launch meets."""
        self.runtime.greets = greeting

    @rule()
    def look(self) -> None:
        watch(runtimes(self.runtime))

    @rule(seconds=st.integers(1, 600))
    def stop(self, seconds: int) -> None:
        before = state(self.run_id)
        Run.from_id(self.run_id).stop(timedelta(seconds=seconds))
        after = state(self.run_id)
        assert after is (before if before in TERMINAL | STOPPING else RunState.RUN_STOP_REQUESTED)

    @rule()
    def restart(self) -> None:
        """A person wants the run to go on; the processes of its former launches have ended by then."""
        before, launch = state(self.run_id), row(self.run_id).launch
        if before in TERMINAL - {RunState.JOB_COMPLETED}:
            Run.from_id(self.run_id).restart()
            assert (state(self.run_id), row(self.run_id).launch) == (RunState.RUN_RESTART_REQUESTED, launch + 1)
        else:
            with pytest.raises(TrainingConflict):
                Run.from_id(self.run_id).restart()

    @precondition(lambda self: self._unit("training.step"))
    @rule()
    def break_down(self) -> None:
        """The step meets a bug, again and again, until it is given up."""
        lease = ledger.claim(due_unit(self.run_id), "broken")
        assert lease is not None
        transact(ledger.conclude, lease, Hopeless("a bug"))

    @invariant()
    def events_tell_of_legal_moves_without_a_gap(self) -> None:
        states = [RunState(each) for each in history(self.run_id)]
        assert states[-1] is state(self.run_id)
        assert all(after in LIFECYCLE.moves[before] for before, after in itertools.pairwise(states))

    @invariant()
    def a_run_ends_once_for_each_time_that_somebody_wanted_it(self) -> None:
        states = [RunState(each) for each in history(self.run_id)]
        ends = sum(each in TERMINAL for each in states)
        wishes = 1 + sum(
            before in TERMINAL and after is RunState.RUN_RESTART_REQUESTED
            for before, after in itertools.pairwise(states)
        )
        assert ends == (wishes if states[-1] in TERMINAL else wishes - 1)

    @invariant()
    def the_job_is_open_as_long_as_the_run_is_alive(self) -> None:
        now = row(self.run_id)
        ended = now.state in TERMINAL
        assert (job_row(self.run_id).closed_at is not None) == (now.finished_at is not None) == ended
        if not ended:
            assert self._unit("training.step") or self._unit("training.finish")

    @invariant()
    def no_trainer_is_alive_but_the_current_launch_of_a_live_run(self) -> None:
        now = row(self.run_id)
        for (_, number), trainer in self.runtime.trainers.items():
            if isinstance(trainer.seen, Alive):
                assert number == now.launch
                assert now.state not in TERMINAL

    @invariant()
    def each_metric_that_was_accepted_is_kept_once(self) -> None:
        kept = [metric.value for metric in Run.from_id(self.run_id).get_all_metrics()]
        expected = [float(launch) for launch, count in self.position.items() for _ in range(count)]
        assert sorted(kept) == sorted(expected)

    def teardown(self) -> None:
        """Once somebody stops the run and its trainer heeds, it ends in a bounded number of steps."""
        if not hasattr(self, "run_id"):
            return
        self.stop(1)
        for _ in range(10):
            self.work()
            for trainer in self.runtime.trainers.values():
                if trainer.told and isinstance(trainer.seen, Alive | Waiting):
                    trainer.seen = Exited(0, signalled=True)
        assert state(self.run_id) in TERMINAL

    def _counts(self, launch: int) -> bool:
        now = row(self.run_id)
        return launch == now.launch and RunState(now.state) in WRITABLE and now.supervisor != LOST

    def _reports(self, report: Callable[[], object], *, allowed: bool) -> bool:
        """Report; it must be heard if, and only if, the launch counts."""
        refused = row(self.run_id).stale_writes
        if allowed:
            report()
            return True
        with pytest.raises(StaleLaunch):
            report()
        assert row(self.run_id).stale_writes == refused + 1
        return False

    def _unit(self, kind: str) -> bool:
        wanted = select(UnitRow.id).where(
            UnitRow.job_id == self.run_id, UnitRow.kind == kind, UnitRow.finished_at.is_(None)
        )
        with reading() as session:
            return session.scalar(wanted) is not None


@pytest.fixture
def database_of_its_own(home: Path, sqlite_template: Path) -> Iterator[None]:
    """A SQLite file for every example: each run is by itself."""
    home.mkdir()
    shutil.copyfile(sqlite_template, home / "orchestrator.db")
    forget_settings()
    yield
    forget_settings()


@pytest.mark.timeout(900)  # seconds while all is well; a counterexample takes minutes to shrink
@pytest.mark.usefixtures("database_of_its_own")
@pytest.mark.parametrize("examples", [8, pytest.param(60, marks=pytest.mark.endurance)])
def test_whatever_happens_in_whatever_order_a_run_lives_as_its_table_says(
    monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr(ledger, "nudge", lambda: None)
    run_state_machine_as_test(
        RunMachine,
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
