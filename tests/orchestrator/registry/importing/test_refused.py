"""A bad source is refused with the member, the line and the reason, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator.errors import BadArchive
from orchestrator.registry import Limits, import_snapshot, list_datums
from orchestrator.registry.importing.paths import check_path
from orchestrator.storage import blobs
from tests.orchestrator.registry.importing.builders import NOTHING, add_to_tar, lines, what_is_kept, write

pytestmark = pytest.mark.usefixtures("database")

GOOD = b'{"path":"a.txt","annotations":[]}\n'


def refusal(dataset_id: str, source: Path, limits: Limits | None = None) -> BadArchive:
    with pytest.raises(BadArchive) as caught:
        import_snapshot(dataset_id, source, limits=limits)
    assert what_is_kept() == NOTHING
    return caught.value


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"{", "not valid JSON"),
        (b'{"path":"a.txt","annotations":[]', "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"path":"\xff"}', "not valid UTF-8"),
        (b'{"path":"a\\ud800"}', "not valid JSON"),
        (b'{"annotations":[]}', "path: Field required"),
        (b'{"path":"b.txt","annotation":[]}', "annotation: Extra inputs"),
        (b'{"path":"b.txt","annotations":{}}', "annotations: Input should be a valid list"),
        (b'{"path":"b.txt","annotations":[{"class_label":7}]}', r"class_label: Input should be a valid string"),
        (b'{"path":"b.txt","annotations":[{"class_label":"7","box":1}]}', "box: Extra inputs"),
        (b'{"path":"b.txt","annotations":[{"class_label":"7","bbox":{"xmin":"1","xmax":2,"ymin":1,"ymax":2}}]}',
         "bbox.xmin: Input should be a valid number"),
        (b'{"path":"b.txt","annotations":[{"class_label":"7","bbox":{"xmin":3,"xmax":2,"ymin":1,"ymax":2}}]}',
         "xmin must not exceed xmax"),
        (b'{"path":"b.txt","annotations":[{"class_label":"7","contour":[[{"x":1,"y":1}]]}]}', "at least 3 items"),
        (b'{"path":"b.txt","annotations":[{"class_label":"7","oriented_bbox":{"cx":1,"cy":1,"w":-1,"h":1,"r":0}}]}',
         "oriented_bbox.w: Input should be greater"),
        (b'{"path":"b.txt","annotations":[{"start":5,"end":2,"label":"x"}]}', "end must not be less"),
        (b'{"path":"b.txt","annotations":[{"context":"x"}]}', "label: Field required"),
        (b'{"path":"b.txt","split":""}', "split: String should have at least 1"),
        (b'{"path":"b.txt","metadata":{"a":"\\u0000"}}', "NUL"),
        (b'{"path":"b.txt","metadata":{"a":' + b"[" * 70 + b"]" * 70 + b"}}", "nested more than"),
        (b'{"path":"b.txt","metadata":{"a":1e999}}', "not valid JSON"),
        (b'{"path":"../b.txt"}', "climbs out"),
        (b'{"path":"c.txt"}', "'c.txt', which is not there"),
        (b'{"path":"./a.txt"}', "an earlier line names"),
        (b'{"path":"b.txt","metadata":{"a":"' + b"x" * 2000 + b'"}}', "longer than 1000 bytes"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(line: bytes, reason: str, dataset_id: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "b.txt": b"b", "annotations.jsonl": GOOD + b"\n" + line + b"\n"}
    error = refusal(dataset_id, write(tmp_path, "zip", files), Limits(line_bytes=1000))
    assert (error.member, error.line) == ("annotations.jsonl", 3)
    assert reason in error.body


@pytest.mark.parametrize(
    "text, line, reason",
    [
        (b"", 1, "'[' is missing"),
        (b'{"path":"a.txt"}', 1, "'[' is missing"),
        (b'[{"path":"a.txt"}', 2, "']' is missing"),
        (b'[{"path":"a.txt"},]', 2, "not a JSON object"),
        (b'[{"path":"a.txt"}, {"path":', 2, "cut off"),
        (b'[{"path":"a.txt"}, {"path":"c.txt"}]', 2, "'c.txt', which is not there"),
        (b'[{"path":"a.txt"}] []', 2, "follows the list"),
        (b'[{"path":"a.txt"}, {"path":"\xff"}]', 1, "UTF-8"),
        (b'[{"a":' + b"[" * 100_000, 1, "nested more than"),
        (b'[{"path":"a.txt","metadata":{"a":NaN}}]', 1, "not valid JSON"),
        (b'[{"path":"a.txt","metadata":{"a":' + b"1" * 5000 + b"}}]", 1, "not valid JSON"),
    ],
)
def test_a_bad_list_is_refused(text: bytes, line: int, reason: str, dataset_id: str, tmp_path: Path) -> None:
    error = refusal(dataset_id, write(tmp_path, "tar", {"a.txt": b"a", "annotations.json": text}))
    assert (error.member, error.line) == ("annotations.json", line)
    assert reason in error.body


HOSTILE = [
    "../up",
    "/etc/passwd",
    "a/../../b",
    "C:/windows",
    "c:x",
    "a\\..\\b",
    "a//b",
    "a/./b",
    "new\nline",
    "x" * 1025,
]


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_hostile_path_is_refused(kind: str, path: str, dataset_id: str, tmp_path: Path) -> None:
    error = refusal(dataset_id, write(tmp_path, kind, {"a.txt": b"a", path: b"x"}))
    assert error.member == path[:200]


@hypothesis_settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("a./\\:\0C~\n é\ud800"), max_size=12) | st.text(max_size=30))
def test_a_path_that_passes_stays_in_its_folder_on_every_system(path: str) -> None:
    try:
        checked = check_path(path)
    except BadArchive as error:
        error.body.encode()
        return
    assert checked.encode()
    assert os.path.normpath(checked) == checked
    assert not {"\\", "\0"} & set(checked)
    assert not checked.startswith(("/", "..")) or checked.startswith("...") or checked[2:3] not in ("", "/")
    assert checked[1:2] != ":" or not checked[0].isascii() or not checked[0].isalpha()


@hypothesis_settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), kind=st.sampled_from(["zip", "tar", "tar.gz"]))
def test_a_damaged_archive_is_refused_or_read_right_but_never_breaks(
    data: st.DataObject, kind: str, dataset_id: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {"train/a.txt": b"a" * 700, "annotations.jsonl": lines({"path": "train/a.txt"}), "b.txt": b"b" * 10}
    source = write(tmp_path_factory.mktemp("damaged"), kind, files)
    content = bytearray(source.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    source.write_bytes(content)
    try:
        snapshot = import_snapshot(dataset_id, source)
    except BadArchive:
        return
    for split in snapshot.splits:
        for datum in list_datums(snapshot.id, split.split):
            assert len(blobs().get(datum.storage_key)) == datum.size


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, dataset_id: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_to_tar(archive, "a.txt", b"a")
        add_to_tar(archive, "link", kind=kind)
    assert refusal(dataset_id, tmp_path / "a.tar").member == "link"


def test_links_in_a_zip_are_refused(dataset_id: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "link" in refusal(dataset_id, tmp_path / "a.zip").body


def test_links_and_pipes_in_a_folder_are_refused(dataset_id: str, tmp_path: Path) -> None:
    link, pipe = tmp_path / "1" / "special", tmp_path / "2" / "special"
    for path in (link, pipe):
        path.parent.mkdir()
    link.symlink_to("/etc/passwd")
    os.mkfifo(pipe)
    for path in (link, pipe):
        assert refusal(dataset_id, path.parent).member == "special"


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_is_there_twice_is_refused(kind: str, dataset_id: str, tmp_path: Path) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for _ in range(2):
                archive.writestr("a.txt", b"a")
    else:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            add_to_tar(tar, "a.txt", b"a")
            add_to_tar(tar, "./a.txt", b"b")
    assert "twice" in refusal(dataset_id, tmp_path / f"a.{kind}").body


def test_an_encrypted_zip_is_refused(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {"a.txt": b"a"})
    content = bytearray(source.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    assert "encrypted" in refusal(dataset_id, source).body


def test_a_zip_whose_member_has_two_names_is_refused(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {"a.txt": b"a"})
    source.write_bytes(source.read_bytes().replace(b"a.txt", b"b.txt", 1))
    assert "another name" in refusal(dataset_id, source).body


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_cut_off_anywhere_is_refused(kind: str, dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, kind, {"a.txt": os.urandom(600), "b.txt": os.urandom(600)})
    whole = source.read_bytes()
    # A tar is padded: up to the end of its last member, every cut loses something.
    end = 2 * (512 + 1024) if kind == "tar" else len(whole)
    for length in (0, 1, 511, 512, 1536, end // 2, end - 1, end):
        if length < len(whole) and (kind == "tar" or length < end):
            source.write_bytes(whole[:length])
            refusal(dataset_id, source)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused_by_ratio_total_size_and_count(kind: str, dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, kind, {f"{n}.txt": bytes(2 << 20) for n in range(5)})
    assert "times its size" in refusal(dataset_id, source, Limits(free_bytes=1 << 20)).body
    assert "in all" in refusal(dataset_id, source, Limits(total_bytes=5 << 20)).body
    assert refusal(dataset_id, source, Limits(file_bytes=1 << 20)).member == "0.txt"
    assert "more than 4 files" in refusal(dataset_id, source, Limits(entries=4)).body


def test_a_zip_that_lies_about_a_size_is_refused(dataset_id: str, tmp_path: Path) -> None:
    source = write(tmp_path, "zip", {"a.txt": bytes(1 << 20)})
    content = bytearray(source.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, 10)
    source.write_bytes(content)
    assert "size or checksum" in refusal(dataset_id, source).body


def test_a_tar_header_that_fills_the_memory_is_refused(dataset_id: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        header = tarfile.TarInfo("a.txt")
        header.pax_headers = {"comment": "x" * (3 << 20)}
        archive.addfile(header, io.BytesIO())
    assert "header takes more than" in refusal(dataset_id, tmp_path / "a.tar.gz").body


@pytest.mark.parametrize("name", ["missing.zip", "empty", "text.zip", "text.tar", "text.tar.gz", "text.rar"])
def test_what_is_no_source_is_refused(name: str, dataset_id: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    if name.startswith("text"):
        (tmp_path / name).write_bytes(b"this is no archive" * 100)
    refusal(dataset_id, tmp_path / name)


def test_both_annotations_files_are_one_too_many(dataset_id: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "annotations.jsonl": GOOD, "annotations.json": b"[]"}
    assert "keep one" in refusal(dataset_id, write(tmp_path, "tar", files)).body


def test_a_refused_import_leaves_the_blobs_of_others(dataset_id: str, tmp_path: Path) -> None:
    import_snapshot(dataset_id, write(tmp_path, "folder", {"a.txt": b"shared"}))
    before = what_is_kept()
    with pytest.raises(BadArchive):
        import_snapshot(dataset_id, write(tmp_path, "tar", {"b.txt": b"shared", "c.txt": b"own", "../d": b""}))
    assert what_is_kept() == before
