"""The life of the store's blobs: recorded, written, named by inferences, doomed, removed.

A key is recorded in a transaction of its own before anything is written to it (`acquire`, `new_upload`), so whatever
is written has a row that leads to it. The transaction that makes an inference claims the key (`claim`), and the one
that deletes the last inference naming it dooms it (`doom_unreferenced`): both lock the key's row, so of the two that
meet the second sees what the first did. A doomed key is never claimed again; the same content gets another key.
Blobs are removed after that is committed, and their rows after the blobs (`delete_doomed`). So no inference that
anybody sees lacks its blob, wherever a process dies; what it leaves behind is found by `sweep_orphans`: keys that
nobody has claimed for a day, and blobs without a row, which somebody wrote after their key was removed.

Blobs of bulk inferences belong to their datasets; nothing here ever touches them. Why so: `docs/decisions/0015`.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy import exists as sql_exists
from sqlalchemy.orm import Session

from orchestrator import clock, storage
from orchestrator.database import db_now, exclusive, reading, transact
from orchestrator.ids import new_id
from orchestrator.inference_store.tables import InferenceRow, StoreBlobRow
from orchestrator.inference_store.texts import may_exist
from orchestrator.ledger import holds

#: All blobs of the store are below this folder, in one of `FOLDERS`.
ROOT = "inferences"
FOLDERS = [f"{number:02x}" for number in range(256)]
#: How long a key may stay unclaimed, and a blob without a row: longer than any upload takes.
PATIENCE = timedelta(days=1)
#: Keys that one transaction changes.
PAGE = 500

_UNCHANGED_OBJECTS = {"synchronize_session": False}


def hold_subject(model_id: str) -> str:
    """What to hold so that none of the model's inferences, nor their blobs, are removed; see `ledger.holds`.

    Whoever holds it sees rows that are deleted meanwhile, marked by `deleted_at`, with the keys of their blobs.
    """
    return f"inferences of {model_id}"


def acquire(model_id: str, sha256: str) -> str:
    """The key under which the model's content of this hex digest is, or is to be written, within a day.

    The content may have gone again when the key is claimed: then ask for another one, and write again.
    """
    return transact(_acquire, model_id, sha256)


def new_upload(model_id: str) -> str:
    """A key for content that is not known yet, to be written and claimed within a day."""
    upload = new_id()
    key = f"{ROOT}/{upload[-2:]}/upload-{upload}"
    transact(_record, model_id, key, None)
    return key


def is_known(model_id: str, key: str) -> bool:
    """Whether the key is one of the model's, and not doomed."""
    with reading() as session:
        row = session.get(StoreBlobRow, key) if may_exist(key) else None
    return row is not None and row.model_id == model_id and row.doomed_at is None


def claim(session: Session, model_id: str, key: str) -> bool:
    """Let an inference of this very transaction name the key; say whether it is one of the model's, and not doomed.

    Until the transaction ends nobody can doom it. Insert the inference first: deletion takes locks in that order.
    """
    outcome = session.scalar(
        update(StoreBlobRow)
        .where(StoreBlobRow.storage_key == key, StoreBlobRow.model_id == model_id, StoreBlobRow.doomed_at.is_(None))
        .values(touched_at=None)
        .returning(StoreBlobRow.storage_key),
        execution_options=_UNCHANGED_OBJECTS,
    )
    return outcome is not None


def doom_unreferenced(session: Session, keys: Collection[str]) -> int:
    """Doom those of the blobs that no inference names which anybody sees; returns how many."""
    doomed = 0
    named = sql_exists().where(
        InferenceRow.data_storage_key == StoreBlobRow.storage_key,
        InferenceRow.bulk_inference_job_id.is_(None),
        InferenceRow.deleted_at.is_(None),
    )
    for page in _pages(sorted(keys)):
        chosen = (StoreBlobRow.storage_key.in_(page), StoreBlobRow.doomed_at.is_(None))
        # The lock first: of two that delete the last two inferences of a blob, the second must see what the first did.
        session.execute(
            select(StoreBlobRow.storage_key).where(*chosen).order_by(StoreBlobRow.storage_key).with_for_update()
        )
        doomed += _count(session, update(StoreBlobRow).where(*chosen, ~named).values(doomed_at=db_now()))
    return doomed


def delete_doomed(*, model_id: str | None = None, limit: int = PAGE) -> int:
    """Remove up to `limit` doomed blobs, of one model or of all, but none that an export holds; returns how many.

    Killed after the blobs are gone it leaves their rows, and the next call removes both. A hold that is placed in
    between is no matter: whoever places it looks at inferences that are seen then, and none of those names a doomed
    blob.

    Raises:
        Unavailable: the blob store fails; nothing is lost, the next call goes on.
    """
    keys = transact(_removable, model_id, limit)
    storage.blobs().delete_many(keys)
    for page in _pages(keys):
        transact(_forget, page)
    return len(keys)


def sweep_orphans(*, limit: int = PAGE, folder: str | None = None) -> int:
    """Doom up to `limit` keys that nobody claimed for a day, and remove old blobs without a row from one folder.

    The folder is one of `FOLDERS`, any of them unless it is given, so that a call is short however much is stored.

    Returns how many keys were doomed and blobs removed.

    Raises:
        Unavailable: the blob store fails; nothing is lost, the next call goes on.
    """
    doomed = transact(_doom_unclaimed, limit)
    strays = 0
    for page in _pages(_old_keys(folder or random.choice(FOLDERS))):
        with reading() as session:
            # Asked after the listing: a key has its row before its blob, and never again once that is gone.
            known = set(session.scalars(select(StoreBlobRow.storage_key).where(StoreBlobRow.storage_key.in_(page))))
        gone = [key for key in page if key not in known]
        storage.blobs().delete_many(gone)
        strays += len(gone)
    return doomed + strays


def _acquire(session: Session, model_id: str, sha256: str) -> str:
    # Two that bring the same content at once shall share a key.
    exclusive(session, f"blob {sha256} of {model_id}")
    key = session.scalar(
        select(StoreBlobRow.storage_key)
        .where(StoreBlobRow.model_id == model_id, StoreBlobRow.sha256 == sha256, StoreBlobRow.doomed_at.is_(None))
        .limit(1)
    )
    if key is None:
        key = f"{ROOT}/{sha256[:2]}/{sha256}-{new_id()}"
        _record(session, model_id, key, sha256)
        return key
    session.execute(
        update(StoreBlobRow)
        .where(StoreBlobRow.storage_key == key, StoreBlobRow.touched_at.is_not(None))
        .values(touched_at=db_now()),
        execution_options=_UNCHANGED_OBJECTS,
    )
    return key


def _record(session: Session, model_id: str, key: str, sha256: str | None) -> None:
    session.add(StoreBlobRow(storage_key=key, model_id=model_id, sha256=sha256))
    session.flush()


def _removable(session: Session, model_id: str | None, limit: int) -> Sequence[str]:
    doomed = select(StoreBlobRow).where(StoreBlobRow.doomed_at.is_not(None))
    if model_id is not None:
        doomed = doomed.where(StoreBlobRow.model_id == model_id)
    models = session.scalars(doomed.with_only_columns(StoreBlobRow.model_id).distinct()).all()
    free = [each for each in sorted(models) if not holds.is_held(session, hold_subject(each))]
    keys = doomed.with_only_columns(StoreBlobRow.storage_key).where(StoreBlobRow.model_id.in_(free))
    return session.scalars(keys.order_by(StoreBlobRow.doomed_at).limit(limit)).all()


def _forget(session: Session, keys: Sequence[str]) -> None:
    session.execute(
        delete(StoreBlobRow).where(StoreBlobRow.storage_key.in_(keys)), execution_options=_UNCHANGED_OBJECTS
    )


def _doom_unclaimed(session: Session, limit: int) -> int:
    keys = session.scalars(
        select(StoreBlobRow.storage_key)
        .where(StoreBlobRow.touched_at <= db_now(-PATIENCE), StoreBlobRow.doomed_at.is_(None))
        .order_by(StoreBlobRow.touched_at)
        .limit(limit)
    ).all()
    return doom_unreferenced(session, keys)


def _old_keys(folder: str) -> Iterator[str]:
    """Keys of the folder that are older than `PATIENCE`; the end of each tells its age."""
    horizon = (clock.now() - PATIENCE).timestamp() * 1000
    for info in storage.blobs().list(f"{ROOT}/{folder}"):
        try:
            made = uuid.UUID(info.key[-36:])
        except ValueError:
            continue  # none that this module has made
        if made.version == 7 and made.int >> 80 < horizon:
            yield info.key


def _pages(keys: Iterable[str]) -> Iterator[tuple[str, ...]]:
    waiting = iter(keys)
    while page := tuple(islice(waiting, PAGE)):
        yield page


def _count(session: Session, statement: Any) -> int:
    return cast(CursorResult[Any], session.connection().execute(statement)).rowcount
