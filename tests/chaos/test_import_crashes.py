"""An import that dies at any point: the next one is not hindered, and a sweep leaves no trace of what is not used."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import select

from orchestrator import registry
from orchestrator.database import reading
from orchestrator.ids import new_id
from orchestrator.registry.importing.importer import _finish, _insert
from orchestrator.registry.tables import SnapshotRow
from tests.chaos.actor import Killed
from tests.chaos.harness import Harness, sweep
from tests.chaos.points import Point
from tests.support.processes import wait_until

pytestmark = pytest.mark.faults

FILES = 12


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blobs in a bucket of an S3 server instead of a folder."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")):
        pass
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", "s3://bucket/blobs")
    monkeypatch.setenv("ORCHESTRATOR_S3_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("ORCHESTRATOR_S3_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("ORCHESTRATOR_S3_SECRET_ACCESS_KEY", "secret")
    yield
    server.stop()


class Imports:
    """Imports of folders with contents of their own, each of which dies at another point."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.folder = harness.folder / "sources"
        self.actor = harness.actor()
        self.dataset_id = registry.create_dataset(registry.create_project(f"imports {new_id()}").id, "dataset").id
        self.survivors: set[str] = set()

    def find_points(self) -> list[Point]:
        """Every point that an import passes."""
        self.harness.points.record()
        self.survivors.add(self.actor.take_in(self.dataset_id, self.source(), "whole"))
        found = list(self.harness.points.passed())
        self.harness.points.stop_recording()
        return found

    def run(self, points: Iterable[Point]) -> None:
        """Import a folder for each point, and let the import die there; every second one is then made anew."""
        for number, point in enumerate(points):
            source = self.source()
            # A file's blob is struck at any of the files.
            self.harness.points.arm(point, [self.harness.chance.randint(1, FILES) if "blob" in point.name else 1])
            with pytest.raises(Killed):
                self.actor.take_in(self.dataset_id, source, f"struck {number}")
            self.harness.points.disarm(point)
            if number % 2:
                self.survivors.add(self.actor.take_in(self.dataset_id, source, f"anew {number}"))

    def source(self) -> Path:
        """A folder of files that no other has."""
        folder = self.folder / new_id()
        folder.mkdir(parents=True)
        for number in range(FILES):
            (folder / f"{number:02}.txt").write_text(f"{folder.name} {number}")
        return folder

    def sweep(self) -> None:
        """Clear away what died, once its time is up."""

        def is_clean() -> bool:
            sweep()
            with reading() as session:
                return not session.scalars(select(SnapshotRow.id).where(SnapshotRow.state == "importing")).all()

        wait_until(is_clean, "no import is unfinished")
        with reading() as session:
            ready = set(session.scalars(select(SnapshotRow.id)))
        assert self.survivors <= ready
        # What died after its last commit is whole, although its importer never heard of it.
        for snapshot_id in ready:
            assert [split.datum_count for split in registry.get_snapshot(snapshot_id).splits] == [FILES]


def test_an_import_that_dies_leaves_nothing_that_is_not_used(harness: Harness) -> None:
    imports = Imports(harness)
    names = ["before blob write", "before blob rename", f"after commit {_insert.__qualname__}"]
    imports.run(Point("importer", name) for name in [*names, f"before commit {_finish.__qualname__}"])
    imports.sweep()


def die_at_every_point(harness: Harness) -> set[str]:
    """Import, and die twice at each point that an import passes; the points by name."""
    imports = Imports(harness)
    found = imports.find_points()
    imports.run(point for point in found for _ in range(2))
    imports.sweep()
    print(f"{2 * len(found)} deaths at {len(found)} points of an import:", *found, sep="\n")
    return {point.name for point in found}


@pytest.mark.endurance
def test_an_import_may_die_at_every_point(harness: Harness) -> None:
    found = die_at_every_point(harness)
    assert {"before blob write", "during blob write", "before blob rename", "after blob rename"} <= found


@pytest.mark.endurance
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_import_into_a_bucket_may_die_at_every_point(bucket: None, harness: Harness) -> None:
    found = die_at_every_point(harness)
    assert {"before blob put", "after blob put"} <= found
