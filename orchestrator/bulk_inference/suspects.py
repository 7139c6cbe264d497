"""Suspects: a unit whose attempt got nowhere is cut into pieces, until what kills its processes stands alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.plan import rest_unit
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading
from orchestrator.ledger import Lease, Split

#: Fewer pieces would take more processes until a culprit stands alone, and more would be more units.
PIECES = 4
#: Begins the key of each.
KEY = "suspects"
#: A job on which every process dies must come to an end. It is cut into so many pieces …
ALLOWANCE = 100
#: … and one more for so many stored results: enough for a culprit in a thousand datums.
RESULTS_A_PIECE = 50


def cut_up(lease: Lease, job: BulkInferenceJobRow) -> Split | None:
    """Units of their own for pieces of what the unit has left; what they hold is inferred on only then.

    None for a datum alone, which deserves its attempts; and when the job was cut up enough.
    """
    low, high = lease.payload["low"], lease.payload["high"]
    with reading() as session:
        done = sorted(session.scalars(queries.inferred(job.id, low, high)))
        failed = sorted(session.scalars(queries.failed(job.id, low, high)))
        settled = {*done, *failed}
        left = [row[0] for row in session.execute(queries.datums(job, low, high)) if row[0] not in settled]
        if len(left) < 2 or not _may_be_cut(session, job.id):
            return None
    starts = left[:: -(-len(left) // PIECES)]
    rest = [
        replace(rest_unit(job.model_id, start, end, done, failed), key=f"{KEY} {start}-{end}")
        for start, end in pairwise([*starts, high])
    ]
    return Split({**lease.payload, "high": starts[0]}, rest)


def _may_be_cut(session: Session, job_id: str) -> bool:
    pieces = session.scalar(queries.pieces(job_id, KEY)) or 0
    return pieces < ALLOWANCE + ledger.progress(session, job_id).done // RESULTS_A_PIECE
