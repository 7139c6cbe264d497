"""Blobs of the store: recorded before they are written, doomed with their last inference, and all gone in the end."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from orchestrator import clock, storage
from orchestrator.database import db_now, insert_ignoring, reading, transact, writing
from orchestrator.ids import new_id
from orchestrator.inference_store import blobs
from orchestrator.inference_store.tables import InferenceRow, StoreBlobRow
from orchestrator.ledger import holds

pytestmark = pytest.mark.usefixtures("database")

DATA = b"a picture"
SHA256 = hashlib.sha256(DATA).hexdigest()


def acquired(model_id: str = "m") -> str:
    key = blobs.acquire(model_id, SHA256)
    storage.blobs().put(key, DATA)
    return key


def named(key: str, inference_id: str = "i", model_id: str = "m") -> bool:
    """Insert an inference that names the key, if it may."""

    def insert(session: Any) -> bool:
        row = {
            "model_id": model_id,
            "inference_id": inference_id,
            "created_at": session.scalar(select(db_now())),
            "inference_action": "predict",
            "version": "v1",
            "data_hash": SHA256,
            "data_storage_key": key,
        }
        insert_ignoring(session, InferenceRow, [row])
        is_ours = blobs.claim(session, model_id, key)
        if not is_ours:
            session.rollback()
        return is_ours

    return transact(insert)


def deleted(key: str, inference_id: str = "i") -> int:
    """Delete an inference and doom its blob; returns how many blobs were doomed."""
    with writing() as session:
        session.execute(delete(InferenceRow).where(InferenceRow.inference_id == inference_id))
        return blobs.doom_unreferenced(session, [key])


def rows() -> dict[str, datetime | None]:
    with reading() as session:
        return dict(session.execute(select(StoreBlobRow.storage_key, StoreBlobRow.doomed_at)).all())


def test_the_same_content_of_a_model_has_one_key_and_other_models_have_their_own() -> None:
    assert blobs.acquire("m", SHA256) == blobs.acquire("m", SHA256)
    assert blobs.acquire("m", SHA256) != blobs.acquire("n", SHA256)


def test_a_key_is_recorded_before_anything_is_written_to_it() -> None:
    key = blobs.acquire("m", SHA256)
    upload = blobs.new_upload("m")
    assert set(rows()) == {key, upload}
    assert not storage.blobs().exists(key)


def test_a_blob_leaves_with_the_last_inference_that_names_it() -> None:
    key = acquired()
    assert named(key, "one")
    assert named(key, "two")
    assert deleted(key, "one") == 0
    assert deleted(key, "two") == 1
    assert storage.blobs().exists(key)
    assert blobs.delete_doomed() == 1
    assert not storage.blobs().exists(key)
    assert rows() == {}


def test_a_doomed_key_is_never_named_again_and_its_content_gets_another() -> None:
    key = acquired()
    named(key)
    deleted(key)
    assert not named(key, "late")
    again = acquired()
    assert again != key
    assert named(again, "late")
    blobs.delete_doomed()
    assert storage.blobs().get(again) == DATA


def test_a_key_of_another_model_cannot_be_named() -> None:
    assert not named(acquired("n"), model_id="m")


def test_a_removal_that_was_killed_before_it_forgot_the_key_is_finished_by_the_next() -> None:
    key = acquired()
    named(key)
    deleted(key)
    storage.blobs().delete(key)
    assert blobs.delete_doomed() == 1
    assert rows() == {}


def test_doomed_blobs_of_a_model_that_is_held_stay_and_those_of_others_go() -> None:
    keys = {model_id: acquired(model_id) for model_id in ("held", "free")}
    with writing() as session:
        holds.place(session, blobs.hold_subject("held"), "export")
        blobs.doom_unreferenced(session, list(keys.values()))
    assert blobs.delete_doomed() == 1
    assert storage.blobs().exists(keys["held"])
    with writing() as session:
        holds.release(session, "export")
    assert blobs.delete_doomed(model_id="free") == 0
    assert blobs.delete_doomed(model_id="held") == 1


def test_only_keys_that_nobody_claimed_for_a_day_are_swept() -> None:
    claimed, fresh = acquired(), blobs.new_upload("m")
    named(claimed)
    assert blobs.sweep_orphans() == 0
    with writing() as session:
        old = update(StoreBlobRow).where(StoreBlobRow.touched_at.is_not(None))
        session.execute(old.values(touched_at=db_now(-timedelta(days=2))))
    assert blobs.sweep_orphans() == 1
    assert blobs.delete_doomed() == 1
    assert set(rows()) == {claimed}
    assert fresh not in rows()


def test_whoever_asks_for_a_key_again_has_another_day() -> None:
    key = acquired()
    with writing() as session:
        session.execute(update(StoreBlobRow).values(touched_at=db_now(-timedelta(days=2))))
    assert blobs.acquire("m", SHA256) == key
    assert blobs.sweep_orphans() == 0


def test_a_blob_without_a_row_is_removed_once_it_is_a_day_old(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "ab"
    stray, foreign = f"{blobs.ROOT}/{folder}/upload-{new_id()}", f"{blobs.ROOT}/{folder}/something"
    storage.blobs().put(stray, DATA)
    storage.blobs().put(foreign, DATA)
    assert blobs.sweep_orphans(folder=folder) == 0
    later = clock.now() + timedelta(days=2)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert blobs.sweep_orphans(folder=folder) == 1
    assert [info.key for info in storage.blobs().list(blobs.ROOT)] == [foreign]


def test_old_blobs_with_a_row_are_no_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    key = acquired()
    named(key)
    later = clock.now() + timedelta(days=2)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert blobs.sweep_orphans(folder=key.split("/")[1]) == 0
    assert storage.blobs().exists(key)


def test_every_key_lies_in_one_of_the_folders_that_are_swept() -> None:
    keys = [blobs.acquire("m", SHA256), *(blobs.new_upload("m") for _ in range(20))]
    assert all(key.split("/")[1] in blobs.FOLDERS for key in keys)
