"""A job's metrics: its stored inferences held against the annotations of their datums."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import orjson

from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.evaluation import Pair, evaluate
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading
from orchestrator.errors import InvalidRequest
from orchestrator.registry import get_model
from orchestrator.registry.models import TaskType
from orchestrator.storage import blobs

#: Inferences that are read at a time.
PAGE = 2000

#: Tasks whose annotations and inferences can only be compared at the image's own proportions.
NEEDS_SIZE = frozenset({TaskType.ORIENTED_OBJECT_DETECTION, TaskType.IMAGE_SEGMENTATION})


def measure(job: BulkInferenceJobRow) -> dict[str, Any]:
    """Evaluate the job's inferences; the result is plain JSON.

    Raises:
        InvalidRequest: an annotation or an inference is malformed.
        Unavailable: the `evaluation` extra is not installed, or the blob store is away.
    """
    task_type = get_model(job.model_id).task_type
    return evaluate(task_type, _pairs(job, with_size=task_type in NEEDS_SIZE)).model_dump(mode="json")


def _pairs(job: BulkInferenceJobRow, *, with_size: bool) -> Iterator[Pair]:
    last = -1
    while True:
        with reading() as session:
            page = session.execute(queries.evaluable(job.id, last, PAGE)).all()
        if not page:
            return
        for row in page:
            size = _image_size(row.datum_id, row.storage_key) if with_size else None
            yield Pair(row.datum_id, row.annotations or [], orjson.loads(row.data), size)
        last = page[-1].ordinal


def _image_size(datum_id: str, storage_key: str) -> tuple[int, int]:
    """Width and height in pixels, from the image's header."""
    from PIL import Image

    try:
        with Image.open(BytesIO(blobs().get(storage_key))) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"datum {datum_id} is no image that can be read: {error}") from error
