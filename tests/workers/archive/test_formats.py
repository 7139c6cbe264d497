"""COCO and Parquet, read by the libraries that own them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image
from pycocotools.coco import COCO

from orchestrator.inference_store.exports.models import ArchiveFormat, Piece, Stream
from orchestrator.storage import blobs
from tests.support.exports import Archived, Stored, register
from workers.archive import gzips, piece
from workers.archive.checked import PieceDamaged
from workers.archive.coco import merged, picture_size
from workers.archive.records import Order

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

ASKED = {"include_inferences_as_annotations": True, "include_custom_metadata": True}


#: How rows become files is the same on both.
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def stored(database: Database, broker: Broker) -> Stored:
    return register()


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


def unpacked(archive: Archived, folder: Path) -> Path:
    for path, data in archive.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def ring(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in points]


def store_shapes(stored: Stored) -> None:
    lists: dict[str, list[Any]] = {
        "boxes": [
            {"label": "cat", "score": 0.9, "xmin": 1, "ymin": 2, "xmax": 11, "ymax": 22},
            {"label": "dog", "score": 0.9, "xmin": 0, "ymin": 0, "xmax": 5, "ymax": 5},
        ],
        "contours": [{"label": "cat", "contours": [ring((0, 0), (10, 0), (10, 10), (0, 10))]}],
        "empty": [],
        "turned": [{"label": "dog", "cx": 0.5, "cy": 0.5, "w": 0.5, "h": 0.25, "r": 0}],
        "whole": [{"label": "bird", "score": 1}],
    }
    for name, elements in lists.items():
        stored.store(name, picture(40, 20 if name == "turned" else 40), data=json.dumps(elements))
    stored.store("zz no picture", b"text", data="[]")


@on_sqlite
# The library is a little behind numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_reads_what_was_exported(stored: Stored, tmp_path: Path) -> None:
    store_shapes(stored)
    archive = stored.export(archive_format=ArchiveFormat.COCO, **ASKED)
    folder = unpacked(archive, tmp_path)
    read = COCO(str(folder / "annotations" / "instances.json"))
    images = {image["file_name"]: image for image in read.dataset["images"]}
    assert set(images) == {f"images/{name}.png" for name in ("boxes", "contours", "empty", "turned", "whole")}
    assert (images["images/turned.png"]["width"], images["images/turned.png"]["height"]) == (40, 20)
    assert {category["name"] for category in read.loadCats(read.getCatIds())} == {"cat", "dog", "bird"}

    def objects(name: str) -> list[tuple[str, list[float], float]]:
        found = read.loadAnns(read.getAnnIds(images[f"images/{name}.png"]["id"]))
        return [(read.cats[one["category_id"]]["name"], one["bbox"], one["area"]) for one in found]

    assert objects("boxes") == [("cat", [1, 2, 10, 20], 200), ("dog", [0, 0, 5, 5], 25)]
    assert objects("contours") == [("cat", [0, 0, 10, 10], 100)]
    assert objects("empty") == []
    assert objects("turned") == [("dog", [10, 7.5, 20, 5], 100)]
    assert objects("whole") == [("bird", [0, 0, 40, 40], 1600)]
    contour = read.loadAnns(read.getAnnIds(images["images/contours.png"]["id"]))[0]
    assert read.annToMask(contour).sum() == 100


@on_sqlite
def test_coco_survives_shapes_that_reach_far_beyond_their_picture(stored: Stored) -> None:
    far = 10**9
    lists: dict[str, Any] = {
        "box": {"xmin": 0, "ymin": 0, "xmax": 10 * far, "ymax": 10 * far},
        "contour": {"contours": [ring((0, 0), (far, 0), (far, far))]},
        "lost": {"xmin": 0, "ymin": 0, "xmax": 10**18, "ymax": 10**18},
        "turned": {"cx": 0.5, "cy": 0.5, "w": far, "h": far, "r": 0.1},
    }
    for name, shape in lists.items():
        stored.store(name, picture(10, 10), data=json.dumps([{"label": "cat", "score": 1, **shape}]))
    document = json.loads(stored.export(archive_format=ArchiveFormat.COCO, **ASKED).files["annotations/instances.json"])
    assert [found["area"] for found in document["annotations"]] == [100 * far**2, 45, 100]


@on_sqlite
def test_coco_numbers_go_on_from_piece_to_piece(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    store_shapes(stored)
    whole = stored.export(archive_format=ArchiveFormat.COCO, **ASKED)
    monkeypatch.setattr(piece, "PIECE_BYTES", 1)
    pieces = stored.export(archive_format=ArchiveFormat.COCO, **ASKED)
    document = json.loads(pieces.files["annotations/instances.json"])
    assert document == json.loads(whole.files["annotations/instances.json"])
    assert [one["id"] for one in document["annotations"]] == [1, 2, 3, 4, 5]


@on_sqlite
def test_coco_of_nothing_is_a_document(stored: Stored) -> None:
    archive = stored.export(archive_format=ArchiveFormat.COCO)
    document = json.loads(archive.files["annotations/instances.json"])
    assert document == {"images": [], "annotations": [], "categories": []}


def test_a_picture_that_would_be_a_bomb_is_measured_and_not_unpacked() -> None:
    huge = picture(1, 1).replace(
        (1).to_bytes(4, "big") + (1).to_bytes(4, "big"), (60_000).to_bytes(4, "big") + (50_000).to_bytes(4, "big")
    )
    assert picture_size(huge) in ((60_000, 50_000), None)
    assert picture_size(picture(30, 20, "JPEG")) == (30, 20)
    assert picture_size(b"text") is None
    assert picture_size(b"") is None


def test_a_picture_of_a_kind_that_nobody_knows_is_none() -> None:
    unheard_of = bytearray(picture(4, 4, "DDS"))
    unheard_of[80:84] = b"\x80\0\0\0"  # what its pixels are made of
    assert picture_size(bytes(unheard_of)) is None


def test_no_file_is_so_odd_that_to_measure_it_fails() -> None:
    file = io.BytesIO()
    Image.new("F", (40, 30)).save(file, "SPIDER")
    for field in range(27):
        for value in (-1.0, 0.0, 1.0, 2.0):
            odd = bytearray(file.getvalue())
            odd[4 * field : 4 * field + 4] = struct.pack("<f", value)
            picture_size(bytes(odd))


@on_sqlite
def test_a_coco_document_is_not_made_of_pieces_that_were_cut_short(stored: Stored) -> None:
    lines = [b'{"id":%d}\n' % number for number in range(5000)]
    data = gzips.packed(lines)
    pictures = Stream("exports/task/pictures.gz", len(data), zlib.crc32(data), sum(map(len, lines)))
    blobs().put(pictures.key, data[: len(data) // 2])
    order = Order("task", stored.model_id, ArchiveFormat.COCO, annotations=True, metadata=False)
    with pytest.raises(PieceDamaged, match=pictures.key):
        merged(order, [Piece(0, 0, 0, 5000, {"pictures": pictures}, [], {})], attempt=1)
    assert not [found.key for found in blobs().list() if "instances" in found.key]


@on_sqlite
def test_parquet_is_read_as_one_table(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(9):
        content = None if n == 4 else b"content %d" % n
        stored.store(f"inference-{n}", content, latitude=n / 2, longitude=1.0, metadata={"n": ("int", str(n))})
    monkeypatch.setattr(piece, "PIECE_BYTES", 2000)
    archive = stored.export(archive_format=ArchiveFormat.PARQUET, **ASKED)
    folder = unpacked(archive, tmp_path)
    assert len(list((folder / "inferences").iterdir())) > 1
    table = ds.dataset(folder / "inferences", format="parquet").to_table().sort_by("inference_id")
    assert table.schema.field("created_at").type == pa.timestamp("us", tz="UTC")
    rows = table.to_pylist()
    assert [row["inference_id"] for row in rows] == [f"inference-{n}" for n in range(9)]
    for n, row in enumerate(rows):
        assert row["latitude"] == n / 2
        assert json.loads(row["metadata"]) == {"n": n}
        assert json.loads(row["annotations"]) == [{"class_label": "cat"}]
        assert row["path"] is None if n == 4 else (folder / row["path"]).read_bytes() == b"content %d" % n
    assert stored.export(archive_format=ArchiveFormat.PARQUET, **ASKED).content == archive.content
    assert "inferences.jsonl" not in archive.files


@on_sqlite
def test_parquet_of_nothing_is_an_archive(stored: Stored) -> None:
    assert set(stored.export(archive_format=ArchiveFormat.PARQUET).files) == {"manifest.jsonl"}
