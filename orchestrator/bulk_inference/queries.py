"""Named selects of bulk inference: each says in one line which rows it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select, union_all

from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.registry.tables import DatumRow


def datums(job: BulkInferenceJobRow, low: int, high: int) -> Select[int, str, str, str, int]:
    """The datums of the job's split with `low <= ordinal < high`, in order; annotated ones if it evaluates."""
    statement = (
        select(DatumRow.ordinal, DatumRow.id, DatumRow.sha256, DatumRow.storage_key, DatumRow.size)
        .where(DatumRow.snapshot_id == job.snapshot_id, DatumRow.split == job.split)
        .where(DatumRow.ordinal >= low, DatumRow.ordinal < high)
        .order_by(DatumRow.ordinal)
    )
    return statement.where(DatumRow.annotations.is_not(None)) if job.evaluate_metrics else statement


def settled(job_id: str, low: int, high: int) -> Any:
    """The ordinals with `low <= ordinal < high` that have a result or a failure already."""
    return union_all(inferred(job_id, low, high), failed(job_id, low, high))


def inferred(job_id: str, low: int, high: int) -> Select[Any]:
    """The ordinals with `low <= ordinal < high` that have a result."""
    return select(InferenceRow.ordinal).where(
        InferenceRow.bulk_inference_job_id == job_id, InferenceRow.ordinal >= low, InferenceRow.ordinal < high
    )


def failed(job_id: str, low: int, high: int) -> Select[int]:
    """The ordinals with `low <= ordinal < high` that have a failure."""
    return select(FailureRow.ordinal).where(
        FailureRow.job_id == job_id, FailureRow.ordinal >= low, FailureRow.ordinal < high
    )


def pieces(job_id: str, prefix: str) -> Select[int]:
    """How many of the job's units have a key that begins so."""
    return (
        select(func.count())
        .select_from(UnitRow)
        .where(UnitRow.job_id == job_id, UnitRow.key.startswith(prefix, autoescape=True))
    )


def annotated_after(snapshot_id: str, split: str, ordinal: int, limit: int) -> Select[int]:
    """Ordinals of the next annotated datums after `ordinal`, in order."""
    return (
        select(DatumRow.ordinal)
        .where(DatumRow.snapshot_id == snapshot_id, DatumRow.split == split, DatumRow.ordinal > ordinal)
        .where(DatumRow.annotations.is_not(None))
        .order_by(DatumRow.ordinal)
        .limit(limit)
    )


def computed(job_ids: Sequence[str]) -> Select[str, int]:
    """How many inferences each of the jobs has stored."""
    return (
        select(UnitRow.job_id, func.sum(UnitRow.done_count)).where(UnitRow.job_id.in_(job_ids)).group_by(UnitRow.job_id)
    )


def dead_units(job_id: str) -> Select[UnitRow]:
    """The job's units that used up their attempts."""
    return select(UnitRow).where(UnitRow.job_id == job_id, UnitRow.state == UnitState.DEAD).order_by(UnitRow.id)


def failures(job_id: str, after: int, limit: int) -> Select[FailureRow, str]:
    """The job's failures with an ordinal above `after`, in order, each with its datum's path."""
    return (
        select(FailureRow, DatumRow.path)
        .join(DatumRow, DatumRow.id == FailureRow.datum_id)
        .where(FailureRow.job_id == job_id, FailureRow.ordinal > after)
        .order_by(FailureRow.ordinal)
        .limit(limit)
    )


def evaluable(job_id: str, after: int, limit: int) -> Select[Any]:
    """The job's inferences with an ordinal above `after`, in order, each beside its datum's annotations."""
    return (
        select(
            InferenceRow.ordinal, InferenceRow.datum_id, InferenceRow.data, DatumRow.annotations, DatumRow.storage_key
        )
        .join(DatumRow, DatumRow.id == InferenceRow.datum_id)
        .where(InferenceRow.bulk_inference_job_id == job_id, InferenceRow.ordinal > after)
        .order_by(InferenceRow.ordinal)
        .limit(limit)
    )
