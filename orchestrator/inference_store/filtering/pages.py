"""Pages of inferences: filtered, sorted by what the request names, and cut."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import Select, UnaryExpression, func, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering import approximate, embeddings, labels
from orchestrator.inference_store.filtering.conditions import conditions, in_time
from orchestrator.inference_store.filtering.embeddings import Found
from orchestrator.inference_store.filtering.knowledge import NOTHING, Known, look
from orchestrator.inference_store.filtering.membership import Way
from orchestrator.inference_store.models import BaseInferenceFilter, NewGetInferencesRequest, Pagination
from orchestrator.inference_store.tables import InferenceRow

#: Inferences of a page unless the request says otherwise.
DEFAULT_LIMIT: Final = 50
#: What a database takes for an offset.
LARGEST: Final = 2**31 - 1
#: How many inferences are asked row by row before those that meet a filter are looked for: so many at least …
SEEN: Final = 1000
#: … and so many for each that is wanted.
DENSITY: Final = 4


class Cut(NamedTuple):
    """The part of a list that a page is."""

    limit: int
    offset: int
    is_descending: bool


def found(model_id: str, filter_: BaseInferenceFilter, way: Way = Way.LISTED, known: Known = NOTHING) -> Select[Any]:
    """The ids of the model's inferences that the filter finds and that are not deleted.

    Raises:
        InvalidRequest: the filter is malformed.
    """
    return select(InferenceRow.inference_id).where(
        InferenceRow.model_id == model_id, InferenceRow.deleted_at.is_(None), *conditions(model_id, filter_, way, known)
    )


def count(session: Session, model_id: str, request: NewGetInferencesRequest) -> int:
    """How many inferences the request's filters find, whatever its pagination.

    Raises:
        InvalidRequest: a filter is malformed.
    """
    chosen = found(model_id, request.filters, known=look(session, model_id, request.filters))
    if request.embedding_filters is not None:
        embeddings.query_of(session, model_id, request.embedding_filters)
        chosen = chosen.where(embeddings.has_embedding(model_id))
    return session.scalar(chosen.with_only_columns(func.count())) or 0


def page(session: Session, model_id: str, request: NewGetInferencesRequest) -> list[Found]:
    """The inferences of the request's page, in its order.

    By default the oldest come first, and with `embedding_filters` the nearest; those without an embedding are then
    left out. `label` and `score` sort by the smallest of the elements that the label filter is true of, descending
    by the largest; inferences without any come last. Of equals the older comes first.

    Raises:
        InvalidRequest: a filter is malformed, a bound negative, or the sort one of embeddings without such a filter.
    """
    pagination = request.pagination or Pagination()
    cut = _cut(pagination)
    query = None
    if request.embedding_filters is not None:
        query = embeddings.query_of(session, model_id, request.embedding_filters)
    sort = pagination.sort or ("created_at" if query is None else "embedding_distance")
    known = look(session, model_id, request.filters)
    chosen = found(model_id, request.filters, known=known)
    if sort == "embedding_distance":
        if query is None:
            raise InvalidRequest("pagination: sort is embedding_distance: say from what, in embedding_filters")
        if cut.is_descending:
            return embeddings.nearest(session, query, chosen, offset=cut.offset, limit=cut.limit, farthest=True)
        approximate.ask_for_index(session, query)
        return approximate.nearest(session, query, chosen, offset=cut.offset, limit=cut.limit)
    if query is not None:
        chosen = chosen.where(embeddings.has_embedding(model_id))
    if sort != "created_at":
        ordered = _by_element(chosen, model_id, request.filters, sort, cut)
        ids = list(session.scalars(ordered.offset(cut.offset).limit(cut.limit)))
    elif query is None:
        ids = _oldest(session, model_id, request.filters, chosen, cut, known)
    else:
        ids = list(session.scalars(chosen.order_by(*_by_time(cut)).offset(cut.offset).limit(cut.limit)))
    if query is None:
        return [Found(inference_id, None) for inference_id in ids]
    return embeddings.measured(session, query, ids)


def _cut(pagination: Pagination) -> Cut:
    limit = DEFAULT_LIMIT if pagination.limit is None else pagination.limit
    offset = pagination.offset or 0
    for name, bound in (("limit", limit), ("offset", offset)):
        if not 0 <= bound <= LARGEST:
            raise InvalidRequest(f"pagination: {name} is {bound}: it must be 0 or more, and {LARGEST} at most")
    return Cut(limit, offset, pagination.direction == "desc")


def _oldest(
    session: Session, model_id: str, filter_: BaseInferenceFilter, chosen: Select[Any], cut: Cut, known: Known
) -> list[str]:
    """The page in the order of time, or against it.

    Where many inferences meet the filter, the first of all have enough of them, and are asked row by row. Where few
    do, these are found first and sorted. Neither database can tell the one from the other: PostgreSQL knows how many
    rows meet one condition, but not several; SQLite knows nothing.
    """
    seen = max(SEEN, DENSITY * (cut.offset + cut.limit))
    window = [InferenceRow.model_id == model_id, InferenceRow.deleted_at.is_(None), *in_time(filter_)]
    times = select(InferenceRow.created_at).where(*window).order_by(*_by_time(cut))
    last = session.scalar(times.offset(seen - 1).limit(1))
    first_ones = found(model_id, filter_, Way.ROW_BY_ROW, known)
    if last is not None:
        first_ones = first_ones.where(
            InferenceRow.created_at >= last if cut.is_descending else InferenceRow.created_at <= last
        )
    page = first_ones.order_by(*_by_time(cut)).offset(cut.offset).limit(cut.limit)
    ids = list(session.scalars(page))
    if last is None or len(ids) == cut.limit:
        return ids
    # Not by the column itself: its index would be walked from one end to the other.
    time = func.coalesce(InferenceRow.created_at, InferenceRow.created_at)
    order = (time.desc(), InferenceRow.inference_id.desc()) if cut.is_descending else (time, InferenceRow.inference_id)
    return list(session.scalars(chosen.order_by(*order).offset(cut.offset).limit(cut.limit)))


def _by_time(cut: Cut) -> list[UnaryExpression[Any] | InstrumentedAttribute[Any]]:
    order = [InferenceRow.created_at, InferenceRow.inference_id]
    return [column.desc() for column in order] if cut.is_descending else [*order]


def _by_element(chosen: Select[Any], model_id: str, filter_: BaseInferenceFilter, sort: str, cut: Cut) -> Select[Any]:
    sources = labels.elements(model_id, filter_.deconstructed_inference_filter)
    element = union_all(*(source.select for source in sources)).subquery()
    extreme = (func.max if cut.is_descending else func.min)(element.c[sort])
    keys = select(element.c.inference_id, extreme.label("key")).group_by(element.c.inference_id).subquery()
    key = keys.c.key.desc() if cut.is_descending else keys.c.key.asc()
    joined = chosen.outerjoin(keys, keys.c.inference_id == InferenceRow.inference_id)
    return joined.order_by(keys.c.key.is_(None), key, InferenceRow.created_at, InferenceRow.inference_id)
