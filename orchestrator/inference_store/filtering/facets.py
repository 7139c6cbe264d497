"""What is stored beside metadata and inferences so that filters find them: pure functions of what a caller gave.

Whoever writes an item of metadata, a standard list or an embedding writes these rows in the same transaction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from orchestrator.database import storable
from orchestrator.inference_store.filtering.values import LONGEST_NAME, Number, fitted, parse_float, parse_int
from orchestrator.inference_store.tables import HEAD


class Leaf(NamedTuple):
    """A string or number inside a document: the columns of `MetadataLeafRow` but those that name the item."""

    path: str
    type: str
    value: str
    head: str


class MetadataFacets(NamedTuple):
    """Columns of a `MetadataRow`, and the leaves of a document."""

    head: str | None
    number: float | None
    leaves: list[Leaf]


class Element(NamedTuple):
    """The columns of a `LabelRow` but those that name the inference."""

    element: int
    label: str
    score: float | None


class _Int(str):
    """An integer as the document writes it."""

    __slots__ = ()


class _Float(str):
    """Any other number as the document writes it."""

    __slots__ = ()


def of_metadata(key: str, kind: str, value: str) -> MetadataFacets:
    """What filters need of an item of metadata; `kind` is one of the metadata types.

    A value that does not parse as what its type says is kept all the same, and found by no filter.
    """
    match kind:
        case "string":
            return MetadataFacets(value[:HEAD], None, [])
        case "int":
            return _of_number(parse_int(value))
        case "float":
            return _of_number(parse_float(value))
        case "json":
            return MetadataFacets(None, None, leaves(key, value))
        case _:
            return MetadataFacets(None, None, [])


def leaves(key: str, document: str) -> list[Leaf]:
    """The strings and numbers inside a JSON document, none if it does not parse.

    A path goes through objects alone, not into lists. `true` and `false` are strings; null is nothing. Where two ways
    lead to one path, because names hold dots, the one through more objects is taken.
    """
    try:
        parsed = json.loads(document, parse_int=_Int, parse_float=_Float, parse_constant=_Float)
    except (ValueError, RecursionError):
        return []
    found: dict[str, tuple[int, Leaf]] = {}
    for names, value in _walk((key,), parsed):
        path = fitted(storable(".".join(names)))
        leaf = _leaf(path, value)
        if leaf is not None and (path not in found or found[path][0] < len(names)):
            found[path] = len(names), leaf
    return [leaf for _, leaf in found.values()]


def _walk(names: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    waiting = [(names, value)]
    while waiting:
        names, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(((*names, name), inner) for name, inner in reversed(value.items()))
        else:
            yield names, value


def _leaf(path: str, value: Any) -> Leaf | None:
    match value:
        case _Int():
            return _number_leaf(path, "int", value, parse_int(value))
        case _Float():
            return _number_leaf(path, "float", value, parse_float(value))
        case str():
            return _string_leaf(path, value)
        case bool():
            return _string_leaf(path, "true" if value else "false")
        case _:
            return None


def _number_leaf(path: str, kind: str, text: str, number: Number | None) -> Leaf | None:
    return None if number is None else Leaf(path, kind, str(text), number.text)


def _string_leaf(path: str, text: str) -> Leaf:
    text = storable(text)
    return Leaf(path, "string", text, text[:HEAD])


def _of_number(number: Number | None) -> MetadataFacets:
    if number is None:
        return MetadataFacets(None, None, [])
    return MetadataFacets(number.text, number.value if math.isfinite(number.value) else None, [])


def of_standard_list(objects: Sequence[Any]) -> list[Element]:
    """What label filters need of a standard list: nothing of an object without a label; a score only if it is one."""
    return [
        Element(at, storable(found["label"][:LONGEST_NAME]), _score(found.get("score")))
        for at, found in enumerate(objects)
        if isinstance(found, Mapping) and isinstance(found.get("label"), str)
    ]


def _score(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def of_embedding(numbers: Sequence[float]) -> NDArray[np.float32] | None:
    """What embedding search needs: an embedding as FP32, or None if it is empty or not made of finite numbers."""
    try:
        vector = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    with np.errstate(over="ignore"):
        single = vector.astype(np.float32)
    return single if vector.ndim == 1 and vector.size and np.isfinite(single).all() else None


def of_data(data: str | None) -> NDArray[np.float32] | None:
    """The embedding that the data of an inference is, if it is one."""
    try:
        return of_embedding(orjson.loads(data or ""))
    except orjson.JSONDecodeError:
        return None
