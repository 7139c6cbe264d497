"""Ten thousand live jobs: what a reconcile tick and the dispatch of a window cost then.

    python -m benchmarks.live_jobs --database sqlite --explain

Jobs and units are written by the ledger's own functions, over 50 projects, a tenth of the jobs paused. What would take
200,000 attempts to come about, the states of units long done, at work or in the broker, is set by one statement each;
dispatch itself publishes the rest. Every figure is a median. `no broker` hands messages to a publisher that costs
nothing, which leaves the ledger's own cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from statistics import median

import redis
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from benchmarks.figures import Figure, at_most, parser, report, without_goal
from benchmarks.snapshots import analyze
from benchmarks.stage import stage
from benchmarks.statements import Statement, print_slowest, recorded
from orchestrator import ledger
from orchestrator.database import db_now, transact, writing
from orchestrator.ids import new_id
from orchestrator.ledger import NewUnit, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.queues import UNIT_QUEUES, CeleryPublisher, Publishable, Publisher, QueueName
from orchestrator.settings import settings

KIND = "benchmark"
PROJECTS = 50
#: The queues that its units wait for; those of other kinds of work stay empty.
FILLED = (QueueName.PLANNING, QueueName.INFERENCE)
#: One job in so many is paused.
PAUSED = 10
#: Units that each job has left to do.
WAITING = 3
#: Units at work.
LEASED = 64
#: Units whose owners fall silent at once: as many as one sweep takes.
SILENT = 500
#: Jobs written in one transaction.
PAGE = 200


class NoBroker:
    """A publisher that costs nothing, before a broker whose queues always hold something."""

    def publish(self, units: Iterable[Publishable]) -> None:
        """Forget the units."""

    def depth(self, queue: str) -> int:  # noqa: ARG002  the publisher's signature
        """Never empty, as while work goes on."""
        return 1


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, default=10_000)
    options.add_argument("--done-units", type=int, default=200_000)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--explain", action="store_true", help="print the plans of the slowest statements")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """Times in the ledger that `fill` makes."""
    with stage(options.database, 1) as surroundings:
        return measured(surroundings.project.id, options)


def measured(project_id: str, options: argparse.Namespace) -> list[Figure]:
    """As `measure`, in a ledger that nobody else works on; `project_id` becomes one of the projects."""
    fill(project_id, options.jobs, options.done_units)
    watch = Stopwatch(options.rounds)
    silent = min(SILENT, options.jobs // 4)
    figures = times(watch, "no broker", NoBroker(), project_id, silent)
    figures += times(watch, "Redis", CeleryPublisher(), project_id, silent)
    figures.append(without_goal("  claim and conclude a unit", f"{attempts(watch):.3g} ms"))
    if options.explain:
        print_slowest(watch.statements)
    return figures


class Stopwatch:
    """Times what is done again and again, and remembers the statements."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.statements: dict[str, Statement] = {}

    def typical(self, action: Callable[[], object], *, before: Callable[[], object] | None = None) -> float:
        """The median time of `action` in milliseconds, without that of `before`, which precedes each round."""
        taken = []
        for _ in range(self.rounds):
            if before is not None:
                before()
            with recorded(self.statements):
                started = time.perf_counter()
                action()
                taken.append(time.perf_counter() - started)
        return median(taken) * 1000


def fill(first_project: str, jobs: int, done_units: int) -> None:
    """Live jobs with units in every state, and nothing in the broker."""
    projects = [first_project, *(new_id() for _ in range(PROJECTS - 1))]
    done = done_units // jobs
    for low in range(0, jobs, PAGE):
        with writing() as session:
            for number in range(low, min(low + PAGE, jobs)):
                open_job(session, projects[number % PROJECTS], done, paused=number % PAUSED == 0)
    with writing() as session:
        change(session, UnitRow.key.like("done %"), state=UnitState.DONE, attempt=1, finished_at=db_now())
        work = select(UnitRow.id).where(*waiting(0)).limit(LEASED)
        lease = {"lease_owner": "worker", "lease_expires_at": db_now(timedelta(hours=1))}
        change(session, UnitRow.id.in_(work), state=UnitState.LEASED, attempt=1, **lease)
    analyze()


def open_job(session: Session, project_id: str, done: int, *, paused: bool) -> None:
    """A job with one unit to plan, some to infer, and `done` units that `fill` declares done."""
    job_id = new_id()
    units = [NewUnit(f"{KIND}.infer", f"waiting {n}", QueueName.INFERENCE, {"low": n}) for n in range(WAITING)]
    units += [NewUnit(f"{KIND}.infer", f"done {n}", QueueName.INFERENCE, {"low": n}) for n in range(done)]
    first = NewUnit(f"{KIND}.plan", "plan", QueueName.PLANNING)
    ledger.open_job(session, job_id=job_id, kind=KIND, project_id=project_id, first=first)
    ledger.add(session, job_id, units)
    if paused:
        ledger.pause(session, job_id)


def times(watch: Stopwatch, broker: str, publisher: Publisher, project_id: str, silent: int) -> list[Figure]:
    """The figures with one publisher."""
    window = settings().dispatch_window
    everything = window * len(FILLED)
    both = watch.typical(lambda: dispatch(publisher, everything), before=lambda: empty_windows(*UNIT_QUEUES))
    one = watch.typical(lambda: dispatch(publisher, window), before=lambda: empty_windows(QueueName.INFERENCE))
    quiet = watch.typical(lambda: ledger.reconcile(publisher))
    busy = watch.typical(lambda: rescue(publisher, silent), before=lambda: fall_silent(silent))
    full = watch.typical(lambda: ledger.dispatch(publisher))
    topped = watch.typical(lambda: ledger.top_up(project_id, publisher))
    return [
        at_most(f"dispatch of a window of {window}, {broker}", one, 50, " ms"),
        at_most(f"reconcile with nothing to put right, {broker}", quiet, 500, " ms"),
        at_most(f"reconcile with {silent} silent owners, {broker}", busy, 500, " ms"),
        without_goal(f"  dispatch of both windows, {broker}", f"{both:.3g} ms"),
        without_goal(f"  dispatch into full windows, {broker}", f"{full:.3g} ms"),
        without_goal(f"  top up after a unit, {broker}", f"{topped:.3g} ms"),
    ]


def dispatch(publisher: Publisher, expected: int) -> None:
    """Fill empty windows; a project without a place in one may get one beyond."""
    if (published := ledger.dispatch(publisher)) < expected:
        raise SystemExit(f"{published} units were published instead of {expected}: the figure would mean nothing")


def rescue(publisher: Publisher, expected: int) -> None:
    """Put silent units right."""
    if (rescued := ledger.reconcile(publisher).rescued) != expected:
        raise SystemExit(f"{rescued} units were rescued instead of {expected}: the figure would mean nothing")


def attempts(watch: Stopwatch) -> float:
    """The median time, in milliseconds, in which a unit is claimed and concluded, with other work in the job."""
    with writing() as session:
        units = iter(session.scalars(select(UnitRow.id).where(*waiting(2)).limit(watch.rounds)).all())

    def attempt() -> None:
        lease = ledger.claim(next(units), "worker")
        assert lease is not None
        transact(ledger.conclude, lease, ledger.Done())

    return watch.typical(attempt)


def empty_windows(*queues: QueueName) -> None:
    """As if the queues' published units had never been published."""
    with redis.Redis.from_url(settings().broker_url.get_secret_value()) as broker:
        broker.delete(*queues)
    with writing() as session:
        published = (UnitRow.state == UnitState.PUBLISHED) & UnitRow.queue.in_(queues)
        change(session, published, state=UnitState.READY, published_at=None)


def fall_silent(count: int) -> None:
    """Let `count` units look as if their owners had died under them."""
    with writing() as session:
        units = select(UnitRow.id).where(*waiting(1)).limit(count)
        lease = {"lease_owner": "silent", "lease_expires_at": db_now(timedelta(hours=-1))}
        change(session, UnitRow.id.in_(units), state=UnitState.LEASED, attempt=1, **lease)


def waiting(number: int) -> tuple[ColumnElement[bool], ...]:
    """Ready units that dispatch comes to last: those of this number in each live job that is not paused."""
    is_running = select(JobRow.id).where(JobRow.id == UnitRow.job_id, ~JobRow.paused).exists()
    return UnitRow.state == UnitState.READY, UnitRow.key == f"waiting {number}", is_running


def change(session: Session, chosen: ColumnElement[bool], **values: object) -> None:
    """Set columns of the chosen units."""
    session.execute(update(UnitRow).where(chosen).values(**values), execution_options={"synchronize_session": False})


if __name__ == "__main__":
    main()
