"""A full disk under blobs or database: a clear error, nothing half-written, and all goes on once there is room."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.exc import OperationalError

from orchestrator.bulk_inference import ProgressState, abort_bulk_inference_job
from orchestrator.database import dispose
from orchestrator.errors import Unavailable
from orchestrator.registry import create_dataset, create_project, import_snapshot
from orchestrator.storage import blobs
from tests.chaos.disk import SmallDisk, small_disk
from tests.chaos.harness import Harness
from tests.conftest import Database, create_tables, forget_settings
from tests.orchestrator.registry.importing.builders import NOTHING, what_is_kept, write
from tests.support.bulk_inference import Scene, stored
from tests.support.reaper import Reaper
from tests.support.services import Postgres, own_postgres

pytestmark = pytest.mark.faults

#: Seconds that a disk stays full: longer than a lease.
FULL_FOR = 3.0


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A small disk, where another user's server finds it too."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-disk-") as folder:
        Path(folder).chmod(0o755)
        with small_disk(Path(folder) / "disk", megabytes=48) as mounted:
            yield mounted


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.chaos)])
def database(
    request: pytest.FixtureRequest, disk: SmallDisk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """An empty database with every table, on the small disk."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            path = shutil.copyfile(request.getfixturevalue("sqlite_template"), disk.path / "orchestrator.db")
            url = make_url(f"sqlite:///{path}")
        else:
            url = stack.enter_context(postgres_on(disk, request.getfixturevalue("reaper")))
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", url.render_as_string(hide_password=False))
        forget_settings()
        yield Database(request.param, url, home)
        dispose()


@contextmanager
def postgres_on(disk: SmallDisk, reaper: Reaper) -> Iterator[URL]:
    """A server with its tables on the disk, and its log of transactions elsewhere: without that it would end."""
    folder = disk.path / "tables"
    folder.mkdir()
    with own_postgres(reaper) as running:
        if running.user is not None:
            shutil.chown(folder, running.user)
        server = Postgres(running.url)
        server.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        with server.database() as url:
            assert url.database is not None
            server.execute("ALTER DATABASE {} SET TABLESPACE small", url.database)
            create_tables(url)
            yield url


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `orchestrator` with the test's settings."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments], check=False, capture_output=True, text=True, timeout=120
    )


def submit_until_refused(harness: Harness, scene: Scene) -> None:
    """Submit: a page may have room for some more rows."""
    for _ in range(1_000):
        harness.submit(scene)


def has_computed(harness: Harness, job_id: str, wanted: int) -> bool:
    """Whether so many results are stored."""
    return (harness.job(job_id).num_computed or 0) >= wanted


def run_on_a_disk_that_fills_up(disk: SmallDisk, harness: Harness, *, datums: int, times: int) -> None:
    """Run a job, fill the disk under its database so many times for a while, and see it complete."""
    scene = harness.scene(datums)
    harness.server.behaviour.delay = 0.01
    workers = harness.start(workers=2)
    job_id = harness.submit(scene)
    for number in range(1, times + 1):
        wanted = datums * number // (2 * times + 1)
        harness.until(partial(has_computed, harness, job_id, wanted), f"{wanted} results", within=60)
        disk.fill()
        harness.pause(FULL_FOR)
        disk.fill()
        with pytest.raises(OperationalError, match=r"disk is full|No space left"):
            submit_until_refused(harness, scene)
        disk.free()
        for accepted in harness.job_ids:
            if accepted != job_id:
                abort_bulk_inference_job(accepted)
    harness.server.behaviour.delay = 0
    (details,) = harness.wait(job_id)
    assert (details.status, details.num_failed, details.reason) == (ProgressState.SUCCEEDED, 0, "")
    assert stored(job_id) == list(range(datums))
    assert [worker.restarts for worker in workers] == [0, 0]


def test_a_job_waits_while_the_disk_of_its_database_is_full(disk: SmallDisk, harness: Harness) -> None:
    run_on_a_disk_that_fills_up(disk, harness, datums=600, times=1)


@pytest.mark.chaos
def test_a_job_outlives_a_disk_that_fills_up_again_and_again(disk: SmallDisk, harness: Harness) -> None:
    run_on_a_disk_that_fills_up(disk, harness, datums=2_000, times=3)


def test_a_command_says_in_one_line_that_the_disk_of_the_database_is_full(disk: SmallDisk, database: Database) -> None:
    disk.fill()
    answers = (command("project", "create", f"{'x' * 100}{number}") for number in range(100))
    refused = next(answer for answer in answers if answer.returncode)
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1
    assert "is full: free some space" in refused.stderr
    disk.free()
    assert command("project", "create", "another").returncode == 0


@pytest.mark.parametrize("size", [1_000, 3_000_000])
def test_an_import_onto_a_full_disk_leaves_nothing_and_works_once_there_is_room(
    size: int, tmp_path: Path, home: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    path = shutil.copyfile(sqlite_template, home / "orchestrator.db")
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", f"sqlite:///{path}")
    source = write(tmp_path, "folder", {f"{number}.bin": bytes([number]) * size for number in range(4)})
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", (disk.path / "blobs").as_uri())
        forget_settings()
        dataset_id = create_dataset(create_project("project").id, "dataset").id
        blobs().put("there", b"before")
        disk.fill()
        with pytest.raises(Unavailable, match=r"No space left on device; check its place, rights and free space"):
            import_snapshot(dataset_id, source)
        assert what_is_kept() == {**NOTHING, "blobs": 1}
        assert not list((disk.path / "blobs" / ".partial").iterdir())
        disk.free()
        assert import_snapshot(dataset_id, source).splits[0].datum_count == 4
        dispose()
