"""What filters mean, in plain Python over plain values: nothing here knows of a database."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    GeoCircle,
    GeolocationFilter,
    GeoPoint,
    MetadataFilter,
)

Item = tuple[str, str | None]

#: A hash that data may have: of a bulk job's, the registry has computed it.
HASH = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Origin:
    """A bulk job: its metadata, and whether the labels of its inferences have been indexed."""

    bulk_inference_job_id: str
    dataset_id: str
    dataset_snapshot_id: str
    dataset_snapshot_split: str
    is_indexed: bool


@dataclass(frozen=True)
class Record:
    """An inference; `metadata` has type and value by key, a value of None where one of the origin's was deleted."""

    inference_id: str
    created_at: datetime
    action: str = "detect"
    data_hash: str = HASH
    source: str | None = None
    place: tuple[float, float] | None = None
    metadata: dict[str, Item] = field(default_factory=dict)
    elements: list[dict[str, Any]] = field(default_factory=list)
    embedding: list[float] | None = None
    origin: Origin | None = None
    datum_id: str | None = None
    is_deleted: bool = False


class Malformed(Exception):
    """The filter must be refused."""


class Doubtful(Exception):
    """The inference lies so near to a border that rounding may decide."""


def finds(filter_: BaseInferenceFilter, record: Record, now: datetime) -> bool:
    """Whether the filter finds the record.

    Raises:
        Doubtful: it may or may not.
    """
    window = filter_.time_window_filter
    checks = [not record.is_deleted]
    if filter_.inference_action_filter is not None:
        checks.append(record.action == filter_.inference_action_filter)
    if filter_.data_hash_filter is not None:
        checks.append(record.data_hash == filter_.data_hash_filter)
    if filter_.data_source_filter is not None:
        checks.append(record.source == filter_.data_source_filter)
    if window is not None:
        start = datetime.fromisoformat(window.start) if window.start else datetime(1970, 1, 1, tzinfo=UTC)
        checks.append(start <= record.created_at <= (datetime.fromisoformat(window.end) if window.end else now))
    checks += [has_metadata(item, record) for item in filter_.metadata_filter or ()]
    checks.append(has_label(filter_.deconstructed_inference_filter, record))
    return all(checks) and lies_in(filter_.location_filter, record)


def has_label(filter_: DeconstructedInferenceFilter | None, record: Record) -> bool:
    """Whether one element has one of the labels, and a score within the bounds."""
    if filter_ is None or (filter_.labels, filter_.minimum_score, filter_.maximum_score) == (None, None, None):
        return True
    return bool(matching_elements(filter_, record))


def matching_elements(filter_: DeconstructedInferenceFilter | None, record: Record) -> list[dict[str, Any]]:
    """The elements that the filter is true of."""
    wanted = filter_ or DeconstructedInferenceFilter()
    low = -math.inf if wanted.minimum_score is None else wanted.minimum_score
    high = math.inf if wanted.maximum_score is None else wanted.maximum_score
    is_bounded = wanted.minimum_score is not None or wanted.maximum_score is not None
    found = []
    for element in record.elements:
        score = element.get("score")
        fits = not is_bounded if score is None else low <= score <= high
        if fits and (wanted.labels is None or element["label"] in wanted.labels):
            found.append(element)
    return found


def has_metadata(filter_: MetadataFilter, record: Record) -> bool:
    """Whether an item of metadata, a derived one included, compares with the filter's value as the filter says."""
    kind = filter_.type.removeprefix("json.")
    parse = PARSERS[kind]
    wanted = [parse(text) for text in listed(filter_.value)] if filter_.operator == "in" else [parse(filter_.value)]
    for text, value in zip(listed(filter_.value) if filter_.operator == "in" else [filter_.value], wanted, strict=True):
        if value is None and not (kind == "float" and text.strip("+-").lower() == "nan"):
            raise Malformed(filter_)
    if filter_.type.startswith("json."):
        stored = [value for key, item in record.metadata.items() for value in leaf(filter_.key, key, item, kind)]
    else:
        item = all_metadata(record).get(filter_.key, ("", None))
        stored = [parse(item[1])] if item[0] == filter_.type and item[1] is not None else []
    return any(compares(value, filter_.operator, wanted) for value in stored if value is not None)


def all_metadata(record: Record) -> dict[str, Item]:
    """Derived metadata, and what is stored in its place."""
    derived: dict[str, Item] = {}
    if record.origin is not None:
        names = ("bulk_inference_job_id", "dataset_id", "dataset_snapshot_id", "dataset_snapshot_split")
        derived = {name: ("string", getattr(record.origin, name)) for name in names}
        derived["datum_id"] = ("string", record.datum_id)
    return {**derived, **record.metadata}


def leaf(path: str, key: str, item: Item, kind: str) -> list[Any]:
    """The value at the path in a document under `key`, if there is one of the kind."""
    if item[0] != "json" or item[1] is None:
        return []
    if path == key:
        rest: str | None = None
    elif path.startswith(key + "."):
        rest = path[len(key) + 1 :]
    else:
        return []
    try:
        document = json.loads(item[1], parse_int=lambda text: ("int", text), parse_float=lambda text: ("float", text))
    except (ValueError, RecursionError):
        return []
    ends = [(depth, end) for depth, end in walk(document, rest, 0) if end is not None]
    if not ends:
        return []
    deepest = max(depth for depth, _ in ends)
    found_kind, value = next(end for depth, end in ends if depth == deepest)
    return [float(value) if kind == "float" else value] if found_kind in LEAVES[kind] else []


LEAVES = {"string": ("string",), "int": ("int",), "float": ("int", "float")}


def walk(value: Any, rest: str | None, depth: int) -> Iterator[tuple[int, tuple[str, Any] | None]]:
    """Every end that a path may have, by how many objects lie on the way."""
    if rest is None:
        yield depth, scalar(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if rest == name:
                yield from walk(inner, None, depth + 1)
            elif rest.startswith(name + "."):
                yield from walk(inner, rest[len(name) + 1 :], depth + 1)


def scalar(value: Any) -> tuple[str, Any] | None:
    """Kind and value of what is no object and no list."""
    match value:
        case bool():
            return "string", "true" if value else "false"
        case str():
            return "string", value
        case ("int", str(text)):
            number = integer(text)
            return None if number is None else ("int", number)
        case ("float", str(text)):
            return "float", float(text)
        case float():
            return None if math.isnan(value) else ("float", value)
        case _:
            return None


def integer(text: str) -> int | None:
    """What a text says that is an integer."""
    if not re.fullmatch("[+-]?[0-9]+", text) or len(text.lstrip("+-").lstrip("0")) > 150:
        return None
    return int(text)


def decimal(text: str) -> float | None:
    """What a text says that is a number."""
    if not text.isascii() or "_" in text or text != text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


PARSERS: dict[str, Callable[[str], Any]] = {"string": lambda text: text, "int": integer, "float": decimal}


def listed(text: str) -> list[str]:
    """The values of a list in brackets."""
    if len(text) < 2 or text[0] != "[" or text[-1] != "]":
        raise Malformed(text)
    return [part.strip() for part in text[1:-1].split(",")] if text[1:-1].strip() else []


def compares(value: Any, operator: str, wanted: list[Any]) -> bool:
    """By the bytes of texts, and the values of numbers; nothing compares with NaN."""
    if operator == "in":
        return value in [other for other in wanted if other is not None]
    if wanted[0] is None:
        return False
    one, other = (value.encode(), wanted[0].encode()) if isinstance(value, str) else (value, wanted[0])
    results = {"=": one == other, "!=": one != other, "<": one < other, "<=": one <= other}
    return bool({**results, ">": one > other, ">=": one >= other}[operator])


def lies_in(filter_: GeolocationFilter | None, record: Record) -> bool:
    """Whether the record's place lies in the areas."""
    if filter_ is None:
        return True
    circle, rectangle = filter_.gps_coordinates_circle, filter_.gps_coordinates_rectangle
    if record.place is None:
        return circle is None and rectangle is None
    latitude, longitude = record.place
    inside = True
    if rectangle is not None:
        (south, north), (west, east) = sides(rectangle.p1, rectangle.p2)
        inside = south <= latitude <= north and west <= longitude <= east
    return inside and (circle is None or in_circle(circle, record.place))


def sides(one: GeoPoint, other: GeoPoint) -> tuple[list[float], list[float]]:
    """South and north, west and east."""
    return sorted((one.latitude, other.latitude)), sorted((one.longitude, other.longitude))


def in_circle(circle: GeoCircle, place: tuple[float, float]) -> bool:
    """By the angle between the two directions from the earth's centre."""
    centre = (circle.center.latitude, circle.center.longitude)
    if place == centre:
        return True
    metres = 6_371_008.8 * angle(direction(*centre), direction(*place))
    # Near the other side of the globe the haversine loses half of its digits.
    if abs(metres - circle.radius) < (1.0 if metres > 15e6 else 0.01):
        raise Doubtful
    return metres <= circle.radius


def direction(latitude: float, longitude: float) -> tuple[float, float, float]:
    """The unit vector from the earth's centre to a place."""
    phi, theta = math.radians(latitude), math.radians(longitude)
    return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)


def angle(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Between two unit vectors, precise for small and large ones."""
    cross = (
        one[1] * other[2] - one[2] * other[1],
        one[2] * other[0] - one[0] * other[2],
        one[0] * other[1] - one[1] * other[0],
    )
    return math.atan2(math.hypot(*cross), sum(a * b for a, b in zip(one, other, strict=True)))
