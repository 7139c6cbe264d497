"""What all formats have in common: the lines that a piece adds for each of its members, and what stands in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import orjson
from sqlalchemy import Row

from orchestrator.inference_store.entries import Entry
from orchestrator.inference_store.filtering.values import FLOAT, INT
from orchestrator.registry.importing.lines import unstorable

#: What the streams of a piece hold.
FILES, MANIFEST = "files", "manifest"
INFERENCES, ANNOTATIONS, METADATA = "inferences", "annotations", "metadata"

#: How deep a value lies in a line of metadata.
DEPTH = 3
#: JSON numbers that every reader takes for the same integer.
_LARGEST = 2**63 - 1


class Record(NamedTuple):
    """A member as it is in the archive: `path`, `size` and `sha256` are None where it has no file."""

    row: Row[Any]
    metadata: Sequence[Entry]
    path: str | None
    size: int | None
    sha256: str | None
    #: How the file begins; all of a small one.
    head: bytes


class Table(NamedTuple):
    """A file that a piece adds behind those of its members."""

    path: str
    data: bytes


class Lines:
    """Texts of a piece, by name, each a line for each member that it says something of."""

    def __init__(self) -> None:
        self.texts: dict[str, list[bytes]] = {}
        self.size = 0

    def add(self, name: str, value: dict[str, Any]) -> None:
        """Add a JSON object as a line."""
        line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
        self.texts.setdefault(name, []).append(line)
        self.size += len(line)


class Format(Protocol):
    """Describes the members of one piece."""

    def describe(self, record: Record, lines: Lines, counts: Counter[str]) -> None:
        """Say what there is to say of one member."""
        ...

    def tables(self, part: int, piece: int) -> Iterable[Table]:
        """What the piece has to add once all its members are described."""
        ...


def describe_metadata(record: Record, lines: Lines, counts: Counter[str]) -> None:
    """Say what metadata the file has, if any."""
    if record.metadata and record.path is not None:
        values = {entry.key: value_of(entry) for entry in record.metadata}
        lines.add(METADATA, {"path": record.path, "metadata": values})
        counts["with_metadata"] += 1


def inference_of(record: Record, *, with_metadata: bool) -> dict[str, Any]:
    """All that is stored of an inference, `data` and metadata as the texts that they are."""
    row = record.row
    found = {
        "inference_id": row.inference_id,
        "path": record.path,
        "created_at": row.created_at,
        "inference_action": row.inference_action,
        "version": row.version,
        "data": row.data,
        "data_hash": row.data_hash,
        "data_source": row.data_source,
        "latitude": row.latitude,
        "longitude": row.longitude,
    }
    if with_metadata:
        found["metadata"] = [entry._asdict() for entry in record.metadata]
    return found


def value_of(entry: Entry) -> Any:
    """The value that an entry's text stands for; a text that its type, or an importer, does not allow stays one."""
    try:
        match entry.type:
            case "int" if INT.fullmatch(entry.value):
                number = int(entry.value)
                return number if abs(number) <= _LARGEST else entry.value
            case "float" if FLOAT.fullmatch(entry.value):
                value = float(entry.value)
                return value if math.isfinite(value) else entry.value
            case "json":
                document = orjson.loads(entry.value)
                return entry.value if unstorable(document, depth=DEPTH) else document
            case _:
                return entry.value
    except ValueError:
        return entry.value
