"""A run's config against its blueprint's JSON Schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as Offence
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from orchestrator.database import storable
from orchestrator.training_v2.exceptions import ValidationError

#: Offences that are told of; of a config that is all wrong nobody reads every line.
MOST = 20
#: Bytes of JSON: a config is read by people, data belongs into a dataset.
LARGEST_CONFIG = 1 << 20
#: Keywords whose value refers to a schema.
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse what is no JSON Schema, and one that refers to a schema elsewhere, which would have to be fetched.

    Raises:
        ValidationError: says what is wrong.
    """
    foreign = [reference for reference in _references(schema) if not reference.startswith("#")]
    if foreign:
        raise ValidationError(f"config_schema: {foreign[0]!r} is elsewhere: bring it here, below '$defs'")
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        raise ValidationError(f"config_schema{_path(error)}: {error.message}") from error
    try:
        _follow(schema)
    except (Unresolvable, RecursionError) as error:
        raise ValidationError(f"config_schema: {_broken(error)}") from error


def check_config(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Hold a config against a schema.

    Raises:
        ValidationError: names every offending field; or the schema is one that nothing can be held against.
    """
    document = as_document(config)
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        _refuse({line for error in validator.iter_errors(document) for line in _lines(error)})
    except (Unresolvable, RecursionError) as error:
        raise ValidationError(
            f"config_schema: {_broken(error)}: register a version of the blueprint that does not"
        ) from error


def as_document(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is kept, and read again: JSON, which has no tuples.

    Raises:
        ValidationError: names every field that no database could keep.
    """
    try:
        _refuse(set(_unfit(config, "config")))
        text = json.dumps(dict(config), ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValidationError("config is nested too deeply, or holds itself") from error
    size = len(text.encode())
    if size > LARGEST_CONFIG:
        raise ValidationError(f"config has {size:,} bytes as JSON: {LARGEST_CONFIG:,} are allowed")
    document: dict[str, Any] = json.loads(text)
    return document


def _refuse(offences: set[str]) -> None:
    if offences:
        more = [f"and {len(offences) - MOST} more"] if len(offences) > MOST else []
        raise ValidationError("; ".join([*sorted(offences)[:MOST], *more]))


def _unfit(value: object, path: str) -> Iterator[str]:
    """What of a value has no JSON form that both databases keep."""
    match value:
        case str() if storable(value) != value:
            yield f"{path}: holds NUL or half a character, which no database keeps"
        case float() if not math.isfinite(value):
            yield f"{path}: {value} is no number that JSON has: leave the field out, or write null"
        case int() if not -(2**63) <= value < 2**64:
            yield f"{path}: the number does not fit into 64 bits"
        case str() | float() | int() | None:
            pass
        case Mapping():
            for name, each in value.items():
                if not isinstance(name, str) or storable(name) != name:
                    yield f"{path}: {name!r:.80} cannot be the name of a field"
                else:
                    yield from _unfit(each, f"{path}.{name}")
        case list() | tuple():
            for index, each in enumerate(value):
                yield from _unfit(each, f"{path}[{index}]")
        case _:
            yield f"{path}: a {type(value).__name__} has no JSON form: write a text, a number or the like"


def _broken(error: Exception) -> str:
    return "it refers to what is not there" if isinstance(error, Unresolvable) else "it refers to itself without an end"


def _lines(error: Offence) -> Iterator[str]:
    """What is wrong, beginning with the field that is."""
    match error.validator:
        case "required":
            for name in error.validator_value:
                if name not in error.instance:
                    yield f"config{_path(error)}.{name}: is missing"
        case "additionalProperties" if error.validator_value is False:
            known, patterns = error.schema.get("properties", {}), error.schema.get("patternProperties", {})
            for name in set(error.instance) - set(known):
                if not any(re.search(pattern, name) for pattern in patterns):
                    yield f"config{_path(error)}.{name}: is not known"
        case _:
            yield f"config{_path(error)}: {error.message[:200]}"


def _path(error: Offence | SchemaError) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)


def _follow(schema: Mapping[str, Any]) -> None:
    """Follow every reference once, and those that any config meets as far as they lead."""
    if any("$id" in part for part in _parts(schema) if part is not schema):
        return  # its references are relative to what is named so: whoever validates finds out
    whole = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", whole).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ValidationError(f"config_schema: it refers to what is not there: {reference!r}") from error
    for _ in validator_for(schema, default=Draft202012Validator)(schema, registry=Registry()).iter_errors({}):
        pass


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    for part in _parts(schema):
        yield from (part[name] for name in REFERENCES if isinstance(part.get(name), str))


def _parts(schema: object) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a schema, itself first."""
    if isinstance(schema, Mapping):
        yield schema
    for value in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ():
        yield from _parts(value)
