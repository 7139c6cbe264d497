"""Statistics of metadata: counted by the database, so that their cost in memory is that of the answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import ColumnElement, Double, Select, and_, case, func, literal, select
from sqlalchemy.orm import Session, aliased

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store import filtering
from orchestrator.inference_store.filtering.checks import finite, text_of
from orchestrator.inference_store.filtering.derived import DATUM_ID, DERIVED, OF_ORIGIN
from orchestrator.inference_store.models import (
    MetadataStatistics,
    MetadataStatisticsType,
    NewGetMetadataStatisticsRequest,
)
from orchestrator.inference_store.tables import InferenceRow, MetadataRow, OriginRow

#: Bins unless the request says otherwise, and at most.
BINS: Final = 10
MOST_BINS: Final = 1000

STRING: Final = MetadataStatisticsType.STRING.value


def key_type_counts(session: Session, model_id: str) -> dict[str, dict[str, int]]:
    """How many inferences that anybody sees have metadata of each key and type."""
    own = (
        select(MetadataRow.key, MetadataRow.type, func.count())
        .join(InferenceRow, _of_inference())
        .where(MetadataRow.model_id == model_id, MetadataRow.value.is_not(None), InferenceRow.deleted_at.is_(None))
        .group_by(MetadataRow.key, MetadataRow.type)
    )
    counts: dict[str, Counter[str]] = {}
    for key, kind, count in session.execute(own):
        counts.setdefault(key, Counter())[kind] += count
    for key, count in _derived_counts(session, model_id).items():
        counts.setdefault(key, Counter())[STRING] += count
    return {key: dict(sorted(kinds.items())) for key, kinds in sorted(counts.items())}


def describe(session: Session, model_id: str, request: NewGetMetadataStatisticsRequest) -> MetadataStatistics:
    """The statistics that the request asks for.

    Raises:
        InvalidRequest: bins are said in two ways, out of bounds, or asked for texts; or a filter is malformed.
    """
    key = text_of("key", request.key)
    kind = MetadataStatisticsType(request.type).value
    conditions = [InferenceRow.model_id == model_id, InferenceRow.deleted_at.is_(None)]
    if request.filters is not None:
        known = filtering.look(session, model_id, request.filters)
        conditions += filtering.conditions(model_id, request.filters, known=known)
    chosen = (
        select(MetadataRow.value)
        .select_from(MetadataRow)
        .join(InferenceRow, _of_inference())
        .where(MetadataRow.model_id == model_id, MetadataRow.key == key, MetadataRow.type == kind, *conditions)
    )
    _check_bins(request, kind)
    if kind == STRING:
        return _of_texts(session, model_id, key, chosen, conditions)
    return _of_numbers(session, request, chosen.where(MetadataRow.number.is_not(None)))


def _of_inference() -> ColumnElement[bool]:
    return and_(
        InferenceRow.model_id == MetadataRow.model_id,
        InferenceRow.inference_id == MetadataRow.inference_id,
    )


def _derived_counts(session: Session, model_id: str) -> dict[str, int]:
    """How many bulk inferences have each of the keys that they derive, and nothing in its place."""
    bulk = (InferenceRow.model_id == model_id, InferenceRow.deleted_at.is_(None))
    of_job = OriginRow.bulk_inference_job_id == InferenceRow.bulk_inference_job_id
    total = session.scalar(select(func.count()).select_from(InferenceRow).join(OriginRow, of_job).where(*bulk)) or 0
    if not total:
        return {}
    overridden = dict(
        session.execute(
            select(MetadataRow.key, func.count())
            .join(InferenceRow, _of_inference())
            .join(OriginRow, of_job)
            .where(MetadataRow.model_id == model_id, MetadataRow.key.in_(DERIVED), *bulk)
            .group_by(MetadataRow.key)
        ).all()
    )
    counts = {key: total - overridden.get(key, 0) for key in DERIVED}
    return {key: count for key, count in counts.items() if count}


def _of_texts(
    session: Session, model_id: str, key: str, chosen: Select[Any], conditions: Sequence[ColumnElement[bool]]
) -> MetadataStatistics:
    own = chosen.where(MetadataRow.value.is_not(None))
    counts = Counter[str](dict(session.execute(own.add_columns(func.count()).group_by(MetadataRow.value)).all()))
    if key in DERIVED:
        column = InferenceRow.datum_id if key == DATUM_ID else OF_ORIGIN[key]
        placed = aliased(MetadataRow)
        overridden = select(placed.key).where(
            placed.model_id == model_id, placed.inference_id == InferenceRow.inference_id, placed.key == key
        )
        derived = (
            select(column, func.count())
            .select_from(InferenceRow)
            .join(OriginRow, OriginRow.bulk_inference_job_id == InferenceRow.bulk_inference_job_id)
            .where(*conditions, ~overridden.exists())
            .group_by(column)
        )
        counts.update({value or "": count for value, count in session.execute(derived)})
    return MetadataStatistics(count=counts.total(), distribution=dict(sorted(counts.items())))


def _of_numbers(session: Session, request: NewGetMetadataStatisticsRequest, chosen: Select[Any]) -> MetadataStatistics:
    least, most = request.distribution_minimum_value, request.distribution_maximum_value
    number = MetadataRow.number
    if least is not None:
        chosen = chosen.where(number >= least)
    if most is not None:
        chosen = chosen.where(number <= most)
    count, lowest, highest = session.execute(
        chosen.with_only_columns(func.count(), func.min(number), func.max(number))
    ).one()
    low, high = lowest if least is None else least, highest if most is None else most
    if low is None or high is None or low > high:
        return MetadataStatistics(count=count, distribution={})
    edges = _edges(low, high, request.distribution_bin_count, request.distribution_bin_width)
    place = _bin_of(number, edges, 0, len(edges) - 2)
    filled: dict[int, int] = dict(session.execute(_grouped(chosen, place)).all())
    labels = [f"{_text(start)}-{_text(end)}" for start, end in pairwise(edges)]
    distribution = {label: filled.get(at, 0) for at, label in enumerate(labels)}
    return MetadataStatistics(count=count, distribution=distribution, min=lowest, max=highest)


def _grouped(chosen: Select[Any], place: ColumnElement[int]) -> Select[Any]:
    placed = chosen.with_only_columns(place.label("place")).subquery()
    return select(placed.c.place, func.count()).group_by(placed.c.place)


def _edges(low: float, high: float, count: int | None, width: float | None) -> list[float]:
    """The bounds of the bins, as they are printed: so a number lies where the label says.

    Where bins are too narrow to be told apart, several are one.
    """
    if width is None:
        bins = count or BINS
        # In this form for the sake of numbers whose difference is too large for one.
        edges = [low, *(low * (1 - at / bins) + high * (at / bins) for at in range(1, bins)), high]
    else:
        wanted = round((high - low) / width, 9)
        if wanted > MOST_BINS:
            raise InvalidRequest(f"distribution_bin_width is {width}: it makes more than {MOST_BINS} bins")
        bins = max(1, math.ceil(wanted))
        edges = [low, *(low + width * at for at in range(1, bins)), max(high, low + width * bins)]
    inner = (min(max(float(f"{edge:.12g}"), low), edges[-1]) for edge in edges[1:-1])
    found = list(dict.fromkeys([low, *inner, edges[-1]]))
    return found if len(found) > 1 else [low, low]


def _bin_of(number: Any, edges: Sequence[float], first: int, last: int) -> ColumnElement[int]:
    """Which of the bins `first` to `last` a number is in, in as few comparisons as it takes."""
    if first == last:
        return literal(first)
    middle = (first + last + 1) // 2
    lower, upper = _bin_of(number, edges, first, middle - 1), _bin_of(number, edges, middle, last)
    return case((number < literal(edges[middle], Double()), lower), else_=upper)


def _text(edge: float) -> str:
    return str(int(edge)) if edge == int(edge) and abs(edge) < 1e15 else repr(edge)


def _check_bins(request: NewGetMetadataStatisticsRequest, kind: str) -> None:
    count, width = request.distribution_bin_count, request.distribution_bin_width
    bounds = {
        "distribution_bin_width": width,
        "distribution_minimum_value": request.distribution_minimum_value,
        "distribution_maximum_value": request.distribution_maximum_value,
    }
    for name, value in bounds.items():
        if value is not None:
            finite(name, value)
    if kind == STRING and (count is not None or any(value is not None for value in bounds.values())):
        raise InvalidRequest("texts are counted by value: leave out everything about bins")
    if count is not None and width is not None:
        raise InvalidRequest("distribution_bin_count and distribution_bin_width are both given: give one")
    if count is not None and not 1 <= count <= MOST_BINS:
        raise InvalidRequest(f"distribution_bin_count is {count}: it must lie between 1 and {MOST_BINS}")
    if width is not None and width <= 0:
        raise InvalidRequest(f"distribution_bin_width is {width}: it must be greater than 0")
    least, most = bounds["distribution_minimum_value"], bounds["distribution_maximum_value"]
    if least is not None and most is not None and least > most:
        raise InvalidRequest(f"distribution_minimum_value is {least}: it must not exceed the maximum, {most}")
