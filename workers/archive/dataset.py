"""The default format: what `snapshot import` reads, and beside it the inferences as they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from workers.archive.annotations import annotations_of
from workers.archive.describe import ANNOTATIONS, INFERENCES, Lines, Record, Table, describe_metadata, inference_of
from workers.archive.records import Order


class DatasetFormat:
    """Describes members line by line."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def describe(self, record: Record, lines: Lines, counts: Counter[str]) -> None:
        lines.add(INFERENCES, inference_of(record, with_metadata=self.order.metadata))
        if record.path is None:
            return
        if self.order.annotations:
            annotations = annotations_of(record.row.version, record.row.data)
            if annotations is not None:
                lines.add(ANNOTATIONS, {"path": record.path, "annotations": annotations})
                counts["annotated"] += 1
        describe_metadata(record, lines, counts)

    def tables(self, part: int, piece: int) -> Iterator[Table]:  # noqa: ARG002  other formats name tables by them
        return iter(())
