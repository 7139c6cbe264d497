"""What must hold of the tables, the blobs and the machine after every run, whatever was done to it."""

from __future__ import annotations

import hashlib
import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import psutil
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from orchestrator.bulk_inference import get_bulk_inference_details, get_bulk_inference_job
from orchestrator.bulk_inference.lifecycle import TERMINAL
from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import db_now, reading
from orchestrator.errors import BlobNotFound
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import UNFINISHED, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.registry.keys import FOLDER
from orchestrator.registry.tables import DatumRow, ImportBlobRow
from orchestrator.settings import settings
from orchestrator.storage import blobs
from orchestrator.storage.local import PARTIAL, LocalBlobs
from orchestrator.transitions import events_of
from tests.chaos import journal

#: Of a kind of violation, so many are told.
SHOWN = 10


class Violated(AssertionError):
    """Invariants that do not hold, one a line."""

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__("\n".join([f"{len(violations)} invariants do not hold:", *violations]))
        self.violations = violations


def check_invariants(job_ids: Collection[str] | None = None) -> None:
    """Hold the configured database and blobs, and the processes of this home, against every invariant.

    Call it when the run is over, its processes are closed and imports that were killed are swept
    (`harness.sweep`); of jobs that have not ended, only what always holds is asked.

    Parameters:
        job_ids: The jobs to look at; every bulk inference job by default.

    Raises:
        Violated: what does not hold.
    """
    found = list(violations(job_ids))
    if found:
        raise Violated(found)


def violations(job_ids: Collection[str] | None = None) -> Iterator[str]:
    """Every invariant that does not hold, in words."""
    yield from of_the_tables(job_ids)
    yield from _fence()
    yield from _blobs()
    yield from _processes()


def of_the_tables(job_ids: Collection[str] | None = None) -> Iterator[str]:
    """The invariants that do not hold of jobs, units and outcomes; the simulation asks for these alone."""
    with reading() as session:
        chosen = select(BulkInferenceJobRow).order_by(BulkInferenceJobRow.id)
        if job_ids is not None:
            chosen = chosen.where(BulkInferenceJobRow.id.in_(job_ids))
        jobs = session.scalars(chosen).all()
        if job_ids is not None:
            yield from (f"job {lost} is lost" for lost in set(job_ids) - {job.id for job in jobs})
        for job in jobs:
            yield from _outcomes(session, job)
            yield from _counts(session, job)
            yield from _life(session, job)
        yield from _leases(session)


def _outcomes(session: Session, job: BulkInferenceJobRow) -> Iterator[str]:
    """Each datum has one result or one failure, and never both."""
    results, failures = _rows(session, job.id)
    for kind, rows in (("results", results), ("failures", failures)):
        doubled = [ordinal for ordinal, count in Counter(row[0] for row in rows).items() if count > 1]
        yield from _tell(f"job {job.id}: datums with two {kind}", doubled)
    inferred, failed = {row[0] for row in results}, {row[0] for row in failures}
    yield from _tell(f"job {job.id}: datums with a result and a failure", inferred & failed)
    datums = _datums(session, job)
    yield from _tell(f"job {job.id}: outcomes of what is no datum of it", (inferred | failed) - set(datums))
    if _is_complete(session, job):
        yield from _tell(f"job {job.id}: datums without an outcome", set(datums) - inferred - failed)
    wrong = [row[0] for row in results if row[0] in datums and datums[row[0]] != (row[1], row[2])]
    wrong += [row[0] for row in failures if row[0] in datums and datums[row[0]][0] != row[1]]
    yield from _tell(f"job {job.id}: outcomes that name another datum", wrong)


def _is_complete(session: Session, job: BulkInferenceJobRow) -> bool:
    """Whether the job came to its end by itself: every unit was planned, none was cancelled, and one finished it."""
    finished = select(UnitRow.id).join(JobRow, JobRow.finish_unit_id == UnitRow.id)
    finished = finished.where(JobRow.id == job.id, UnitRow.state == UnitState.DONE)
    cut_short = (
        select(UnitRow.id)
        .where(UnitRow.job_id == job.id)
        .where(
            or_(
                UnitRow.state == UnitState.CANCELLED,
                (UnitRow.kind == "bulk_inference.plan") & (UnitRow.state != UnitState.DONE),
            )
        )
    )
    if job.state not in TERMINAL or session.scalar(finished) is None:
        return False  # an endpoint that refuses ends a job without its finish
    return session.scalar(cut_short.limit(1)) is None


def _counts(session: Session, job: BulkInferenceJobRow) -> Iterator[str]:
    """Progress, as it is told and unit by unit, is the number of rows."""
    results, failures = _rows(session, job.id)
    details, told = get_bulk_inference_details(job.id), get_bulk_inference_job(job.id)
    assert told is not None
    expected = (len(results), len(results), len(failures))
    found = (told.num_computed or 0, details.num_computed, details.num_failed)
    if found != expected:
        yield f"job {job.id}: told (computed, computed, failed) {found}, and there are {expected} rows"
    if _is_complete(session, job) and job.expected_total != len(_datums(session, job)):
        yield f"job {job.id}: expects {job.expected_total} of {len(_datums(session, job))} datums"
    at = sorted(row[0] for row in results), sorted(row[0] for row in failures)
    units = select(UnitRow).where(UnitRow.job_id == job.id, UnitRow.kind == "bulk_inference.infer")
    for unit in session.scalars(units.order_by(UnitRow.id)):
        low, high = unit.payload["low"], unit.payload["high"]
        rows = tuple(bisect_left(ordinals, high) - bisect_left(ordinals, low) for ordinals in at)
        if rows != (unit.done_count, unit.failed_count):
            counted = (unit.done_count, unit.failed_count)
            yield f"job {job.id}: unit {unit.key} counts {counted} (done, failed), and there are {rows} rows"


def _life(session: Session, job: BulkInferenceJobRow) -> Iterator[str]:
    """Its states follow one another without a gap, it ends once a life, and with nothing left to do."""
    events = events_of(session, job.id)
    told = [event.sequence for event in events]
    if told != list(range(1, len(events) + 1)):
        yield f"job {job.id}: events are numbered {told}"
    former: str | None = None
    for event in events:
        if event.from_state != former:
            yield f"job {job.id}: event {event.sequence} leaves {event.from_state}, and it was {former}"
        if former in TERMINAL and event.to_state in TERMINAL:
            yield f"job {job.id}: it was {former}, and became {event.to_state}"
        former = event.to_state
    if former != job.state:
        yield f"job {job.id}: it is {job.state}, and its last event says {former}"
    closed = session.get_one(JobRow, job.id).closed_at is not None
    if closed != (job.state in TERMINAL) or closed != (job.finished_at is not None):
        yield f"job {job.id}: it is {job.state}, {'closed' if closed else 'open'}, and finished at {job.finished_at}"
    if closed:
        left = select(UnitRow.key).where(UnitRow.job_id == job.id, UnitRow.state.in_(UNFINISHED))
        yield from _tell(f"job {job.id}: units unfinished after its end", session.scalars(left).all())


def _leases(session: Session) -> Iterator[str]:
    """No lease outlives its time by more than reconcile needs."""
    patience = settings().lease + timedelta(seconds=2 * settings().reconcile_interval)
    statement = select(UnitRow.id, UnitRow.lease_owner, UnitRow.lease_expires_at)
    late = statement.where(UnitRow.state == UnitState.LEASED, UnitRow.lease_expires_at < db_now(-patience))
    for unit_id, owner, expires in session.execute(late):
        yield f"unit {unit_id}: leased by {owner}, whose lease ran out at {expires:%X}"


def _fence() -> Iterator[str]:
    """Nothing was committed under an attempt that another had followed; and what was refused was counted."""
    attempts: dict[str, int] = {}
    refused: Counter[str] = Counter()
    with reading() as session:
        if not journal.is_kept(session.connection()):
            return
        for line in journal.lines(session.connection()):
            if line.what == journal.CLAIM:
                if line.attempt != attempts.get(line.unit_id, 0) + 1:
                    yield f"unit {line.unit_id}: claimed as {line.attempt} after {attempts.get(line.unit_id, 0)}"
                attempts[line.unit_id] = line.attempt
            elif line.what == journal.REFUSAL:
                refused[line.unit_id] += 1
            elif line.attempt != attempts.get(line.unit_id):
                current = attempts.get(line.unit_id)
                yield f"unit {line.unit_id}: {line.what} wrote as attempt {line.attempt} during attempt {current}"
        counted = dict(session.execute(select(UnitRow.id, UnitRow.stale_writes).where(UnitRow.stale_writes > 0)).all())
    if counted != dict(refused):
        yield f"refused writes: the units count {counted}, and {dict(refused)} were refused"


def _blobs() -> Iterator[str]:
    """Each datum's blob is what its row says, and each blob of a datum has a row."""
    with reading() as session:
        expected = {
            key: (size, sha256)
            for key, size, sha256 in session.execute(
                select(DatumRow.storage_key, DatumRow.size, DatumRow.sha256).distinct()
            )
        }
        unfinished = set(session.scalars(select(ImportBlobRow.storage_key)))
    stored = {blob.key: blob.size for blob in blobs().list(FOLDER)}
    yield from _tell("blobs that belong to no datum", set(stored) - set(expected) - unfinished)
    for key, (size, sha256) in expected.items():
        try:
            data = blobs().get(key)
        except BlobNotFound:
            yield f"blob {key} is missing"
            continue
        if (stored.get(key), len(data), hashlib.sha256(data).hexdigest()) != (size, size, sha256):
            yield f"blob {key} is not of the size or the content that its row says"
    store = blobs()
    if isinstance(store, LocalBlobs):
        yield from _tell("half-written blobs of writers that are gone", [*(store.root / PARTIAL).glob("*")])


def _processes() -> Iterator[str]:
    """No process of this home is left."""
    for process in orphans():
        yield f"process {process.pid} is still there: {_command(process)}"


def orphans() -> list[psutil.Process]:
    """Python processes, except this one, that were started for this process's home."""
    home, python = os.environ.get("ORCHESTRATOR_HOME"), Path(sys.executable).resolve()
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("ORCHESTRATOR_HOME") == home and Path(process.exe()) == python
        except psutil.Error:
            continue  # it has gone, or is somebody else's
        if is_ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "(it has gone meanwhile)"


def _rows(session: Session, job_id: str) -> tuple[list[tuple[int, str, str]], list[tuple[int, str]]]:
    """Ordinal, datum and hash of the job's results, and ordinal and datum of its failures."""
    results = select(InferenceRow.ordinal, InferenceRow.datum_id, InferenceRow.data_hash)
    failures = select(FailureRow.ordinal, FailureRow.datum_id)
    return (
        [
            (int(row[0] or 0), str(row[1]), row[2])
            for row in session.execute(results.where(InferenceRow.bulk_inference_job_id == job_id))
        ],
        [(row[0], row[1]) for row in session.execute(failures.where(FailureRow.job_id == job_id))],
    )


def _datums(session: Session, job: BulkInferenceJobRow) -> dict[int, tuple[str, str]]:
    """Id and hash of each datum that the job is about, by its ordinal."""
    chosen = select(DatumRow.ordinal, DatumRow.id, DatumRow.sha256).where(
        DatumRow.snapshot_id == job.snapshot_id, DatumRow.split == job.split
    )
    if job.evaluate_metrics:
        chosen = chosen.where(DatumRow.annotations.is_not(None))
    return {ordinal: (datum_id, sha256) for ordinal, datum_id, sha256 in session.execute(chosen)}


def _tell(what: str, found: Collection[object]) -> Iterator[str]:
    if found:
        shown = sorted(map(str, found))[:SHOWN]
        yield f"{what}: {len(found)}, such as {', '.join(shown)}"
