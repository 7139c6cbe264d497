"""Distances on the globe, as both databases compute them."""

from __future__ import annotations

import math
from typing import Final

from sqlalchemy import Double, SQLColumnExpression, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

#: Metres from the centre of the earth to sea level, on average.
EARTH_RADIUS: Final = 6_371_008.8
#: Degrees that count as none, a tenth of a micrometre: PostgreSQL refuses to compute with what rounds to nothing.
NOTHING: Final = 1e-12


def haversine(latitude: float | None, longitude: float | None, to_latitude: float, to_longitude: float) -> float | None:
    """The haversine of the angle between two places, all in degrees; nothing is known of a place without coordinates.

    It grows with the distance, from 0 at the place itself to 1 on the other side of the globe.
    """
    if latitude is None or longitude is None:
        return None
    by_latitude = math.sin(math.radians(_snapped(to_latitude - latitude)) / 2) ** 2
    by_longitude = math.sin(math.radians(_snapped(to_longitude - longitude)) / 2) ** 2
    return by_latitude + math.cos(math.radians(latitude)) * math.cos(math.radians(to_latitude)) * by_longitude


def _snapped(degrees: float) -> float:
    return 0.0 if abs(degrees) < NOTHING else degrees


def haversine_of(metres: float) -> float:
    """The haversine of places that are so many metres apart along a great circle."""
    return math.sin(min(metres / EARTH_RADIUS, math.pi) / 2) ** 2


class great_circle(FunctionElement[float]):  # noqa: N801  it reads as the SQL function it is
    """`haversine` of a row's coordinates and a place."""

    type = Double()
    name = "great_circle"
    inherit_cache = True

    def __init__(
        self,
        latitude: SQLColumnExpression[float | None],
        longitude: SQLColumnExpression[float | None],
        to: tuple[float, float],
    ) -> None:
        super().__init__(latitude, longitude, literal(to[0], Double()), literal(to[1], Double()))


@compiles(great_circle, "postgresql")
def _postgresql_great_circle(element: great_circle, compiler: SQLCompiler, **options: object) -> str:
    latitude, longitude, to_latitude, to_longitude = (compiler.process(part, **options) for part in element.clauses)

    def half_sine_squared(degrees: str) -> str:
        return f"power(sin(radians({_postgresql_snapped(degrees)}) / 2), 2)"

    def cosine(degrees: str) -> str:
        return f"cos(radians({_postgresql_snapped(degrees)}))"

    by_longitude = half_sine_squared(f"{to_longitude} - {longitude}")
    return (
        f"({half_sine_squared(f'{to_latitude} - {latitude}')} "
        f"+ {cosine(latitude)} * {cosine(to_latitude)} * {by_longitude})"
    )


def _postgresql_snapped(degrees: str) -> str:
    return f"CASE WHEN abs({degrees}) < {NOTHING} THEN 0 ELSE {degrees} END"


@compiles(great_circle, "sqlite")
def _sqlite_great_circle(element: great_circle, compiler: SQLCompiler, **options: object) -> str:
    return f"orchestrator_haversine({compiler.process(element.clauses, **options)})"
