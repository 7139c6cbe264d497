"""Standard lists as annotations: what a model found, in the words of an annotations file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from orchestrator.database import storable

#: Neither pixels nor shares of a picture go beyond; sums and products of what does not are numbers in every format.
_FARTHEST = 1e15

_BOX = dict.fromkeys(("xmin", "ymin", "xmax", "ymax")).keys()
_ORIENTED = dict.fromkeys(("cx", "cy", "w", "h", "r")).keys()


def annotations_of(version: str, data: str | None) -> list[dict[str, Any]] | None:
    """The annotations that a stored inference amounts to; None where it is no standard list.

    A classification is its likeliest class. An element that no annotation could say is left out: one without a
    label, or whose shape is none (turned inside out, of fewer than three corners, or farther than any picture).
    """
    if version != "v2" or data is None:
        return None
    try:
        elements = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
        return None
    shaped = [element for element in elements if _is_shaped(element)]
    if shaped or not elements:
        return [found for element in shaped if (found := _annotation(element)) is not None]
    likeliest = max(elements, key=_score)
    label = _label(likeliest)
    return [] if label is None else [{"class_label": label}]


def _is_shaped(element: Mapping[str, Any]) -> bool:
    return "contours" in element or element.keys() >= _BOX or element.keys() >= _ORIENTED


def _score(element: Mapping[str, Any]) -> float:
    match element.get("score"):
        case None:
            return 1.0
        case score:
            return float(score) if _is_number(score) else -math.inf


def _label(element: Mapping[str, Any]) -> str | None:
    label = element.get("label")
    return None if label is None else storable(str(label))


def _annotation(element: Mapping[str, Any]) -> dict[str, Any] | None:
    label = _label(element)
    if label is None:
        return None
    if "contours" in element:
        contours = _contours(element["contours"])
        return {"class_label": label, "contour": contours} if contours else None
    if element.keys() >= _BOX:
        box = {name: element[name] for name in _BOX}
        is_box = all(map(_is_place, box.values())) and box["xmin"] <= box["xmax"] and box["ymin"] <= box["ymax"]
        return {"class_label": label, "bbox": box} if is_box else None
    box = {name: element[name] for name in _ORIENTED}
    is_box = all(map(_is_place, box.values())) and box["w"] >= 0 and box["h"] >= 0
    return {"class_label": label, "oriented_bbox": box} if is_box else None


def _contours(contours: Any) -> list[list[dict[str, float]]]:
    if not isinstance(contours, list):
        return []
    return [[{"x": point["x"], "y": point["y"]} for point in ring] for ring in contours if _is_ring(ring)]


def _is_ring(ring: Any) -> bool:
    return isinstance(ring, list) and len(ring) >= 3 and all(map(_is_point, ring))


def _is_point(point: Any) -> bool:
    return isinstance(point, dict) and _is_place(point.get("x")) and _is_place(point.get("y"))


def _is_place(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _FARTHEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
