"""Turns contours into integer maps of classes, a band of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orchestrator.bulk_inference.evaluation.formats import Contour

#: Pixels in one band; what comes after needs some fifty bytes for each.
BAND_PIXELS = 1_000_000
#: Pillow fills the border too and knows whole pixels only. Drawn this much larger and read at the pixels' centres, a
#: contour covers the area that it encloses.
OVERSAMPLING = 4


class Region(NamedTuple):
    """Rings that bound one object, and the number of its class from 1; a ring in a ring is a hole."""

    rings: Contour
    value: int


def extent(regions: Sequence[Region]) -> tuple[int, int]:
    """The smallest image (width, height), at least one pixel, that holds every contour."""
    points = [point for region in regions for ring in region.rings for point in ring]
    return (
        max(1, math.ceil(max((p.x for p in points), default=1))),
        max(1, math.ceil(max((p.y for p in points), default=1))),
    )


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First row and row after the last of each band that an image of this size is cut into."""
    width, height = size
    step = max(1, BAND_PIXELS // width)
    for top in range(0, height, step):
        yield top, min(height, top + step)


def class_map(regions: Sequence[Region], width: int, top: int, bottom: int) -> NDArray[np.uint16]:
    """The rows from `top` to `bottom`: 0 is background, and a later region lies over an earlier one."""
    result = np.zeros((bottom - top, width), dtype=np.uint16)
    for region in regions:
        paint(result, region, top)
    return result


def paint(canvas: NDArray[np.uint16], region: Region, top: int) -> None:
    """Write the region's value where an odd number of its rings lies around a pixel's centre."""
    points = [point for ring in region.rings for point in ring]
    if not points:
        return
    height, width = canvas.shape
    left, right = clip(min(p.x for p in points), max(p.x for p in points), width)
    first, last = clip(min(p.y for p in points) - top, max(p.y for p in points) - top, height)
    if left >= right or first >= last:
        return
    inside = np.zeros((last - first, right - left), dtype=np.bool_)
    for ring in region.rings:
        corners = [((p.x - left) * OVERSAMPLING, (p.y - top - first) * OVERSAMPLING) for p in ring]
        inside ^= filled(corners, right - left, last - first)
    canvas[first:last, left:right][inside] = region.value


def clip(low: float, high: float, limit: int) -> tuple[int, int]:
    """The whole pixels that a stretch touches, within `limit`."""
    return max(0, math.floor(low)), min(limit, math.ceil(high))


def filled(corners: list[tuple[float, float]], width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels' centres a ring encloses, its corners given in oversampled pixels."""
    if len(corners) < 3:
        return np.zeros((height, width), dtype=np.bool_)
    image = Image.new("1", (width * OVERSAMPLING, height * OVERSAMPLING))
    ImageDraw.Draw(image).polygon([(round(x), round(y)) for x, y in corners], fill=1)
    centre = OVERSAMPLING // 2
    return np.asarray(image)[centre::OVERSAMPLING, centre::OVERSAMPLING]
