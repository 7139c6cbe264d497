"""Export archives against `tar cf` and `zip -0` that read the same files on the same disk.

    python -m benchmarks.exports
    python -m benchmarks.exports --members 1000 10000 --rounds 2 --database sqlite

The files are the blobs of stored inferences. `tar` writes them one behind the other; an export writes them likewise,
and beside that describes each of them, has its digest in a manifest, and the digest of all. The time of an export is
that from its submission to its end, at two worker processes. Rounds alternate, and the median counts: a disk that is
written to is slow and fast by turns. Without a `tar` or a `zip` command, Python's modules take their place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, at_least, parser, report, without_goal
from benchmarks.snapshots import analyze
from benchmarks.stage import Stage, stage
from orchestrator import clock, storage
from orchestrator.database import insert_ignoring, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.export_task import get_export_details, submit_export_task
from orchestrator.inference_store.exports.models import ExportDetails
from orchestrator.inference_store.models import NewExportTaskRequest
from orchestrator.inference_store.tables import InferenceRow, StoreModelRow

GOAL = 0.5
KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
#: Rows in one transaction.
PAGE = 5000
ANSWER = '[{"label": "seven", "score": 0.75}, {"label": "one", "score": 0.25}]'
ASKED = NewExportTaskRequest(include_inferences_as_annotations=True, include_custom_metadata=True)


@dataclass(frozen=True)
class Load:
    """So many files of so many bytes."""

    members: int
    size: int

    def __str__(self) -> str:
        size = f"{self.size // MEBIBYTE} MiB" if self.size >= MEBIBYTE else f"{self.size / KIBIBYTE:g} KiB"
        return f"{self.members:,} files of {size}"


def options() -> argparse.ArgumentParser:
    """The program's options."""
    made = parser(__doc__)
    made.add_argument("--members", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of small files")
    made.add_argument("--size", type=int, default=2 * KIBIBYTE, help="bytes of a small file")
    made.add_argument("--large", type=int, default=40, help="number of files of 25 MiB")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--no-zip", action="store_true", help="leave out `zip -0`, which takes longer than the rest")
    return made


def measure(chosen: argparse.Namespace) -> list[Figure]:
    """Everything, on a stage of its own."""
    with stage(chosen.database, 1) as surroundings:
        start_workers(surroundings, 2)
        return measured(surroundings, chosen)


def start_workers(surroundings: Stage, processes: int) -> None:
    """One worker that writes archives, one that does the rest, and beat."""
    # What is logged at the start says that a worker is ready.
    informative = {"ORCHESTRATOR_LOG_LEVEL": "INFO"}
    surroundings.workers.start("exports", concurrency=processes, environment=informative)
    surroundings.workers.start("planning", "ticks", concurrency=1, environment=informative)
    surroundings.workers.beat(environment=informative)
    time.sleep(2)  # the children of the pools have yet to import what they run


def measured(surroundings: Stage, chosen: argparse.Namespace) -> list[Figure]:
    """The figures of every load."""
    loads = [Load(members, chosen.size) for members in chosen.members]
    loads += [Load(chosen.large, 25 * MEBIBYTE)] if chosen.large else []
    return [figure for load in loads for figure in compare(surroundings, load, chosen)]


def compare(surroundings: Stage, load: Load, chosen: argparse.Namespace) -> list[Figure]:
    """The figures of one load."""
    model_id, files = fill(surroundings, load)
    scratch = surroundings.home / "scratch"
    scratch.mkdir()
    rivals = {"tar cf": lambda: tar(files, scratch / "all.tar")}
    if not chosen.no_zip:
        rivals["zip -0"] = lambda: pack_zip(files, scratch / "all.zip")
    taken: dict[str, list[float]] = {"export": [], **{name: [] for name in rivals}}
    details = None
    for _ in range(chosen.rounds):
        for name, rival in rivals.items():
            taken[name].append(timed(rival))
            for made in scratch.iterdir():
                made.unlink()
        seconds, details = export(model_id)
        taken["export"].append(seconds)
        remove(details)
    assert details is not None
    assert details.progress_count == load.members
    shutil.rmtree(scratch)
    shutil.rmtree(files)
    return list(figures(load, {name: statistics.median(seconds) for name, seconds in taken.items()}))


def figures(load: Load, taken: dict[str, float]) -> Sequence[Figure]:
    """Ratios, and what they come of."""
    volume = load.members * load.size
    ratios = [
        at_least(f"{load}: {name} / export", taken[name] / taken["export"], GOAL) for name in taken if name != "export"
    ]
    shown = [
        without_goal(
            f"  {name}",
            f"{seconds:.2f} s, {volume / seconds / MEBIBYTE:,.0f} MiB/s, {load.members / seconds:,.0f} files/s",
        )
        for name, seconds in taken.items()
    ]
    return [*ratios, *shown]


def fill(surroundings: Stage, load: Load) -> tuple[str, Path]:
    """A model with an inference upon each file; its id, and the folder that holds the files."""
    model_id = new_id()
    with writing() as session:
        session.add(
            StoreModelRow(
                model_id=model_id,
                project_id=surroundings.project.id,
                task_type="Image Classification",
                embedding_size=0,
            )
        )
    folder = f"inferences/{model_id}"
    now = clock.now()
    for low in range(0, load.members, PAGE):
        rows = [
            row(model_id, f"{folder}/{n % 256:02x}/{n:08d}", load.size, now)
            for n in range(low, min(low + PAGE, load.members))
        ]
        with writing() as session:
            insert_ignoring(session, InferenceRow, rows)
    analyze()
    return model_id, surroundings.home / "blobs" / folder


def row(model_id: str, key: str, size: int, now: object) -> dict[str, object]:
    """Write a file that cannot be packed, and return the inference upon it."""
    content = b"\x89PNG\r\n\x1a\n" + os.urandom(size - 8)
    storage.blobs().put(key, content)
    return {
        "model_id": model_id,
        "inference_id": f"inference-{key[-8:]}",
        "created_at": now,
        "inference_action": "predict",
        "version": "v2",
        "data": ANSWER,
        "data_hash": hashlib.sha256(content).hexdigest(),
        "data_size": size,
        "data_storage_key": key,
    }


def export(model_id: str) -> tuple[float, ExportDetails]:
    """Seconds from submission to end of an export of all that the model has."""
    flush()
    begun = clock.now()
    task_id = submit_export_task(model_id, ASKED)
    # Seldom: asking takes processor time from the workers, and the task itself knows when it ended.
    while not (details := get_export_details(task_id)).is_over:
        time.sleep(0.25)
    assert details.archive is not None, details.reason
    assert details.finished_at is not None
    return (details.finished_at - begun).total_seconds(), details


def remove(details: ExportDetails) -> None:
    """Make room for the next one."""
    assert details.archive is not None
    storage.blobs().delete(details.archive.key)


def timed(work: Callable[[], None]) -> float:
    """Seconds that it takes."""
    flush()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def flush() -> None:
    """Let nobody wait for what somebody else has written."""
    os.sync()


def tar(files: Path, target: Path) -> None:
    """`tar cf`."""
    if shutil.which("tar"):
        subprocess.run(["tar", "cf", str(target), "-C", str(files), "."], check=True)
        return
    with tarfile.open(target, "w") as archive:
        archive.add(files, arcname=".")


def pack_zip(files: Path, target: Path) -> None:
    """`zip -0`."""
    if shutil.which("zip"):
        subprocess.run(["zip", "-0", "-q", "-r", str(target), "."], cwd=files, check=True)
        return
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files.rglob("*")):
            archive.write(path, path.relative_to(files))


if __name__ == "__main__":
    report(measure, options().parse_args())
    sys.exit(0)
