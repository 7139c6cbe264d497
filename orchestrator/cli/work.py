"""`orchestrator work`: the ledger's units, for whoever looks after the machinery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference.job import retry_bulk_inference_job
from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.output import (
    JsonOption,
    LimitOption,
    ago,
    console,
    counted,
    print_facts,
    print_json,
    print_table,
    state,
)
from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, JobNotFound, NotFound
from orchestrator.ledger import UnitState, UnitSummary
from orchestrator.ledger.submissions import rejections
from orchestrator.ledger.tables import JobRow, UnitRow, is_unfinished
from orchestrator.training_v2.steering import restart

app = typer.Typer(help="Units of work, dead ones, and refused submissions.", no_args_is_help=True)

#: How a job that has ended is opened again, by its kind.
REOPEN: Mapping[str, Callable[[str], object]] = {"bulk_inference": retry_bulk_inference_job, "training": restart}

JobOption = Annotated[str | None, typer.Option("--job", "-j", help="Only units of this job.")]


@app.command("list", cls=NeedsDatabase)
def list_(
    job: JobOption = None,
    states: Annotated[list[UnitState] | None, typer.Option("--state", help="Only units in this state.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List units, newest job first."""
    units = ledger.list_units(job, states=states or (), limit=limit)
    if as_json:
        print_json(units)
        return
    for index, (job_id, group) in enumerate(groupby(units, key=lambda unit: unit.job_id)):
        _print_units(job_id, list(group), gap=index > 0)
    if not units:
        console().print(Text("No unit here.", style="dim"))
    elif len(units) == limit:
        console().print(Text(f"\nThere may be more: --limit {10 * limit}", style="dim"))


@app.command("dead", cls=NeedsDatabase)
def dead(job: JobOption = None, limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List the units that used up their attempts, and why."""
    units = ledger.list_units(job, states=[UnitState.DEAD], limit=limit)
    if as_json:
        print_json(units)
        return
    for unit in units:
        tries = f"{counted(unit.attempt, 'attempt')}, died {ago(unit.finished_at)} ago"
        facts = [("what", f"{unit.kind}: {unit.key}"), ("tried", tries), ("job", unit.job_id)]
        print_facts(f"Unit {unit.id}", [*facts, ("error", unit.last_error or "")])
    if units:
        console().print(Text("`orchestrator work retry JOB` tries them again", style="dim"))
    else:
        console().print(Text("No unit is dead.", style="dim"))


@app.command("retry", cls=NeedsDatabase)
def retry(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    units: Annotated[list[str] | None, typer.Option("--unit", help="Only this unit; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a job's dead units fresh attempts; a job that has ended is opened again."""
    kind, is_closed = _find_job(job)
    if not is_closed:
        count = transact(_revive, job, units or [])
        ledger.nudge()
    elif units:
        raise Conflict(f"job {job} has ended: leave out --unit to open it again with all that failed")
    elif kind not in REOPEN:
        raise Conflict(f"job {job} has ended, and a {kind} job cannot be opened again")
    else:
        count = len(ledger.list_units(job, states=[UnitState.DEAD], limit=1_000_000))
        REOPEN[kind](job)
    if as_json:
        print_json({"job_id": job, "retried": count, "reopened": is_closed})
        return
    again = "The job is open again" if is_closed else "The job goes on"
    console().print(f"{again}; {counted(count, 'dead unit')} will be tried again.")


@app.command("rejected", cls=NeedsDatabase)
def rejected(limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List the messages that the queue `submissions` refused, newest first."""
    found = rejections(limit)
    if as_json:
        print_json(found)
        return
    for one in found:
        print_facts(
            f"{ago(one.created_at)} ago",
            [
                ("reason", one.reason),
                ("request", one.request_id or ""),
                ("message", one.message_id or ""),
                ("said", one.excerpt),
            ],
        )
    if not found:
        console().print(Text("No submission was refused.", style="dim"))


def _print_units(job_id: str, units: Sequence[UnitSummary], *, gap: bool) -> None:
    if gap:
        console().print()
    console().print(Text.assemble(("Job ", "bold"), (job_id, "bold"), f"  {units[0].job_kind}"))
    print_table(
        ["UNIT", "WHAT", "STATE", "TRY#", "DONE#", "BAD#"],
        (
            [
                unit.id,
                unit.key,
                state(unit.state),
                f"{unit.attempt}/{unit.max_attempts}",
                f"{unit.done_count:,}",
                f"{unit.failed_count:,}",
            ]
            for unit in units
        ),
        empty="",
    )


def _find_job(job_id: str) -> tuple[str, bool]:
    """The kind of a job of any kind, and whether it has ended.

    Raises:
        JobNotFound: the ledger has no such job.
    """
    with reading() as session:
        row = session.get(JobRow, job_id)
    if row is None:
        raise JobNotFound(f"no job {job_id!r}: `orchestrator work list` shows units by job")
    return row.kind, row.closed_at is not None


def _revive(session: Session, job_id: str, wanted: Sequence[str]) -> int:
    """Make dead units of a running job ready; of those named, if any are.

    Raises:
        NotFound: one that was named is not a dead unit of the job.
        Conflict: the job has no dead unit, or is coming to its end without them.
    """
    # A finishing unit is added under this lock.
    job = session.get_one(JobRow, job_id, with_for_update={"key_share": True})
    finishing = select(UnitRow.id).where(UnitRow.job_id == job_id, UnitRow.kind == f"{job.kind}.finish")
    if job.closed_at is not None or session.scalar(finishing.where(is_unfinished()).limit(1)) is not None:
        raise Conflict(f"job {job_id} is about to end: try again once it has")
    mine = UnitRow.job_id == job_id, UnitRow.state == UnitState.DEAD
    dead_units = set(session.scalars(select(UnitRow.id).where(*mine)))
    for unit_id in wanted:
        if unit_id not in dead_units:
            raise NotFound(f"job {job_id} has no dead unit {unit_id!r}: see `orchestrator work dead --job {job_id}`")
    # Not every unit that `ledger.retry` would take: failed datums of units that ended well are counted already.
    count = ledger.retry(session, job_id, unit_ids=list(wanted) or sorted(dead_units), keeps_failures=True)
    if count == 0:
        raise Conflict(f"job {job_id} has no dead unit to retry")
    return count
