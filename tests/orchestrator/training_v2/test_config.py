"""A config against its schema: every offending field is named, and nothing is fetched."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.training_v2 import BlueprintDoesNotExistError, ValidationError, validate_run_config
from orchestrator.training_v2.config import LARGEST_CONFIG, check_config, check_schema
from tests.support.training import Scene

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "epochs": {"type": "integer", "minimum": 1},
        "data": {"$ref": "#/$defs/data"},
        "layers": {"type": "array", "items": {"type": "object", "properties": {"width": {"type": "integer"}}}},
    },
    "required": ["epochs", "data"],
    "additionalProperties": False,
    "$defs": {"data": {"type": "object", "required": ["snapshot_id", "split"]}},
}


def test_a_config_that_fits_is_accepted() -> None:
    check_config({"epochs": 1, "data": {"snapshot_id": "s", "split": "train"}, "layers": [{"width": 3}]}, SCHEMA)
    check_config({"anything": ["goes"]}, {})


@pytest.mark.parametrize(
    "config, offences",
    [
        ({}, ["config.data: is missing", "config.epochs: is missing"]),
        ({"epochs": 0, "data": {}}, ["config.epochs: 0", "config.data.snapshot_id: is", "config.data.split: is"]),
        (
            {"epochs": "3", "data": {"snapshot_id": 1, "split": 2}, "ratio": 1},
            ["config.epochs: '3'", "config.ratio: is"],
        ),
        (
            {"epochs": 1, "data": {"snapshot_id": 1, "split": 2}, "layers": [{}, {"width": "wide"}]},
            ["config.layers[1].width: 'wide'"],
        ),
    ],
)
def test_every_offending_field_is_named(config: dict[str, Any], offences: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        check_config(config, SCHEMA)
    lines = caught.value.message.split("; ")
    assert len(lines) == len(offences)
    assert all(any(line.startswith(offence) for line in lines) for offence in offences)


def test_of_very_many_offences_some_are_named_and_the_others_counted() -> None:
    with pytest.raises(ValidationError, match="and 80 more"):
        check_config({f"x{n}": 1 for n in range(100)}, {"additionalProperties": False})


@pytest.mark.parametrize(
    "config, said",
    [({"text": "a\0b"}, "NUL"), ({"blob": b""}, "no JSON form"), ({"text": "x" * LARGEST_CONFIG}, "bytes as JSON")],
)
def test_what_no_database_could_keep_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        check_config(config, {})


@pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("reference", ["http://127.0.0.1:1/schema.json", "other.json", "file:///etc/passwd"])
def test_a_schema_that_would_have_to_be_fetched_is_refused(key: str, reference: str) -> None:
    with pytest.raises(ValidationError, match="is elsewhere"):
        check_schema({"properties": {"a": {"allOf": [{key: reference}]}}})


def test_what_is_no_schema_is_refused_with_the_place() -> None:
    with pytest.raises(ValidationError, match=r"config_schema\.properties\.a\.type"):
        check_schema({"properties": {"a": {"type": "integr"}}})


def test_a_run_config_is_held_against_its_blueprint(scene: Scene) -> None:
    validate_run_config(blueprint_id=scene.blueprint_id, config={"epochs": 1})
    with pytest.raises(ValidationError, match=r"config\.epochs: is missing; config\.rate"):
        validate_run_config(blueprint_id=scene.blueprint_id, config={"rate": 0})
    with pytest.raises(BlueprintDoesNotExistError):
        validate_run_config(blueprint_id="nobody", config={})
