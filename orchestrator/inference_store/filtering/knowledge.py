"""What is worth knowing of a model before its inferences are looked for: it leaves whole branches out of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.inference_store.models import BaseInferenceFilter
from orchestrator.inference_store.tables import MetadataRow, OriginRow

#: Jobs that a query names one by one, at most.
MOST_JOBS: Final = 1000


class Known(NamedTuple):
    """Facts that hold in the transaction in which they were found; None where nobody looked."""

    #: The bulk jobs whose inferences are not indexed yet.
    unindexed: Sequence[str] | None = None
    #: Those keys of the filter under which an item is stored, in the place of derived metadata or otherwise.
    stored: frozenset[str] | None = None


#: For whoever has no transaction to look in: every branch stays.
NOTHING: Final = Known()


def look(session: Session, model_id: str, filter_: BaseInferenceFilter) -> Known:
    """What the filter had better know of the model."""
    unindexed: Sequence[str] | None = None
    if filter_.deconstructed_inference_filter is not None:
        jobs = select(OriginRow.bulk_inference_job_id).where(
            OriginRow.model_id == model_id, OriginRow.indexed_at.is_(None)
        )
        unindexed = session.scalars(jobs.limit(MOST_JOBS + 1)).all()
    keys = {item.key for item in filter_.metadata_filter or ()}
    stored = frozenset(key for key in keys if _is_stored(session, model_id, key))
    return Known(None if unindexed is None or len(unindexed) > MOST_JOBS else unindexed, stored)


def _is_stored(session: Session, model_id: str, key: str) -> bool:
    found = select(MetadataRow.key).where(MetadataRow.model_id == model_id, MetadataRow.key == key).limit(1)
    return session.scalar(found) is not None
