"""Embedding search: the distance of stored embeddings to a query, exact, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering.facets import of_data, of_embedding
from orchestrator.inference_store.models import EmbeddingDistanceMetric, EmbeddingFilter
from orchestrator.inference_store.tables import EmbeddingRow, InferenceRow, OriginRow, StoreModelRow

Metric = EmbeddingDistanceMetric
Matrix = NDArray[np.float64]

#: Numbers that are in memory at once, 32 MB as FP64 …
NUMBERS: Final = 1 << 22
#: … but embeddings at most, however small they are.
MOST: Final = 8192


class Found(NamedTuple):
    """An inference that was found, and how far its embedding is from the query, if there was one."""

    inference_id: str
    distance: float | None


class Query(NamedTuple):
    """Whose embeddings to measure, from what, and how."""

    model_id: str
    vector: NDArray[np.float32]
    metric: Metric


def query_of(session: Session, model_id: str, filter_: EmbeddingFilter) -> Query:
    """The filter's query, held against the model.

    Raises:
        InvalidRequest: the model makes no embeddings, or of another size; no such metric; a number is not finite.
    """
    size = session.scalar(select(StoreModelRow.embedding_size).where(StoreModelRow.model_id == model_id)) or 0
    given = filter_.query_embedding
    if not size:
        raise InvalidRequest(f"embedding_filters: model {model_id!r} is not registered with an embedding_size")
    if len(given) != size:
        raise InvalidRequest(f"embedding_filters: query_embedding has {len(given)} numbers: the model's have {size}")
    vector = of_embedding(given)
    if vector is None:
        raise InvalidRequest("embedding_filters: query_embedding holds numbers that are not finite as FP32")
    try:
        return Query(model_id, vector, Metric(filter_.distance_metric or Metric.COSINE))
    except ValueError as error:
        known = ", ".join(metric.value for metric in Metric)
        raise InvalidRequest(
            f"embedding_filters: distance_metric is {filter_.distance_metric!r}: choose from {known}"
        ) from error


def has_embedding(model_id: str) -> ColumnElement[bool]:
    """Whether an inference of the model has an embedding, stored apart or, in a bulk job that is not indexed yet, as
    its data.
    """
    stored = select(EmbeddingRow.inference_id).where(EmbeddingRow.model_id == model_id)
    return or_(InferenceRow.inference_id.in_(stored), waits(model_id))


def nearest(
    session: Session, query: Query, chosen: Select[Any], *, offset: int, limit: int, farthest: bool = False
) -> list[Found]:
    """Those of the `chosen` inferences that are nearest to the query, or farthest; of equals the smaller id first.

    `chosen` selects from `InferenceRow` alone.
    """
    best: list[tuple[float, str]] = []
    wanted = offset + limit
    sign = -1.0 if farthest else 1.0
    for ids, matrix in _pages(session, query, chosen):
        distances = sign * distances_of(query, matrix)
        worst = best[wanted - 1][0] if 0 < wanted <= len(best) else np.inf
        near = np.flatnonzero(distances <= worst)
        best = sorted([*best, *((float(distances[at]), ids[at]) for at in near)])[:wanted]
    return [Found(inference_id, sign * distance) for distance, inference_id in best[offset:]]


def measured(session: Session, query: Query, ids: Sequence[str]) -> list[Found]:
    """Those of the inferences that have an embedding with their distances, in the order of the ids."""
    of_model = select(InferenceRow.inference_id).where(InferenceRow.model_id == query.model_id)
    found: dict[str, float | None] = {}
    for start in range(0, len(ids), MOST):  # no database takes any number of parameters
        some = of_model.where(InferenceRow.inference_id.in_(ids[start : start + MOST]))
        found |= dict(nearest(session, query, some, offset=0, limit=MOST))
    return [Found(inference_id, found[inference_id]) for inference_id in ids if inference_id in found]


def distances_of(query: Query, matrix: Matrix) -> Matrix:
    """The distance of each row; where a cosine would divide by nothing, it is that of a right angle."""
    vector = query.vector.astype(np.float64)
    match query.metric:
        case Metric.L2:
            return np.asarray(np.linalg.norm(matrix - vector, axis=1))
        case Metric.NEGATIVE_DOT_PRODUCT:
            return -(matrix @ vector)
        case Metric.COSINE:
            lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
            cosines = np.divide(matrix @ vector, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            return np.asarray(1 - np.clip(cosines, -1, 1))


def waits(model_id: str) -> ColumnElement[bool]:
    """Whether the embedding of an inference of the model, if it has one, may have to be read from its data."""
    unindexed = select(OriginRow.bulk_inference_job_id).where(
        OriginRow.model_id == model_id, OriginRow.indexed_at.is_(None)
    )
    return and_(
        InferenceRow.version == "v1",
        InferenceRow.bulk_inference_job_id.in_(unindexed),
    )


def _pages(session: Session, query: Query, chosen: Select[Any]) -> Iterator[tuple[list[str], Matrix]]:
    """The embeddings of the chosen inferences, a matrix of rows at a time, each with the ids of its rows."""
    size = len(query.vector)
    rows = max(1, min(MOST, NUMBERS // size))
    for vectors in (_stored(session, chosen, rows), _waiting(session, query.model_id, chosen, rows)):
        usable = ((inference_id, vector) for inference_id, vector in vectors if len(vector) == size)
        while page := list(islice(usable, rows)):
            yield (
                [inference_id for inference_id, _ in page],
                np.stack([vector for _, vector in page]).astype(np.float64),
            )


def _stored(session: Session, chosen: Select[Any], rows: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    found = chosen.join(EmbeddingRow, _is_of_row()).with_only_columns(InferenceRow.inference_id, EmbeddingRow.embedding)
    with session.execute(found, execution_options={"yield_per": rows}) as streamed:
        yield from streamed


def _waiting(
    session: Session, model_id: str, chosen: Select[Any], rows: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Of jobs that are not indexed yet, from what the model said."""
    stored = select(EmbeddingRow.inference_id).where(_is_of_row())
    found = chosen.where(waits(model_id), ~stored.exists())
    columns = found.with_only_columns(InferenceRow.inference_id, InferenceRow.data)
    with session.execute(columns, execution_options={"yield_per": rows}) as streamed:
        for inference_id, data in streamed:
            vector = of_data(data)
            if vector is not None:
                yield inference_id, vector


def _is_of_row() -> ColumnElement[bool]:
    return and_(EmbeddingRow.model_id == InferenceRow.model_id, EmbeddingRow.inference_id == InferenceRow.inference_id)
