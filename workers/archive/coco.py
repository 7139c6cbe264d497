"""COCO: images, annotations and categories in one JSON document, `annotations/instances.json`.

Pieces say of each picture and each object what is known there; ids of annotations and categories are given when the
document is put together, in the order of the set.
"""

from __future__ import annotations

import io
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from PIL import Image
from pycocotools import mask

from orchestrator.inference_store.exports.models import Piece, Stream
from orchestrator.inference_store.exports.sweep import folder_of
from orchestrator.storage import blobs
from workers.archive import gzips
from workers.archive.annotations import annotations_of
from workers.archive.checked import checked
from workers.archive.describe import INFERENCES, Lines, Record, Table, describe_metadata, inference_of
from workers.archive.records import Order

INSTANCES_FILE = "annotations/instances.json"
PICTURES, OBJECTS = "pictures", "objects"
#: Pixels. The library notes each one that a ring passes, however far outside, and crashes where it finds no room.
_LONGEST_WALK = 1 << 20

Size = tuple[int, int]
Polygon = list[float]


class CocoFormat:
    """Describes members as pictures with objects; what is no picture is a file of the archive and no more."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def describe(self, record: Record, lines: Lines, counts: Counter[str]) -> None:
        lines.add(INFERENCES, inference_of(record, with_metadata=self.order.metadata))
        describe_metadata(record, lines, counts)
        size = picture_size(record.head)
        if record.path is None or size is None:
            return
        image_id = record.row.ordinal + 1
        width, height = size
        lines.add(PICTURES, {"id": image_id, "file_name": record.path, "width": width, "height": height})
        if self.order.annotations:
            annotations = annotations_of(record.row.version, record.row.data)
            counts["annotated"] += annotations is not None
            for annotation in annotations or ():
                lines.add(OBJECTS, {"image_id": image_id, **object_of(annotation, size)})

    def tables(self, part: int, piece: int) -> Iterator[Table]:  # noqa: ARG002  other formats name tables by them
        return iter(())


def picture_size(head: bytes) -> Size | None:
    """Width and height in pixels of a picture that begins so, or None where it is none that is known."""
    # Nothing is unpacked, so a picture may be as large as it likes.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(io.BytesIO(head)) as picture:
            return picture.size
    except Exception:  # noqa: BLE001  a stranger's file is shown to some forty parsers, which fail in every way
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def object_of(annotation: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """An annotation as COCO has it, but for its category; a class alone is an object that fills the picture."""
    width, height = size
    label = annotation["class_label"]
    if "contour" in annotation:
        rings = [[value for point in ring for value in (point["x"], point["y"])] for ring in annotation["contour"]]
        return _polygons(label, rings, size)
    if "oriented_bbox" in annotation:
        return _polygons(label, [corners(annotation["oriented_bbox"], size)], size)
    box = annotation.get("bbox", {"xmin": 0, "ymin": 0, "xmax": width, "ymax": height})
    extent = [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]]
    return _object(label, extent, float(extent[2] * extent[3]), [])


def corners(box: Mapping[str, float], size: Size) -> Polygon:
    """The corners of a turned box in pixels, x and y by turns: it is turned after it was scaled."""
    width, height = size
    cx, cy = box["cx"] * width, box["cy"] * height
    dx, dy = box["w"] * width / 2, box["h"] * height / 2
    cos, sin = math.cos(box["r"]), math.sin(box["r"])
    around = ((-dx, -dy), (dx, -dy), (dx, dy), (-dx, dy))
    return [value for x, y in around for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def _polygons(label: str, rings: list[Polygon], size: Size) -> dict[str, Any]:
    width, height = size
    xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
    extent = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    # As the library counts: pixels, those under two rings once. It walks along every ring, and must not be led astray.
    reach = min(4 * max(size), _LONGEST_WALK)
    near = [[min(max(value, -reach), reach) for value in ring] for ring in rings]
    area = float(mask.area(mask.merge(mask.frPyObjects(near, height, width))))
    return _object(label, extent, area, rings)


def _object(label: str, extent: list[float], area: float, segmentation: list[Polygon]) -> dict[str, Any]:
    return {"category": label, "bbox": extent, "area": area, "segmentation": segmentation, "iscrowd": 0}


def merged(order: Order, pieces: Sequence[Piece], attempt: int) -> Stream:
    """The document, put together of what the pieces say, as a blob of this attempt's own."""
    key = f"{folder_of(order.task_id)}/parts/instances-{attempt}.gz"
    size = crc = raw_size = 0

    def unpacked() -> Iterator[bytes]:
        nonlocal raw_size
        for text in _document(pieces):
            raw_size += len(text)
            yield text

    def counted() -> Iterator[bytes]:
        nonlocal size, crc
        for chunk in gzips.packing(unpacked()):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
            yield chunk

    blobs().put_stream(key, counted())
    return Stream(key, size, crc, raw_size)


def _document(pieces: Sequence[Piece]) -> Iterator[bytes]:
    yield b'{"images":[\n'
    yield from _joined(_lines(pieces, PICTURES))
    yield b'],\n"annotations":[\n'
    categories: dict[str, int] = {}
    yield from _joined(_numbered(_lines(pieces, OBJECTS), categories))
    yield b'],\n"categories":'
    yield orjson.dumps([{"id": number, "name": label} for label, number in categories.items()])
    yield b"}\n"


def _numbered(lines: Iterable[bytes], categories: dict[str, int]) -> Iterator[bytes]:
    for number, line in enumerate(lines, start=1):
        found = orjson.loads(line)
        label = found.pop("category")
        category = categories.setdefault(label, len(categories) + 1)
        yield orjson.dumps({"id": number, "category_id": category, **found}) + b"\n"


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        yield b"," + line if number else line


def _lines(pieces: Sequence[Piece], name: str) -> Iterator[bytes]:
    """The lines that the pieces have under this name, in order.

    Raises:
        PieceDamaged: a blob is not as it was written; by then some of its lines have passed.
    """
    for piece in pieces:
        if name not in piece.streams:
            continue
        rest = b""
        for chunk in gzips.unpacked(checked(piece.streams[name])):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)
