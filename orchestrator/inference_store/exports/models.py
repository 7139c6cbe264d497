"""What an export task is made of: its states, its formats, and the pieces that its archive is put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ExportTaskState(StrEnum):
    """Where an export task stands."""

    PENDING = "pending"  #: submitted; its set is not pinned yet
    RUNNING = "running"  #: its set is pinned, and parts of the archive are written
    COMPLETE = "complete"  #: the archive is whole, verified and visible
    FAILED = "failed"  #: given up; nothing of the archive is kept


class ArchiveFormat(StrEnum):
    """How an archive describes its files."""

    DATASET = "dataset"  #: what `snapshot import` reads
    COCO = "coco"  #: `annotations/instances.json` as COCO has it
    PARQUET = "parquet"  #: tables below `inferences/`, one for each piece


@dataclass(frozen=True, slots=True)
class Stream:
    """A blob of a piece: gzip members that are copied into the archive as they are. Sizes in bytes."""

    key: str
    size: int
    crc32: int  #: of the blob as it is stored
    raw_size: int  #: of what it unpacks to


@dataclass(frozen=True, slots=True)
class LargeFile:
    """A file that is a gzip member of its own: `key` holds the bytes of the file, or that member if `path` is None."""

    key: str
    size: int  #: of the blob, in bytes
    crc32: int  #: of the blob if it is the member, else of what the member is to hold
    path: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of members, `low <= ordinal < high`, as one attempt wrote it."""

    part: int
    piece: int
    low: int
    high: int
    #: By what they hold: `files`, `inferences`, `annotations`, `metadata`, `manifest` …
    streams: Mapping[str, Stream]
    #: They follow the small ones, which are the stream `files`.
    large_files: Sequence[LargeFile]
    #: How many there are of what the manifest counts.
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Archive:
    """A finished archive: its blob, its size in bytes and the SHA-256 of all of it."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportDetails:
    """Everything there is to know of an export task."""

    task_id: str
    model_id: str
    state: ExportTaskState
    archive_format: ArchiveFormat
    #: Members that are in the archive, or in a piece of it.
    progress_count: int
    #: Members of the pinned set; None before it is pinned.
    expected_count: int | None
    #: Bytes written so far; once complete, the size of the archive.
    written_bytes: int
    archive: Archive | None
    reason: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.state in (ExportTaskState.COMPLETE, ExportTaskState.FAILED)
