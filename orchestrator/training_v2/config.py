"""A run's config against its blueprint's JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as Offence
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry

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


def check_config(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Hold a config against a schema.

    Raises:
        ValidationError: names every offending field.
    """
    try:
        size = len(orjson.dumps(config))
    except TypeError as error:
        raise ValidationError(f"config has no JSON form: {error}") from error
    if size > LARGEST_CONFIG:
        raise ValidationError(f"config has {size:,} bytes as JSON: {LARGEST_CONFIG:,} are allowed")
    if b"\\u0000" in orjson.dumps(config):
        raise ValidationError("config holds the character NUL, which no database keeps")
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    offences = sorted({line for error in validator.iter_errors(config) for line in _lines(error)})
    if offences:
        more = [f"and {len(offences) - MOST} more"] if len(offences) > MOST else []
        raise ValidationError("; ".join([*offences[:MOST], *more]))


def _lines(error: Offence) -> Iterator[str]:
    """What is wrong, beginning with the field that is."""
    match error.validator:
        case "required":
            for name in error.validator_value:
                if name not in error.instance:
                    yield f"config{_path(error)}.{name}: is missing"
        case "additionalProperties" if error.validator_value is False:
            known = error.schema.get("properties", {})
            for name in sorted(set(error.instance) - set(known)):
                yield f"config{_path(error)}.{name}: is not known"
        case _:
            yield f"config{_path(error)}: {error.message[:200]}"


def _path(error: Offence | SchemaError) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)


def _references(schema: object) -> Iterator[str]:
    match schema:
        case Mapping():
            for name, value in schema.items():
                if name in REFERENCES and isinstance(value, str):
                    yield value
                else:
                    yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)
