"""Sweeps against writers: what is protected while a sweep runs stays, and shared data goes once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from orchestrator.database import reading, writing
from orchestrator.inference_store import purge
from orchestrator.inference_store.blobs import hold_subject
from orchestrator.inference_store.protection import protect_inference
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.submit import submit
from orchestrator.inference_store.tables import StoreBlobRow
from orchestrator.ledger import holds
from orchestrator.storage import blobs
from tests.conftest import Database
from tests.support.ledger import at_once
from tests.support.retention import (
    policy,
    receipts,
    register,
    run,
    run_units,
    store,
    task,
    visible,
    with_data,
)
from workers import sweep

#: Inferences of a model, all of which are raced for.
SIZE = 100


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("FIRST", "SMALLEST", "LARGEST"):
        monkeypatch.setattr(sweep, bound, 7)


def race(action: Action) -> tuple[int, int]:
    """One sweep against two who protect each inference in turn; returns how many each side got."""
    model = register()
    ids = [f"{number:03}" for number in range(SIZE)]
    keeps_records = action is Action.BLOB
    for start in range(0, SIZE, 10):
        store(model, ids[start : start + 10], hours=2, data=f"data of {start}".encode())
    policy_id = policy(
        model, record=-1 if keeps_records else 0, blob=0, action=Action.HARD if keeps_records else action
    )
    task_id = submit(model, policy_id, dry_run=False)
    run_units(task_id, until="retention.sweep")
    protected: set[str] = set()

    def protect(order: list[str]) -> Callable[[], None]:
        # A sweep that strips may be done with a record that is protected only afterwards.
        return lambda: protected.update(one for one in order if one in unswept() and protect_inference(model, one))

    def unswept() -> set[str]:
        return set(with_data(model)) if keeps_records else set(ids)

    at_once([lambda: run_units(task_id), protect(ids[::-1]), protect(ids[::3])])
    left = set(with_data(model))
    done = task(task_id)
    assert done.state is TaskState.COMPLETE
    if keeps_records:
        assert (len(visible(model)), done.stripped_count) == (SIZE, SIZE - len(left))
    else:
        assert protected == left == set(visible(model))
        assert done.deleted_record_count == SIZE - len(left)
    named = {key for key in keys(model) if blobs().exists(key)}
    assert len(named) == len({int(one) // 10 for one in left}), "data goes with its last inference, and no sooner"
    return len(left), SIZE - len(left)


def keys(model: str) -> set[str]:
    with reading() as session:
        chosen = select(StoreBlobRow.storage_key).where(StoreBlobRow.model_id == model)
        return set(session.scalars(chosen.where(StoreBlobRow.doomed_at.is_(None))))


@pytest.mark.parametrize("action", Action)
def test_what_is_protected_while_a_sweep_runs_stays(database: Database, action: Action) -> None:
    race(action)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "database",
    [pytest.param("postgres", marks=pytest.mark.chaos), pytest.param("sqlite", marks=pytest.mark.endurance)],
    indirect=True,
)
def test_ten_thousand_races_delete_nothing_that_is_protected(database: Database) -> None:
    won = [race((Action.HARD, Action.SOFT)[number % 2]) for number in range(10_000 // SIZE)]
    kept, deleted = (sum(side) for side in zip(*won, strict=True))
    print(f"{kept + deleted} races: {kept} were protected in time and stayed, {deleted} were deleted before")
    assert min(kept, deleted) > 100, "neither side should always be faster"


def test_two_sweeps_of_one_model_delete_each_inference_once(database: Database) -> None:
    model = register()
    store(model, [f"{number:03}" for number in range(SIZE)], hours=2, data=b"same")
    policy_id = policy(model)
    tasks = [submit(model, policy_id, dry_run=False) for _ in range(2)]
    at_once([lambda one=one: run_units(one) for one in tasks])  # type: ignore[misc]  # bound early, on purpose
    found = [task(one) for one in tasks]
    assert sum(one.deleted_record_count for one in found) == SIZE
    assert sum(one.deleted_blob_count for one in found) == 1


def test_callers_who_delete_the_last_two_inferences_of_a_blob_remove_it_once(database: Database) -> None:
    model = register()
    for number in range(20):
        store(model, [f"{number}-a", f"{number}-b"], data=str(number).encode())
        at_once([lambda one=f"{number}-{side}": purge.delete_inferences(model, [one]) for side in "ab"])  # type: ignore[misc]  # as above
    assert keys(model) == set()
    assert purge.remove_blobs()
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(StoreBlobRow)) == 0


def test_a_hold_is_honoured_by_a_sweep_that_is_at_work(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    model = register()
    store(model, [f"{number:03}" for number in range(30)], hours=2, data=b"pinned")
    held = threading.Event()

    def hold(_: float) -> None:
        if not held.is_set():
            with writing() as session:
                holds.place(session, hold_subject(model), "export")
            held.set()

    monkeypatch.setattr(sweep, "give_way", hold)
    done = run(model, policy(model))
    assert (visible(model), done.deleted_record_count, done.deleted_blob_count) == ([], 30, 1)
    assert [blob.key for blob in blobs().list("inferences")], "what an export may have pinned stays until it is done"
    assert sum(receipt.count for receipt in receipts(done.task_id)) == 30
