"""Creators and deleters at once, or killed: whatever is seen has its data, and in the end nothing is left."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from orchestrator import storage
from orchestrator.database import db_now, reading, writing
from orchestrator.errors import Conflict
from orchestrator.inference_store import (
    blobs,
    bulk_delete_inferences,
    count_inferences,
    create_inference_storage_request,
    delete_inference,
)
from orchestrator.inference_store.tables import InferenceRow, StoreBlobRow
from tests.support.store import EVERYTHING, NO_FILTER, collection, registered

pytestmark = pytest.mark.usefixtures("database")

THREADS, ROUNDS, IDS = 4, 20, 3
DATA = b"the same picture"


def create_and_delete(model_id: str, seed: int) -> None:
    """Do either at random; whatever was created must have its data as long as it is there."""
    choice = random.Random(seed)
    for _ in range(ROUNDS):
        inference_id = f"i{choice.randrange(IDS)}"
        if choice.random() < 0.5:
            delete_inference(model_id, inference_id)
            continue
        with suppress(Conflict):  # it was deleted between two looks at it
            create_inference_storage_request(model_id, inference_id, DATA, collection(DATA))
        assert_seen_have_their_data()


def assert_seen_have_their_data() -> None:
    with reading() as session:
        rows = session.execute(select(InferenceRow.inference_id, InferenceRow.data_storage_key)).all()
    for inference_id, key in rows:
        assert key is not None
        if storage.blobs().exists(key):
            continue
        with reading() as session:
            still = session.scalars(
                select(InferenceRow.data_storage_key).where(InferenceRow.inference_id == inference_id)
            ).all()
        assert key not in still, f"{inference_id} is seen without its data"


def test_nothing_that_is_seen_lacks_its_data_and_nothing_is_left() -> None:
    model_id = registered()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(create_and_delete, model_id, seed) for seed in range(THREADS)]:
            done.result()
    assert_seen_have_their_data()
    bulk_delete_inferences(model_id, NO_FILTER)
    while blobs.delete_doomed():
        pass
    with reading() as session:
        keys = session.scalars(select(StoreBlobRow.storage_key)).all()
        unclaimed = session.scalars(select(StoreBlobRow.storage_key).where(StoreBlobRow.touched_at.is_not(None))).all()
    assert set(keys) == set(unclaimed)
    assert {info.key for info in storage.blobs().list(blobs.ROOT)} <= set(keys)


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize(
    "step",
    ["storage.local.LocalBlobs.put_missing", "inference_store.storing.add_entries", "inference_store.blobs.claim"],
)
def test_a_creator_that_is_killed_leaves_nothing_that_is_seen_and_nothing_for_good(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = registered()

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(f"orchestrator.{step}", kill)
        with pytest.raises(Killed):
            create_inference_storage_request(model_id, "i", DATA, collection(DATA))
    assert count_inferences(model_id, EVERYTHING) == 0
    with writing() as session:
        session.execute(update(StoreBlobRow).values(touched_at=db_now(-timedelta(days=2))))
    assert blobs.sweep_orphans() == 1
    assert blobs.delete_doomed() == 1
    assert list(storage.blobs().list(blobs.ROOT)) == []


def test_a_deleter_that_is_killed_before_it_removes_the_data_leaves_that_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model_id = registered()
    create_inference_storage_request(model_id, "i", DATA, collection(DATA))

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.storage.local.LocalBlobs.delete_many", kill)
        with pytest.raises(Killed):
            delete_inference(model_id, "i")
    assert count_inferences(model_id, EVERYTHING) == 0
    assert blobs.delete_doomed() == 1
    assert list(storage.blobs().list(blobs.ROOT)) == []
