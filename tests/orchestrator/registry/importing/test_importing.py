"""What a source becomes: datums in splits, in order, with what the annotations files say of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import Conflict, DatasetNotFound, InvalidRequest, SnapshotNotFound, SplitNotFound, Unavailable
from orchestrator.registry import get_snapshot, import_snapshot, list_datums, list_snapshots
from orchestrator.registry.importing import spool
from orchestrator.storage import blobs
from tests.orchestrator.registry.importing.builders import lines, what_is_kept, write

KINDS = ["folder", "zip", "tar", "tar.gz"]
#: Spools more than the process may write into any one file, as on a disk that becomes full.
CRAMPED = """
import resource

from orchestrator.errors import Unavailable
from orchestrator.registry.importing.spool import StoredFile, spooling

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    with spooling() as spool:
        spool.add_files(StoredFile(f"{number:0500}", "", 0, "", "") for number in range(50_000))
except Unavailable as error:
    print(error)
"""

pytestmark = pytest.mark.usefixtures("database")


def names(snapshot_id: str, split: str) -> list[str]:
    return [datum.path for datum in list_datums(snapshot_id, split)]


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_annotations_become_datums_in_splits(kind: str, dataset_id: str, tmp_path: Path) -> None:
    annotations = [{"class_label": "7", "bbox": {"xmin": 0, "xmax": 3, "ymin": 1.5, "ymax": 2}}]
    files = {
        "annotations.jsonl": lines(
            {"path": "train/a.png", "annotations": annotations, "metadata": {"camera": "left"}},
            {"path": "loose.txt", "annotations": [], "split": "holdout"},
        ),
        "metadata.jsonl": lines({"path": "train/a.png", "metadata": {"weather": {"rain": True}}}),
        "loose.txt": b"text",
        "other/c.bin": b"\0\1",
        "train/a.png": b"\x89PNG\r\n\x1a\n...",
        "train/b.png": b"b",
    }
    snapshot = import_snapshot(dataset_id, write(tmp_path, kind, files), name="first")
    assert {split.split: (split.datum_count, split.annotated_count) for split in snapshot.splits} == {
        "default": (1, 0),
        "holdout": (1, 1),
        "train": (2, 1),
    }
    first, second = list_datums(snapshot.id, "train")
    assert (first.path, first.ordinal, first.content_type, first.size) == ("train/a.png", 0, "image/png", 11)
    assert first.annotations == annotations
    assert first.metadata == {"camera": "left", "weather": {"rain": True}}
    assert (second.path, second.ordinal, second.annotations, second.metadata) == ("train/b.png", 1, None, None)
    assert blobs().get(first.storage_key) == files["train/a.png"]
    assert list_snapshots(dataset_id) == [snapshot] == [get_snapshot(snapshot.id)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_annotations_every_file_is_a_datum(kind: str, dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, kind, {"test/1.txt": b"1", "val/2.txt": b"2", "validation/3.txt": b"3", "train": b"4"})
    snapshot = import_snapshot(dataset_id, source)
    assert [split.split for split in snapshot.splits] == ["default", "test", "val", "validation"]
    assert all(split.annotated_count == 0 for split in snapshot.splits)
    assert snapshot.name.startswith("source-")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_keeps_its_order_and_a_folder_goes_by_path(kind: str, dataset_id: str, tmp_path: Path) -> None:
    files = {f"{name}.txt": b"" for name in ("c", "a", "b")}
    in_archive = import_snapshot(dataset_id, write(tmp_path, kind, files))
    in_folder = import_snapshot(dataset_id, write(tmp_path, "folder", files))
    assert names(in_archive.id, "default") == ["c.txt", "a.txt", "b.txt"]
    assert names(in_folder.id, "default") == ["a.txt", "b.txt", "c.txt"]


def test_annotations_may_follow_the_files_and_be_one_json_list(dataset_id: str, tmp_path: Path) -> None:
    records = [{"path": f"./{n}.txt", "annotations": [{"context": "é" * 70_000, "label": "}]"}]} for n in range(5)]
    files = {f"{n}.txt": b"" for n in range(5)} | {"annotations.json": json.dumps(records, indent=1).encode()}
    snapshot = import_snapshot(dataset_id, write(tmp_path, "zip", files))
    assert snapshot.splits[0].annotated_count == 5
    assert list_datums(snapshot.id, "default")[4].annotations == records[4]["annotations"]


def test_a_tar_of_the_command_line_is_imported_with_its_dot_and_folders(dataset_id: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "folder", {"train/a.txt": b"a", "annotations.jsonl": lines({"path": "train/a.txt"})})
    subprocess.run(["tar", "-C", folder, "-czf", tmp_path / "a.tgz", "."], check=True)
    snapshot = import_snapshot(dataset_id, tmp_path / "a.tgz")
    assert names(snapshot.id, "train") == ["train/a.txt"]


def test_long_and_foreign_names_survive_every_tar_format(dataset_id: str, tmp_path: Path) -> None:
    path = "ä" * 200 + "/" + "b" * 150
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        target = tmp_path / f"{number}.tar"
        with tarfile.open(target, "w", format=form) as archive:
            archive.addfile(tarfile.TarInfo(path))
        assert names(import_snapshot(dataset_id, target).id, "default") == [path]


def test_what_file_managers_leave_is_no_datum(dataset_id: str, tmp_path: Path) -> None:
    files = {"__MACOSX/._a.txt": b"x", "sub/.DS_Store": b"x", "a.txt": b"a"}
    for kind in ("zip", "tar", "folder"):
        assert names(import_snapshot(dataset_id, write(tmp_path, kind, files)).id, "default") == ["a.txt"]


def test_a_large_file_goes_through_the_disk_and_keeps_its_place(dataset_id: str, tmp_path: Path) -> None:
    large = bytes(range(256)) * (20 << 10)
    for kind in ("zip", "tar.gz"):
        snapshot = import_snapshot(dataset_id, write(tmp_path, kind, {"a": b"a", "large": large, "z": b"z"}))
        datums = list_datums(snapshot.id, "default")
        assert [datum.path for datum in datums] == ["a", "large", "z"]
        assert blobs().get(datums[1].storage_key) == large


def test_equal_files_are_one_blob_over_all_snapshots(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {"a": b"same", "b": b"same"})
    import_snapshot(dataset_id, source)
    import_snapshot(dataset_id, source)
    assert what_is_kept() == {"datums": 4, "import_blobs": 0, "snapshots": 2, "snapshot_splits": 2, "blobs": 1}


def test_progress_counts_up_to_the_last_file(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {f"{n}": b"" for n in range(1200)})
    told: list[tuple[int, int | None]] = []
    import_snapshot(dataset_id, source, progress=lambda done, total: told.append((done, total)))
    assert told == [(500, 1200), (1000, 1200), (1200, 1200)]


def test_datums_are_read_in_pages_that_follow_each_other(dataset_id: str, tmp_path: Path) -> None:
    snapshot = import_snapshot(dataset_id, write(tmp_path, "tar", {f"{n}": b"" for n in range(7)}))
    pages = [list_datums(snapshot.id, "default", after_ordinal=after, limit=3) for after in (-1, 2, 5, 6)]
    assert [[datum.ordinal for datum in page] for page in pages] == [[0, 1, 2], [3, 4, 5], [6], []]
    with pytest.raises(InvalidRequest, match="1 to"):
        list_datums(snapshot.id, "default", limit=0)
    with pytest.raises(SplitNotFound, match="it has default"):
        list_datums(snapshot.id, "train")
    with pytest.raises(SnapshotNotFound):
        list_datums("nothing", "default")


def test_a_name_is_used_once_in_a_dataset(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "tar", {"a": b""})
    first = import_snapshot(dataset_id, source, name="v1")
    with pytest.raises(Conflict, match=rf"already exists in this dataset with id {first.id}"):
        import_snapshot(dataset_id, source, name="v1")
    assert what_is_kept()["snapshots"] == 1


def test_an_unknown_dataset_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound):
        import_snapshot("nowhere", tmp_path / "missing.zip")


def test_nothing_is_imported_into_a_blob_folder_that_is_not_mounted(
    dataset_id: str, tmp_path: Path, home: Path
) -> None:
    source = write(tmp_path, "folder", {"a.txt": b"a"})
    import_snapshot(dataset_id, source)
    (home / "blobs").rename(home / "elsewhere")
    (home / "blobs").mkdir()  # the mount point
    with pytest.raises(Unavailable, match="mount it"):
        import_snapshot(dataset_id, source)
    assert not list((home / "blobs").iterdir())


def test_a_full_temporary_folder_is_told_and_nothing_is_kept(
    dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"path": f"{number}.txt", "metadata": {"note": "x" * 1000}} for number in range(100)]
    source = write(tmp_path, "tar", {"a.txt": b"a", "annotations.jsonl": lines(*records)})
    before = what_is_kept()
    monkeypatch.setattr(spool, "_SCHEMA", spool._SCHEMA + "PRAGMA max_page_count = 16;")
    with pytest.raises(Unavailable, match="disk is full: free some space there, or set TMPDIR"):
        import_snapshot(dataset_id, source)
    assert what_is_kept() == before


def test_a_temporary_folder_that_takes_no_more_is_told() -> None:
    ran = subprocess.run([sys.executable, "-c", CRAMPED], capture_output=True, text=True, check=True)
    assert "free some space there, or set TMPDIR" in ran.stdout
