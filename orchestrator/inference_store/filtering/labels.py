"""Label filters: on the index of labels, and, for bulk jobs that are not indexed yet, on what the model said."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import aliased

from orchestrator.database.documents import json_elements, json_number, json_text
from orchestrator.inference_store.filtering.checks import finite, texts_of
from orchestrator.inference_store.filtering.knowledge import NOTHING, Known
from orchestrator.inference_store.filtering.membership import Source
from orchestrator.inference_store.filtering.values import LONGEST_NAME
from orchestrator.inference_store.models import DeconstructedInferenceFilter
from orchestrator.inference_store.tables import InferenceRow, LabelRow, OriginRow


def elements(model_id: str, filter_: DeconstructedInferenceFilter | None, known: Known = NOTHING) -> list[Source]:
    """Inference id, label and score of each element that the filter is true of: indexed ones, and those in texts.

    One element must have one of the labels and a score within the bounds. An element of a bulk job that is being
    indexed may be in both.

    Raises:
        InvalidRequest: a bound is NaN or infinite, or a label one that nothing has.
    """
    indexed = select(LabelRow.inference_id, LabelRow.label, LabelRow.score).where(LabelRow.model_id == model_id)
    bulk = aliased(InferenceRow)
    waits = and_(OriginRow.bulk_inference_job_id == bulk.bulk_inference_job_id, OriginRow.indexed_at.is_(None))
    # Nothing but the text of a standard list is ever taken for JSON, in whatever order conditions are looked at.
    element = json_elements(case((and_(bulk.version == "v2", bulk.ordinal.is_not(None)), bulk.data), else_="[]"))
    label = func.substr(json_text(element.c.value, "label"), 1, LONGEST_NAME)
    score = json_number(element.c.value, "score")
    waiting = (
        select(bulk.inference_id, label.label("label"), score.label("score"))
        .join(OriginRow, waits)
        .join(element, label.is_not(None))
        .where(OriginRow.model_id == model_id)
    )
    sources = [Source(_narrowed(indexed, LabelRow.label, LabelRow.score, filter_), LabelRow)]
    if known.unindexed is None:
        sources.append(Source(_narrowed(waiting, label, score, filter_), bulk))
    elif known.unindexed:
        # Named, because PostgreSQL knows how many rows each job has.
        waiting = waiting.where(bulk.bulk_inference_job_id.in_(known.unindexed))
        sources.append(Source(_narrowed(waiting, label, score, filter_), bulk))
    return sources


def _narrowed(found: Any, label: Any, score: Any, filter_: DeconstructedInferenceFilter | None) -> Any:
    if filter_ is None:
        return found
    if filter_.labels is not None:
        labels = texts_of("deconstructed_inference_filter: labels", filter_.labels)
        found = found.where(label.in_([text[:LONGEST_NAME] for text in labels]))
    if filter_.minimum_score is not None:
        found = found.where(score >= finite("deconstructed_inference_filter: minimum_score", filter_.minimum_score))
    if filter_.maximum_score is not None:
        found = found.where(score <= finite("deconstructed_inference_filter: maximum_score", filter_.maximum_score))
    return found
