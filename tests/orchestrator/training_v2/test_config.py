"""A config against its schema: every offending field is named, and nothing is fetched."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from orchestrator.training_v2 import BlueprintDoesNotExistError, Run, ValidationError, validate_run_config
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


HOLDS_ITSELF: dict[str, Any] = {}
HOLDS_ITSELF["inner"] = [HOLDS_ITSELF]


@pytest.mark.parametrize(
    "config, said",
    [
        ({"text": "a\0b"}, r"config\.text: holds NUL"),
        ({"text": ["\ud800"]}, r"config\.text\[0\]: holds NUL"),
        ({"a": {"b\0": 1}}, r"config\.a: 'b\\x00' cannot be the name"),
        ({"a": {1: 1}}, r"config\.a: 1 cannot be the name"),
        ({"blob": b""}, r"config\.blob: a bytes has no JSON form"),
        ({"a": [{"start": date(2026, 1, 1)}]}, r"config\.a\[0\]\.start: a date has"),
        ({"id": UUID(int=0)}, r"config\.id: a UUID has"),
        ({"rate": float("nan")}, r"config\.rate: nan is no number"),
        ({"a": 1, "b": float("-inf")}, r"^config\.b: -inf is no number"),
        ({"seed": 2**70}, r"config\.seed: .* 64 bits"),
        ({"text": "x" * LARGEST_CONFIG}, "bytes as JSON"),
        (HOLDS_ITSELF, "holds itself"),
    ],
)
def test_what_no_database_could_keep_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        check_config(config, {})


def test_a_text_may_say_what_a_character_is_called(scene: Scene) -> None:
    config = {"epochs": 1, "pattern": "\\u0000", "size": (3, 4), "rate": 0.5}
    run_id = scene.create(config=config)
    assert Run.from_id(run_id).config == {**config, "size": [3, 4]}


def test_only_fields_that_no_pattern_knows_are_named() -> None:
    schema = {"properties": {"a": {}}, "patternProperties": {"^x_": {}}, "additionalProperties": False}
    with pytest.raises(ValidationError) as caught:
        check_config({"a": 1, "x_ok": 1, "bad": 2}, schema)
    assert caught.value.message == "config.bad: is not known"


@pytest.mark.parametrize(
    "schema, said",
    [
        ({"properties": {"a": {"$ref": "#/$defs/nope"}}}, "what is not there"),
        ({"properties": {"a": {"$ref": "#nope"}}}, "what is not there"),
        ({"$ref": "#"}, "refers to itself"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}}, "refers to itself"),
    ],
)
def test_a_schema_whose_references_lead_nowhere_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        check_schema(schema)
    with pytest.raises(ValidationError, match=said):
        check_config({"a": 1}, schema)


def test_references_to_a_name_and_back_to_the_whole_are_followed() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "size": {"$ref": "#size"}}}
    schema = {**tree, "$id": "http://127.0.0.1:1/tree", "$defs": {"size": {"$anchor": "size", "type": "integer"}}}
    check_schema(schema)
    check_config({"left": {"left": {"size": 1}}}, schema)
    with pytest.raises(ValidationError, match=r"^config\.left\.left\.size: 'big'"):
        check_config({"left": {"left": {"size": "big"}}}, schema)
    inner = {"$id": "inner", "$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}
    check_schema({"properties": {"a": inner}})


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
