"""Parquet: a table for each piece, below `inferences/`, which any reader of folders takes for one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from workers.archive.annotations import annotations_of
from workers.archive.describe import Lines, Record, Table, describe_metadata, value_of
from workers.archive.records import Order

FOLDER = "inferences"

_COLUMNS = [
    ("inference_id", pa.string()),
    ("path", pa.string()),
    ("size", pa.int64()),
    ("sha256", pa.string()),
    ("created_at", pa.timestamp("us", tz="UTC")),
    ("inference_action", pa.string()),
    ("version", pa.string()),
    ("data", pa.string()),
    ("data_hash", pa.string()),
    ("data_source", pa.string()),
    ("latitude", pa.float64()),
    ("longitude", pa.float64()),
]
#: Texts of JSON: what stands in them differs from row to row.
_ANNOTATIONS, _METADATA = ("annotations", pa.string()), ("metadata", pa.string())


class ParquetFormat:
    """Describes members as rows of a table."""

    def __init__(self, order: Order) -> None:
        self.order = order
        columns = [*_COLUMNS, *([_ANNOTATIONS] if order.annotations else []), *([_METADATA] if order.metadata else [])]
        self.schema = pa.schema(columns)
        self.rows: list[dict[str, Any]] = []

    def describe(self, record: Record, lines: Lines, counts: Counter[str]) -> None:
        row = record.row
        values = {name: getattr(row, name) for name, _ in _COLUMNS if name not in ("path", "size", "sha256")}
        values |= {"path": record.path, "size": record.size, "sha256": record.sha256}
        if self.order.annotations:
            annotations = annotations_of(row.version, row.data)
            values["annotations"] = None if annotations is None else orjson.dumps(annotations).decode()
            counts["annotated"] += annotations is not None and record.path is not None
        if self.order.metadata:
            metadata = {entry.key: value_of(entry) for entry in record.metadata}
            values["metadata"] = orjson.dumps(metadata).decode()
            describe_metadata(record, lines, counts)
        # Rows are in memory until the piece ends, and count towards its size as texts do.
        lines.size += len(row.data or "") + 200
        self.rows.append(values)

    def tables(self, part: int, piece: int) -> Iterable[Table]:
        table = pa.Table.from_pylist(self.rows, schema=self.schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        yield Table(f"{FOLDER}/{part:06d}-{piece:04d}.parquet", sink.getvalue().to_pybytes())
