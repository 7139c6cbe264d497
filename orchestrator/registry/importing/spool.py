"""Where an import keeps what it has read until files and annotations can be joined: on disk.

Annotations may come after the files they speak of, and neither fits in memory. SQLite drops an
unnamed database with its connection, so a killed import leaves no file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import orjson

from orchestrator.errors import Unavailable
from orchestrator.registry.importing.annotations import AnnotationLine, MetadataLine
from orchestrator.registry.importing.lines import Record, bad
from orchestrator.registry.importing.paths import check_path, split_of

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE files (position INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, split TEXT NOT NULL,
    sha256 TEXT NOT NULL, size INTEGER NOT NULL, content_type TEXT NOT NULL, storage_key TEXT NOT NULL);
CREATE TABLE annotations (path TEXT PRIMARY KEY, line INTEGER NOT NULL, split TEXT, metadata TEXT, annotations TEXT);
CREATE TABLE metadata (path TEXT PRIMARY KEY, line INTEGER NOT NULL, metadata TEXT NOT NULL);
"""

_DATUMS = """
SELECT files.path, coalesce(annotations.split, files.split), sha256, size, content_type, storage_key,
    annotations.metadata, metadata.metadata, annotations.annotations
FROM files LEFT JOIN annotations USING (path) LEFT JOIN metadata USING (path) ORDER BY
"""

_STRAY = {
    table: f"SELECT path, line FROM {table} WHERE path NOT IN (SELECT path FROM files) ORDER BY line LIMIT 1"  # noqa: S608  names of our own
    for table in ("annotations", "metadata")
}


class StoredFile(NamedTuple):
    """A file of the source and where its bytes are kept."""

    path: str
    sha256: str
    size: int
    content_type: str
    storage_key: str


class SpooledDatum(NamedTuple):
    """A file joined with what the annotations files say of it."""

    path: str
    split: str
    sha256: str
    size: int
    content_type: str
    storage_key: str
    metadata: dict[str, Any] | None
    annotations: list[dict[str, Any]] | None


class Spool:
    """What one import has read; to be used by one thread."""

    def __init__(self) -> None:
        self.database = sqlite3.connect("", isolation_level=None)
        self.database.executescript(_SCHEMA)
        # One transaction for all: nothing here outlives the import.
        self.database.execute("BEGIN")

    def close(self) -> None:
        """Forget everything."""
        self.database.close()

    def has_file(self, path: str) -> bool:
        """Whether a file of this path was added."""
        return bool(self.database.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone())

    def add_files(self, files: Iterable[StoredFile]) -> None:
        """Keep files, in the order of the source."""
        self.database.executemany(
            "INSERT INTO files (path, split, sha256, size, content_type, storage_key) VALUES (?, ?, ?, ?, ?, ?)",
            ((file.path, split_of(file.path), *file[1:]) for file in files),
        )

    def add_annotations(self, member: str, record: Record) -> None:
        """Check and keep a line of the annotations file `member`."""
        line = record.model(AnnotationLine, member)
        # What is kept is the text as given: 3 stays 3 where the checked model would say 3.0.
        given = [_dump(record.value.get(key)) for key in ("metadata", "annotations")]
        self._add("annotations", member, record.line, line.path, line.split, *given)

    def add_metadata(self, member: str, record: Record) -> None:
        """Check and keep a line of the metadata file `member`."""
        line = record.model(MetadataLine, member)
        self._add("metadata", member, record.line, line.path, _dump(record.value["metadata"]))

    def _add(self, table: str, member: str, line: int, path: str, *values: str | None) -> None:
        row = (check_path(path), line, *values)
        marks = ", ".join("?" * len(row))
        try:
            self.database.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608  names of our own
        except sqlite3.IntegrityError as error:
            raise bad(member, line, f"an earlier line names {path!r} as well") from error

    def stray(self, table: str) -> tuple[str, int] | None:
        """The first path, and its line, of `annotations` or `metadata` that no file has."""
        found: tuple[str, int] | None = self.database.execute(_STRAY[table]).fetchone()
        return found

    def datums(self, *, by_path: bool) -> Iterator[SpooledDatum]:
        """The files with what is said of them, by path or in the order of the source."""
        rows = self.database.execute(_DATUMS + ("files.path" if by_path else "files.position"))
        for path, split, sha256, size, kind, key, metadata, more_metadata, given in rows:
            merged = _merge(metadata, more_metadata)
            yield SpooledDatum(path, split, sha256, size, kind, key, merged, orjson.loads(given or "null"))


@contextmanager
def spooling() -> Iterator[Spool]:
    """A spool for one import, closed at its end.

    Raises:
        Unavailable: the folder for temporary files, where SQLite keeps it, is full or fails.
    """
    try:
        with closing(Spool()) as spool:
            yield spool
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"the folder for temporary files (TMPDIR, else /var/tmp) is full or fails: {error}: "
            "free some space there, or set TMPDIR to another folder"
        ) from error


def _dump(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _merge(first: str | None, second: str | None) -> dict[str, Any] | None:
    given = [orjson.loads(text) for text in (first, second) if text is not None]
    return {key: value for metadata in given for key, value in metadata.items()} if given else None
