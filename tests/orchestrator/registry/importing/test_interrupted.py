"""An import that is killed, overtaken or run beside another leaves what it should, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select, update

from orchestrator.database import db_now, reading, transact
from orchestrator.errors import BadArchive, Conflict, SnapshotNotFound
from orchestrator.registry import (
    get_snapshot,
    import_snapshot,
    list_datums,
    list_snapshots,
    sweep_unfinished_imports,
)
from orchestrator.registry.tables import SnapshotRow
from orchestrator.settings import settings
from orchestrator.storage import blobs
from tests.orchestrator.registry.importing.builders import NOTHING, what_is_kept, write

#: Imports, and hangs for ever once the first batch is stored.
HANGING = """
import sys, threading
from pathlib import Path
from orchestrator.registry import import_snapshot

def hang(done, total):
    print("stored", flush=True)
    threading.Event().wait()

import_snapshot(sys.argv[1], Path(sys.argv[2]), name="hanging", progress=hang)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.05)


def expiry() -> datetime | None:
    with reading() as session:
        return session.scalar(select(SnapshotRow.import_expires_at).where(SnapshotRow.state == "importing"))


def expire() -> None:
    importing = update(SnapshotRow).where(SnapshotRow.state == "importing")
    transact(lambda session: session.execute(importing.values(import_expires_at=db_now())))


def test_a_killed_import_is_invisible_and_swept_when_its_lease_is_over(
    dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LEASE_SECONDS", "2")
    settings.cache_clear()
    files = {f"{n}.txt": str(n).encode() for n in range(700)}
    import_snapshot(dataset_id, write(tmp_path, "folder", {"shared": b"0"}))
    before = what_is_kept()
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, dataset_id, write(tmp_path, "tar", files)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"stored\n"
            assert what_is_kept()["blobs"] == 500
            assert len(list_snapshots(dataset_id)) == 1
            with reading() as session:
                hidden = session.scalar(select(SnapshotRow.id).where(SnapshotRow.state == "importing"))
            with pytest.raises(SnapshotNotFound):
                get_snapshot(hidden or "")
            first = expiry()
            until(lambda: expiry() != first)
            assert sweep_unfinished_imports() == 0, "it hangs, but its heart beats"
            with pytest.raises(Conflict, match="is being imported"):
                import_snapshot(dataset_id, tmp_path / "source.tar", name="hanging")
        finally:
            process.kill()
    until(lambda: sweep_unfinished_imports() == 1)
    assert what_is_kept() == before


def test_the_next_import_sweeps_what_a_dead_one_left(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {f"{n}.txt": str(n).encode() for n in range(600)})

    def import_again(done: int, total: int | None) -> None:
        expire()
        import_snapshot(dataset_id, write(tmp_path, "folder", {"a.txt": b"a"}), name="same")

    with pytest.raises(Conflict, match="was cleared away: import again"):
        import_snapshot(dataset_id, source, name="same", progress=import_again)
    assert [snapshot.name for snapshot in list_snapshots(dataset_id)] == ["same"]
    assert what_is_kept() == {"datums": 1, "import_blobs": 0, "snapshots": 1, "snapshot_splits": 1, "blobs": 1}


def test_an_interrupted_import_clears_up_after_itself(dataset_id: str, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_snapshot(dataset_id, write(tmp_path, "zip", {"a.txt": b"a"}), progress=interrupt)
    assert what_is_kept() == NOTHING


def test_an_import_that_fails_leaves_the_blobs_of_one_that_goes_on(dataset_id: str, tmp_path: Path) -> None:
    files = {f"{n}.txt": str(n).encode() for n in range(600)}
    good = write(tmp_path, "zip", files)
    bad = write(tmp_path, "tar", {**files, "../up": b""})
    failed: list[BadArchive] = []

    def fail_beside(done: int, total: int | None) -> None:
        with pytest.raises(BadArchive) as caught:
            import_snapshot(dataset_id, bad)
        failed.append(caught.value)

    snapshot = import_snapshot(dataset_id, good, progress=fail_beside)
    assert len(failed) == 2
    assert all(blobs().exists(datum.storage_key) for datum in list_datums(snapshot.id, "default"))
    assert what_is_kept() == {"datums": 600, "import_blobs": 0, "snapshots": 1, "snapshot_splits": 1, "blobs": 600}


def test_imports_of_the_same_files_at_once_all_find_their_blobs(dataset_id: str, tmp_path: Path) -> None:
    files = {f"{n}.txt": str(n % 50).encode() for n in range(200)}
    good = write(tmp_path, "zip", files)
    bad = write(tmp_path, "tar", {**files, "../up": b""})

    def attempt(number: int) -> str | None:
        try:
            return import_snapshot(dataset_id, bad if number % 2 else good).id
        except BadArchive:
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [found for found in pool.map(attempt, range(16)) if found]
    assert len(made) == 8
    for snapshot_id in made:
        assert all(blobs().exists(datum.storage_key) for datum in list_datums(snapshot_id, "default"))
    assert what_is_kept()["blobs"] == 50


def test_of_two_imports_of_one_name_at_once_one_wins(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {"a.txt": b"a"})

    def attempt(_: int) -> str:
        try:
            return import_snapshot(dataset_id, source, name="v1").name
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == ["conflict", "conflict", "conflict", "v1"]
    assert what_is_kept()["snapshots"] == 1
