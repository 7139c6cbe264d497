"""Options that choose inferences, the same for every command that takes some."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    GeoCircle,
    GeolocationFilter,
    GeoPoint,
    MetadataFilter,
    MetadataFilterOperator,
    MetadataFilterType,
    TimeWindowFilter,
)

#: `KEY[:TYPE] OPERATOR VALUE`; the type is `string` unless it is said.
CONDITION = re.compile(
    r"(?P<key>.+?)(:(?P<type>string|int|float|json\.string|json\.int|json\.float))?"
    r"(\s*(?P<sign>!=|>=|<=|=|>|<)\s*|\s+(?P<word>in)\s+)(?P<value>.*)",
    re.DOTALL,
)


def options(
    action: Annotated[str | None, typer.Option(help="Only this inference action.")] = None,
    data_hash: Annotated[str | None, typer.Option("--hash", help="Only upon this data: its SHA-256.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this data source.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this instant on, as 2026-01-31T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Only up to this instant.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY[:TYPE]=VALUE",
            help="Only with such metadata; also !=, <, <=, >, >= and in, as in 'size:int>=3'. May be repeated.",
        ),
    ] = None,
    within: Annotated[str | None, typer.Option(metavar="LAT,LON,METRES", help="Only so near to a place.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only with this label; several mean any of them.")] = None,
    minimum_score: Annotated[float | None, typer.Option(help="Only with such a score, or a higher one.")] = None,
    maximum_score: Annotated[float | None, typer.Option(help="Only with such a score, or a lower one.")] = None,
    filter_file: Annotated[
        str | None, typer.Option("--filter", metavar="FILE", help="A file with a whole filter as JSON; - for stdin.")
    ] = None,
) -> BaseInferenceFilter:
    """The filter that the options say: what is given must all be true."""
    found = BaseInferenceFilter(
        inference_action_filter=action,
        data_hash_filter=data_hash,
        data_source_filter=source,
        time_window_filter=TimeWindowFilter(start=since, end=until) if since or until else None,
        metadata_filter=[condition(text) for text in where] if where else None,
        location_filter=None if within is None else _circle(within),
    )
    if label or minimum_score is not None or maximum_score is not None:
        found.deconstructed_inference_filter = DeconstructedInferenceFilter(
            labels=label or None, minimum_score=minimum_score, maximum_score=maximum_score
        )
    if filter_file is None:
        return found
    if found != BaseInferenceFilter():
        raise typer.BadParameter("--filter says everything: leave out the other options")
    return _read(filter_file)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options above, and gets what they say as `filters`."""
    asked = inspect.signature(options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in asked}
        command(filters=options(**given), **values)

    kept = [each for each in own.parameters.values() if each.name != "filters"]
    taken = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *asked.values())]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in taken}
    run.__signature__ = own.replace(parameters=taken)  # type: ignore[attr-defined]  # functions have one for those who set it
    return run


def condition(text: str) -> MetadataFilter:
    """What `KEY[:TYPE] OPERATOR VALUE` says.

    Raises:
        InvalidRequest: it says nothing of the kind.
    """
    found = CONDITION.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"--where {text!r} is no condition: write camera=east, 'size:int>=3' or 'camera in [a, b]'"
        )
    return MetadataFilter(
        key=found["key"].strip(),
        type=MetadataFilterType(found["type"] or "string"),
        operator=MetadataFilterOperator(found["sign"] or found["word"]),
        value=found["value"],
    )


def _circle(text: str) -> GeolocationFilter:
    try:
        latitude, longitude, metres = map(float, text.split(","))
    except ValueError as error:
        raise InvalidRequest(f"--within {text!r} is no circle: write latitude,longitude,metres") from error
    return GeolocationFilter(
        gps_coordinates_circle=GeoCircle(center=GeoPoint(latitude=latitude, longitude=longitude), radius=metres)
    )


def _read(file: str) -> BaseInferenceFilter:
    try:
        return BaseInferenceFilter.model_validate_json(sys.stdin.read() if file == "-" else Path(file).read_bytes())
    except OSError as error:
        raise InvalidRequest(f"--filter {file}: {error.strerror}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(f"--filter {file}: {wrong}") from error
