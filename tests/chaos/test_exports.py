"""Exports whose workers are killed, anywhere and any time: each ends with the bytes of one that was left alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy import func, select

from orchestrator import ledger
from orchestrator.database import reading
from orchestrator.inference_store.export_task import get_export_details
from orchestrator.inference_store.exports import sweep
from orchestrator.inference_store.exports.finish import _complete
from orchestrator.inference_store.exports.models import ExportDetails, ExportTaskState
from orchestrator.inference_store.exports.plan import _pin
from orchestrator.inference_store.exports.tables import ExportMemberRow, ExportPieceRow, ExportTaskRow
from orchestrator.inference_store.purge import delete_inferences
from orchestrator.ledger import UNFINISHED
from orchestrator.ledger.tables import HoldRow, UnitRow
from orchestrator.storage import blobs
from tests.chaos.harness import Harness
from tests.chaos.harness import sweep as end_the_day
from tests.chaos.points import Point
from tests.support.exports import Stored, archived, register, several

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.faults

ASKED = {"include_inferences_as_annotations": True, "include_custom_metadata": True}
MEMBERS = 400
#: Seconds from the last death to the end of a task.
CONVERGENCE = 30.0
#: A point is struck at its first pass; one in so many also at a later one, up to this.
AGAIN, LATEST_PASS = 3, 5
#: How often a point is tried that another process may pass first.
TRIES = 4
#: Deaths while one archive is made, at most.
KILLS = 30
RECORD = "record_piece.<locals>.record"
MEBIBYTE = 1 << 20


class Exports:
    """Exports of one set by the harness's workers, and the bytes that they should have."""

    def __init__(self, harness: Harness, members: int = MEMBERS) -> None:
        self.harness = harness
        self.stored: Stored = register()
        self.stored.store_many(several(members, metadata={"n": ("int", "7")}))
        self.task_ids: list[str] = []
        self.expected = ""

    def start(self) -> None:
        """Start workers, and export once undisturbed."""
        self.harness.start(workers=2)
        self.expected = self.digest(self.wait(self.submit()))

    def submit(self) -> str:
        """Export the set once more."""
        self.task_ids.append(self.stored.submit(**ASKED))
        return self.task_ids[-1]

    def wait(self, task_id: str, *, within: float = 120.0) -> ExportDetails:
        """The task once it has ended, with whoever died started again meanwhile."""
        self.harness.until(lambda: get_export_details(task_id).is_over, "the task has ended", within=within)
        return get_export_details(task_id)

    def digest(self, details: ExportDetails) -> str:
        """That of an archive, which has to be there."""
        assert details.state is ExportTaskState.COMPLETE, details
        assert details.archive is not None
        assert details.progress_count == details.expected_count
        return details.archive.sha256

    def check(self) -> None:
        """Whatever happened: equal archives, nothing held, and nothing left once it is swept."""
        left = select(UnitRow.id).where(UnitRow.job_id.in_(self.task_ids), UnitRow.state.in_(UNFINISHED)).limit(1)

        def is_settled() -> bool:
            with reading() as session:
                return session.scalar(left) is None

        self.harness.until(is_settled, "whoever ended a task and was killed then is settled")
        self.harness.close()
        end_the_day()
        while sweep.sweep(settled=timedelta(seconds=-1)):
            pass
        kept = set()
        for task_id in self.task_ids:
            details = get_export_details(task_id)
            assert self.digest(details) == self.expected
            assert details.archive is not None
            kept.add(details.archive.key)
        assert {blob.key for blob in blobs().list("exports")} == kept
        assert archived(self.task_ids[-1]).details.archive is not None
        with reading() as session:
            for table in (HoldRow, ExportMemberRow, ExportPieceRow):
                assert session.scalar(select(func.count()).select_from(table)) == 0
            assert session.scalar(select(func.count()).where(ExportTaskRow.swept_at.is_(None))) == 0


@pytest.fixture
def exports(harness: Harness) -> Exports:
    return Exports(harness)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_worker_that_dies_at_a_point_that_matters_changes_no_byte(exports: Exports) -> None:
    exports.start()
    names = [
        f"after commit {_pin.__qualname__}",
        f"before commit {RECORD}",
        f"after commit {_complete.__qualname__}",
    ]
    struck = strike(exports, [Point("child", name) for name in names])
    assert struck == set(names)
    exports.check()


def strike(exports: Exports, points: Iterable[Point]) -> set[str]:
    """Export once, and let the first to pass each of the points die there; returns where somebody died."""
    for point in points:
        exports.harness.points.arm(point)
    exports.wait(exports.submit())
    for point in points:
        exports.harness.points.disarm(point)
    return {strike.point.name for strike in exports.harness.points.struck()}


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_worker_may_die_at_every_point_of_an_export(exports: Exports) -> None:
    exports.start()
    points = exports.harness.points
    points.record()
    exports.wait(exports.submit())
    passed = [point for point in points.passed() if point.role in ("child", "parent")]
    # Whoever is quicker than a heartbeat, or than who submitted, does not come by there.
    luck = ledger.renew.__qualname__, "send exports.plan"
    found = [point for point in passed if not any(name in point.name for name in luck)]
    points.stop_recording()
    left = found
    for _ in range(TRIES):
        for point in left:
            again = exports.harness.chance.randrange(AGAIN) == 0
            points.arm(point, (1, exports.harness.chance.randint(2, LATEST_PASS)) if again else (1,))
            exports.wait(exports.submit(), within=CONVERGENCE)
            points.disarm(point)
        left = [point for point in found if point not in {strike.point for strike in points.struck()}]
    print(f"{len(points.struck())} deaths at {len(found)} points of an export:", *found, sep="\n")
    assert not left, f"nobody passed these again: {', '.join(map(str, left))}"
    exports.check()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "database",
    [pytest.param("sqlite", marks=pytest.mark.chaos), pytest.param("postgres", marks=pytest.mark.endurance)],
    indirect=True,
)
def test_many_kills_and_deletions_change_no_byte(harness: Harness) -> None:
    exports = Exports(harness, 20_000)
    exports.start()
    workers = [member for member in harness.members if member.role == "worker"]
    task_id = exports.submit()
    harness.until(lambda: get_export_details(task_id).expected_count, "the set is pinned")
    deleted = kills = 0
    while not get_export_details(task_id).is_over and kills < KILLS:
        harness.pause(harness.chance.uniform(0.1, 0.5))
        harness.kill_child(harness.chance.choice(workers))
        kills += 1
        ids = [f"inference-{number:05d}" for number in range(deleted, deleted + 200)]
        deleted += len(delete_inferences(exports.stored.model_id, ids))
    print(f"{kills} kills, {deleted} inferences deleted meanwhile")
    assert deleted
    exports.wait(task_id, within=240)
    exports.check()


@pytest.mark.endurance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_memory_does_not_grow_with_what_is_exported(harness: Harness, database: Database) -> None:
    harness.start(workers=1)
    peaks = [peak_of(harness, files) for files in (2, 200)]
    print(f"peaks with 50 MB and 5 GB: {', '.join(f'{peak / MEBIBYTE:.0f} MiB' for peak in peaks)}")
    assert peaks[1] - peaks[0] < 64 * MEBIBYTE


def peak_of(harness: Harness, files: int) -> int:
    """The largest memory of a worker process while so many files of 25 MB are exported."""
    stored = register()
    content = bytes(range(256)) * 100_000
    stored.store("file-0000", content)
    # All name one blob: the disk shall hold the archive and its pieces, and not the files a third time.
    shared = {"data_size": len(content), "data_storage_key": stored.key_of("file-0000")}
    stored.store_many([(f"file-{n:04d}", None, shared) for n in range(1, files)])
    task_id = stored.submit()
    peak = 0
    deadline = time.monotonic() + 300
    while not (details := get_export_details(task_id)).is_over:
        peak = max([peak, *memory_of_children(harness)])
        assert time.monotonic() < deadline
        harness.pause(0.05)
    assert details.archive is not None, details.reason
    assert details.archive.size > files * len(content)
    blobs().delete(details.archive.key)
    return peak


def memory_of_children(harness: Harness) -> Iterator[int]:
    """What each process of the pools occupies now, in bytes."""
    for member in harness.members:
        for child in member.children:
            try:
                yield child.memory_info().rss
            except psutil.Error:
                continue
