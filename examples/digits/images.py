"""The one way in which a digit becomes a PNG file, and a PNG file the numbers that the classifier takes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: A digit is an image of this many pixels each way, with this many shades beside white.
SIDE = 8
SHADES = 16
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: A larger image is no digit, and decoding it could exhaust the memory.
MAX_SIDE = 1024


def encode(pixels: NDArray[np.floating[Any]]) -> bytes:
    """A PNG file of 8 x 8 pixels from shades between 0 and 16."""
    image = Image.fromarray(np.rint(pixels * (255 / SHADES)).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def decode(png: bytes) -> NDArray[np.float64]:
    """The 64 shades, between 0 and 1, of an image of any size up to 1024 pixels each way.

    Raises:
        ValueError: this is no PNG file, or it is broken or too large.
    """
    if not png.startswith(PNG_SIGNATURE):
        raise ValueError("this is not a PNG file")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise ValueError(f"an image of {image.width} x {image.height} pixels is too large")
            grey = image.convert("L")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("this PNG file is broken") from error
    if grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float64).reshape(SIDE * SIDE) / 255
