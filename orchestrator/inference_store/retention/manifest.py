"""Manifests: what a dry run would delete, line by line, in a blob whose digest is what somebody approves.

The first line says which task, policy and limits it is about; then one line for each record that goes, each record
that stays without its data, and each blob that goes; the last line counts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

import orjson
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import reading
from orchestrator.errors import Conflict
from orchestrator.inference_store.purge import INFERENCES
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.storage import blobs

#: Rows that are in memory at a time.
PAGE = 5000
#: What a line may be about, in the order of the file.
RECORD, DATA, BLOB = "record", "data", "blob"


@dataclass
class Written:
    """A manifest that is being written, and, once it is, how many of each it names."""

    key: str
    sha256: str = ""
    records: int = 0
    data: int = 0
    blobs: int = 0


class Approved(NamedTuple):
    """A manifest that is to be run: where it is, and the digest that was approved."""

    key: str
    sha256: str


class Batch(NamedTuple):
    """Inferences of one kind that follow each other in a manifest; `end` is the place in the file behind them."""

    action: Action
    inference_ids: list[str]
    end: int


def key_of(task_id: str, attempt: int) -> str:
    """Where an attempt writes: one that froze must not replace what a later one has written."""
    return f"retention/{task_id}-{attempt}.jsonl"


def write(task: RetentionTaskRow, action: Action, attempt: int) -> Written:
    """List what the task would delete, as of one moment; returns where it is, its digest and its counts."""
    written = Written(key_of(task.id, attempt))
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for chunk in _lines(task, action, written):
            digest.update(chunk)
            yield chunk

    blobs().put_stream(written.key, chunks())
    written.sha256 = digest.hexdigest()
    return written


def discard(written: Written) -> None:
    """Remove what nobody will ask for: its task has ended, or another attempt writes its own."""
    blobs().delete_many([written.key])


def forget(task_id: str, attempt: int) -> None:
    """Remove what earlier attempts may have written."""
    blobs().delete_many([key_of(task_id, former) for former in range(1, attempt)])


def _lines(task: RetentionTaskRow, action: Action, written: Written) -> Iterator[bytes]:
    yield _line(
        {
            "retention_task": task.id,
            "model_id": task.model_id,
            "policy_id": task.policy_id,
            "delete_action": action,
            "maximum_record_age_limit": task.maximum_record_age_limit,
            "maximum_blob_age_limit": task.maximum_blob_age_limit,
        }
    )
    limits = task.maximum_record_age_limit, task.maximum_blob_age_limit
    ids = select(INFERENCES.c.inference_id).order_by(*queries.ORDER)
    with reading() as session:
        for page in _pages(session, ids.where(queries.too_old(task.model_id, limits[0], action))):
            written.records += len(page)
            yield b"".join(_line({RECORD: one}) for one in page)
        for page in _pages(session, ids.where(queries.to_strip(task.model_id, *limits))):
            written.data += len(page)
            yield b"".join(_line({DATA: one}) for one in page)
        for page in _pages(session, queries.blobs_to_go(task.model_id, limits[1])):
            written.blobs += len(page)
            yield b"".join(_line({BLOB: one}) for one in page)
    yield _line({"records": written.records, "data": written.data, "blobs": written.blobs})


def _pages(session: Session, chosen: Select[str]) -> Iterator[list[str]]:
    found = session.scalars(chosen, execution_options={"yield_per": PAGE})
    return (list(page) for page in found.partitions())


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def of(session: Session, task: RetentionTaskRow) -> Approved | None:
    """The manifest that the task runs, if it runs one."""
    dry = session.get(RetentionTaskRow, task.approved_task_id) if task.approved_task_id else None
    if dry is None or dry.manifest_key is None or dry.manifest_sha256 is None:
        return None
    return Approved(dry.manifest_key, dry.manifest_sha256)


@contextmanager
def verified(manifest: Approved) -> Iterator[BinaryIO]:
    """The manifest in a file of this machine, so that what was checked is what is run.

    Raises:
        BlobNotFound: it is gone.
        Conflict: it is not what was approved.
    """
    with TemporaryFile() as file:
        digest = hashlib.sha256()
        for chunk in blobs().stream(manifest.key):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != manifest.sha256:
            raise Conflict(f"The manifest at {manifest.key} was changed since it was approved: make another dry run")
        file.seek(0)
        yield file


def take(file: BinaryIO, action: Action, size: int) -> Batch | None:
    """The next inferences of one kind from where the file stands, `size` at most; None when there are no more."""
    actions = {RECORD: action, DATA: Action.BLOB}
    kind, ids, end = "", list[str](), file.tell()
    while len(ids) < size and (line := file.readline()):
        found, name = next(iter(orjson.loads(line).items()))
        if found in actions and kind in ("", found):
            kind = found
            ids.append(name)
        elif found != "retention_task":
            break  # of another kind: it begins the next batch
        end = file.tell()
    file.seek(end)
    return Batch(actions[kind], ids, end) if ids else None
