"""Where the time from a submission to the first result goes, told by the times that the ledger keeps anyway."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

from sqlalchemy import select

from orchestrator.database import reading
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger.tables import UnitRow

#: What happens between a moment and the one before it.
NAMES = (
    "check the request, begin to write the job and its unit",
    "commit, nudge: mark the unit published",
    "commit, publish, broker, worker, claim of the unit",
    "read datums and blobs, connect, infer, first flush begins",
    "insert, commit, seen from outside",
)


def moments(job_id: str, submitted: datetime, seen: datetime) -> list[datetime]:
    """The moments on the way to the first row, in order."""
    with reading() as session:
        of_the_job = UnitRow.job_id == job_id, UnitRow.kind == "bulk_inference.infer"
        unit = session.scalars(select(UnitRow).where(*of_the_job)).one()
        stored = select(InferenceRow.created_at).where(InferenceRow.bulk_inference_job_id == job_id)
        first_row = session.scalars(stored.order_by(InferenceRow.created_at).limit(1)).one()
    known = [submitted, unit.created_at, unit.published_at, unit.started_at, first_row, seen]
    return [moment for moment in known if moment is not None]


def typical(paths: Sequence[Sequence[datetime]]) -> dict[str, float]:
    """The median of each hop in milliseconds, over the jobs that went the whole way."""
    whole = [path for path in paths if len(path) == len(NAMES) + 1]
    steps = [[(after - before).total_seconds() * 1000 for before, after in pairwise(path)] for path in whole]
    return {name: median(times) for name, times in zip(NAMES, zip(*steps, strict=True), strict=True)} if steps else {}
