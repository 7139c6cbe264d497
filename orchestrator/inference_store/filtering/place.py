"""Location filters: circles and rectangles on the globe, in degrees and metres."""

from __future__ import annotations

import math
from typing import Final

from sqlalchemy import ColumnElement, or_

from orchestrator.database.geography import EARTH_RADIUS, great_circle, haversine_of
from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering.checks import finite, within
from orchestrator.inference_store.models import GeoCircle, GeolocationFilter, GeoPoint, GeoRectangle
from orchestrator.inference_store.tables import InferenceRow

#: Degrees by which a box is wider than its circle: more than what rounding takes away.
MARGIN: Final = 1e-6


def conditions(filter_: GeolocationFilter) -> list[ColumnElement[bool]]:
    """Whether an inference has a place, and that lies in the areas; borders belong to them.

    Raises:
        InvalidRequest: a coordinate or a radius is none.
    """
    found: list[ColumnElement[bool]] = []
    if filter_.gps_coordinates_circle is not None:
        found += _in_circle(filter_.gps_coordinates_circle)
    if filter_.gps_coordinates_rectangle is not None:
        found += _in_rectangle(filter_.gps_coordinates_rectangle)
    return found


def _in_rectangle(rectangle: GeoRectangle) -> list[ColumnElement[bool]]:
    (south, west), (north, east) = _checked("p1", rectangle.p1), _checked("p2", rectangle.p2)
    return [
        InferenceRow.latitude.between(min(south, north), max(south, north)),
        InferenceRow.longitude.between(min(west, east), max(west, east)),
    ]


def _in_circle(circle: GeoCircle) -> list[ColumnElement[bool]]:
    centre = _checked("center", circle.center)
    if finite("location_filter: radius", circle.radius) < 0:
        raise InvalidRequest(f"location_filter: radius is {circle.radius}: it must not be negative")
    angle = great_circle(InferenceRow.latitude, InferenceRow.longitude, centre)
    return [*_in_box(centre, circle.radius / EARTH_RADIUS), angle <= haversine_of(circle.radius)]


def _in_box(centre: tuple[float, float], angle: float) -> list[ColumnElement[bool]]:
    """What lies in the circle lies in the box, which an index finds; `angle` is the circle's radius in radians."""
    latitude, longitude = centre
    reach = math.degrees(angle) + MARGIN
    found: list[ColumnElement[bool]] = [
        InferenceRow.latitude.between(max(-90.0, latitude - reach), min(90.0, latitude + reach))
    ]
    if abs(latitude) + reach >= 90:
        return found  # a pole is inside, and with it every meridian
    width = math.degrees(math.asin(math.sin(angle) / math.cos(math.radians(latitude)))) + MARGIN
    west, east = longitude - width, longitude + width
    if west < -180:
        return [*found, or_(InferenceRow.longitude >= west + 360, InferenceRow.longitude <= east)]
    if east > 180:
        return [*found, or_(InferenceRow.longitude >= west, InferenceRow.longitude <= east - 360)]
    return [*found, InferenceRow.longitude.between(west, east)]


def _checked(name: str, point: GeoPoint) -> tuple[float, float]:
    latitude = within(f"location_filter: {name}: latitude", point.latitude, 90)
    return latitude, within(f"location_filter: {name}: longitude", point.longitude, 180)
