"""Checks of what goes on, as the database tells it: workers, beat, clocks, waiting and dead units, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from orchestrator import clock
from orchestrator.database import db_now, engine, reading
from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.ledger import UNFINISHED, UnitState
from orchestrator.ledger.overview import Overview, overview
from orchestrator.ledger.pulses import SILENCE, Pulse, pulses
from orchestrator.ledger.tables import SubmissionRow, UnitRow
from orchestrator.queues import QueueName
from orchestrator.settings import settings

#: Clocks further apart than this are worth a look …
NOTICEABLE = timedelta(seconds=5)
#: … and further than this, beat's ticks expire before they are run, and signed URLs before they are used.
HARMFUL = timedelta(seconds=30)
#: What happened longer ago is history.
RECENT = timedelta(days=1)
#: A unit that is ready for so long, while its queue is empty and nobody works, is not waiting for its turn.
STALLED = timedelta(minutes=1)
#: A worker that fell silent longer ago was most likely meant to.
MISSED = timedelta(hours=1)


def check_activity() -> list[Finding]:
    """Every check of this module, on one reading of the database."""
    with reading() as session:
        before = clock.now()
        theirs = session.scalar(select(db_now()))
        here = before + (clock.now() - before) / 2
        assert theirs is not None, "the database has a clock"
        workers, ticks = pulses(session, "worker:"), pulses(session, "tick:")
        return [
            *check_workers(workers),
            check_beat(ticks),
            check_clocks(here - theirs, workers),
            *check_flow(overview(session)),
            check_leases(workers),
            check_reconciled(workers),
            check_dead_units(session),
            check_rejections(session),
        ]


def check_workers(workers: Sequence[Pulse]) -> list[Finding]:
    """Whether somebody serves each queue, and whether a worker vanished without a word."""
    alive = [worker for worker in workers if worker.age <= SILENCE]
    findings = []
    for queue in QueueName:
        serving = [name_of(worker) for worker in alive if queue.value in worker.details.get("queues", ())]
        check = f"queue {queue.value}"
        if serving:
            findings.append(ok(check, f"served by {', '.join(serving)}"))
        else:
            remedy = f"run `orchestrator up`, or `celery -A workers worker -Q {queue.value}`"
            findings.append(problem(check, "no worker serves it", remedy))
    for worker in alive:
        health = worker.details.get("health", {})
        if not health.get("healthy", True):
            message = f"{name_of(worker)} cannot claim and finish: {'; '.join(health.get('reasons', ()))}"
            findings.append(problem("workers", message, "if this lasts, restart it; its log says more"))
    for worker in workers:
        if SILENCE < worker.age < MISSED:
            message = f"{name_of(worker)} has been silent for {seconds(worker.age)}"
            findings.append(warning("workers", message, "if it was not meant to end, look at its log"))
    return findings


def check_beat(ticks: Sequence[Pulse]) -> Finding:
    """Whether beat's ticks are sent, and run."""
    if not ticks:
        return problem("beat", "no tick was ever run", "run `orchestrator up`, or one `celery -A workers beat`")
    last = min(tick.age for tick in ticks)
    if last <= SILENCE:
        return ok("beat", f"last tick {seconds(last)} ago")
    remedy = (
        "start beat (`celery -A workers beat`) and a worker that serves `ticks`; lost messages are not seen until then"
    )
    return problem("beat", f"the last tick was run {seconds(last)} ago", remedy)


def check_clocks(ahead: timedelta, workers: Sequence[Pulse]) -> Finding:
    """How far the clocks of this machine and of the workers are from the database's."""
    skews = {} if engine().dialect.name == "sqlite" else {"this machine": ahead}
    for worker in workers:
        if worker.age <= SILENCE and "clock" in worker.details:
            skews[name_of(worker)] = datetime.fromisoformat(worker.details["clock"]) - worker.seen_at
    if not skews:
        return ok("clocks", "there is only one")
    who, skew = max(skews.items(), key=lambda item: abs(item[1]))
    way = "ahead of" if skew > timedelta() else "behind"
    message = f"{who} is {abs(skew).total_seconds():.1f} s {way} the database"
    if abs(skew) <= NOTICEABLE:
        return ok("clocks", message)
    grade = problem if abs(skew) > HARMFUL else warning
    return grade("clocks", message, "set the clocks by NTP")


def check_flow(found: Overview) -> list[Finding]:
    """What waits in each queue, against its window, and whether anything has waited although there was room."""
    findings = []
    for queue, view in found.queues.items():
        ready, published, leased = (view.units.get(state, 0) for state in UNFINISHED)
        message = f"{ready} ready, {published} of {settings().dispatch_window} in the broker, {leased} at work"
        if view.oldest_ready is not None:
            message += f"; the oldest ready one has waited {seconds(view.oldest_ready)}"
        stalled = view.oldest_ready is not None and view.oldest_ready > STALLED and not published and not leased
        if stalled:
            remedy = "look at beat, at the broker, and at `orchestrator bulk-inference list` for what jobs wait for"
            findings.append(warning(f"units {queue}", message, remedy))
        else:
            findings.append(ok(f"units {queue}", message))
    return findings


def check_leases(workers: Sequence[Pulse]) -> Finding:
    """Whether attempts lost their units within the last hour, other than to an abort."""
    counts = last_hour(workers)
    taken, refused = counts["leases_lost:taken"], counts["stale_writes_refused"]
    if not taken:
        return ok("leases", "none was lost within the last hour")
    message = f"{taken} lost and {refused} stale writes refused within the last hour; no result is harmed"
    return warning("leases", message, "look for workers that freeze, swap, or lose the database for long")


def check_reconciled(workers: Sequence[Pulse]) -> Finding:
    """What reconcile put right within the last hour."""
    actions = {name.partition(":")[2]: count for name, count in last_hour(workers).items() if "reconciled:" in name}
    done = ", ".join(f"{count} {action}" for action, count in sorted(actions.items()))
    return ok("reconcile", f"within the last hour: {done}" if done else "nothing to put right within the last hour")


def last_hour(workers: Sequence[Pulse]) -> Counter[str]:
    """What the living workers counted within the last hour, added up."""
    total: Counter[str] = Counter()
    for worker in workers:
        if worker.age <= SILENCE:
            total.update(worker.details.get("last_hour", {}))
    return total


def check_dead_units(session: Session) -> Finding:
    """Whether units have used up their attempts lately."""
    count = session.scalar(dead_since(RECENT)) or 0
    if not count:
        return ok("dead units", "none in the last day")
    return warning(
        "dead units", f"{count} in the last day", "`orchestrator work dead` says why, `work retry` tries again"
    )


def check_rejections(session: Session) -> Finding:
    """Whether messages on the queue `submissions` have been refused lately."""
    count = session.scalar(rejected_since(RECENT)) or 0
    if not count:
        return ok("submissions", "none was refused in the last day")
    return warning("submissions", f"{count} refused in the last day", "`orchestrator work rejected` says why")


def dead_since(age: timedelta) -> Select[int]:
    """How many units have died within `age`."""
    return (
        select(func.count())
        .select_from(UnitRow)
        .where(UnitRow.state == UnitState.DEAD, UnitRow.finished_at >= db_now(-age))
    )


def rejected_since(age: timedelta) -> Select[int]:
    """How many submissions were refused within `age`."""
    return select(func.count()).select_from(SubmissionRow).where(SubmissionRow.created_at >= db_now(-age))


def name_of(worker: Pulse) -> str:
    """The worker's name as Celery has it."""
    return worker.name.removeprefix("worker:")


def seconds(age: timedelta) -> str:
    """A length of time for a person."""
    whole = max(0, int(age.total_seconds()))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min"
