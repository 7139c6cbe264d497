"""A filter as conditions on inferences, each of which an index answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import ColumnElement

from orchestrator.database import db_now
from orchestrator.inference_store.filtering import datums, labels, metadata, place
from orchestrator.inference_store.filtering.checks import instant, text_of
from orchestrator.inference_store.filtering.knowledge import NOTHING, Known
from orchestrator.inference_store.filtering.membership import Way, is_among
from orchestrator.inference_store.models import BaseInferenceFilter, DeconstructedInferenceFilter
from orchestrator.inference_store.tables import InferenceRow

#: Where a window begins unless the filter says otherwise.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def conditions(
    model_id: str, filter_: BaseInferenceFilter, way: Way = Way.LISTED, known: Known = NOTHING
) -> list[ColumnElement[bool]]:
    """What the filter asks of an `InferenceRow` of the model; an inference that it finds meets all of it.

    The caller adds that the row is of the model, and not deleted, and says which way suits his query and what he
    knows of the model. Values are bound, never part of the text.

    Raises:
        InvalidRequest: the filter is malformed: a time, a number, a list or a coordinate that is none.
    """
    found = [*_plain(filter_), *in_time(filter_)]
    if filter_.data_hash_filter is not None:
        found.append(datums.upon_data(model_id, text_of("data_hash_filter", filter_.data_hash_filter), way))
    found += [metadata.condition(model_id, item, way, known) for item in filter_.metadata_filter or ()]
    if filter_.location_filter is not None:
        found += place.conditions(filter_.location_filter)
    if filter_.deconstructed_inference_filter is not None:
        found += _labelled(model_id, filter_.deconstructed_inference_filter, way, known)
    return found


def _plain(filter_: BaseInferenceFilter) -> list[ColumnElement[bool]]:
    return [
        column == text_of(name, wanted)
        for name, column, wanted in (
            ("inference_action_filter", InferenceRow.inference_action, filter_.inference_action_filter),
            ("data_source_filter", InferenceRow.data_source, filter_.data_source_filter),
        )
        if wanted is not None
    ]


def in_time(filter_: BaseInferenceFilter) -> list[ColumnElement[bool]]:
    """Whether an inference was made within the filter's window.

    Raises:
        InvalidRequest: an end of it is no time.
    """
    window = filter_.time_window_filter
    if window is None:
        # What is always true: with it SQLite takes the index that also knows the action.
        return [] if filter_.inference_action_filter is None else [InferenceRow.created_at >= EPOCH]
    start = instant("time_window_filter: start", window.start) if window.start else EPOCH
    end = instant("time_window_filter: end", window.end) if window.end else db_now()
    return [InferenceRow.created_at >= start, InferenceRow.created_at <= end]


def _labelled(
    model_id: str, filter_: DeconstructedInferenceFilter, way: Way, known: Known
) -> list[ColumnElement[bool]]:
    if filter_.labels is None and filter_.minimum_score is None and filter_.maximum_score is None:
        return []
    return [is_among(way, *labels.elements(model_id, filter_, known))]
