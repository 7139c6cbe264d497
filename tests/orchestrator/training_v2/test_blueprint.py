"""Blueprints: registered in versions, from files too, and looked up by pattern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.training_v2 import (
    BlueprintDoesNotExistError,
    NewBlueprint,
    TrainingConflict,
    ValidationError,
    create_blueprint,
    delete_blueprint,
    get_blueprint,
    list_blueprints,
    lookup_blueprint_id,
    register_blueprint,
)

pytestmark = pytest.mark.usefixtures("database")


def register(version: str, name: str = "yolo", **fields: Any) -> str:
    return create_blueprint(NewBlueprint(**{"name": name, "version": version, "entry_point": ["train"], **fields})).id


def test_the_newest_of_a_name_is_found_and_patterns_choose_among_versions() -> None:
    first, second, third = register("1.0"), register("2.0-RC1"), register("1.9")
    register("9.0", name="other")
    assert lookup_blueprint_id("yolo") == third
    assert lookup_blueprint_id("yolo", "1.%") == third
    assert lookup_blueprint_id("yolo", "1.0") == first
    assert lookup_blueprint_id("yolo", "2.0-rc_") == second
    for pattern in ("3.%", "1\\%"):
        with pytest.raises(BlueprintDoesNotExistError) as caught:
            lookup_blueprint_id("yolo", pattern)
        assert (caught.value.name, caught.value.version_ilike) == ("yolo", pattern)


@pytest.mark.parametrize("name, pattern", [("", None), ("yolo", "1\\"), ("yolo", "a\0")])
def test_a_lookup_without_a_name_or_with_half_an_escape_is_a_value_error(name: str, pattern: str | None) -> None:
    with pytest.raises(ValueError, match=r"name|ILIKE"):
        lookup_blueprint_id(name, pattern)


def test_a_version_is_registered_once_and_is_free_again_once_deleted() -> None:
    first = register("1.0")
    with pytest.raises(TrainingConflict, match="exists already"):
        register("1.0")
    delete_blueprint(first)
    for gone in (lambda: get_blueprint(first), lambda: delete_blueprint(first), lambda: lookup_blueprint_id("yolo")):
        with pytest.raises(BlueprintDoesNotExistError):
            gone()
    second = register("1.0")
    assert lookup_blueprint_id("yolo") == second != first


FIELDS = {
    "name": "yolo",
    "version": "1.0",
    "image": "registry/yolo:1",
    "task_types": ["Object Detection"],
    "config_schema": {"type": "object", "required": ["epochs"]},
    "checkpoint_policy": {"keep_last": 2, "keep_best": 1, "best_by": "val/loss", "best_is": "min"},
    "serving": {"url": "http://127.0.0.1:8080", "input_codec": "tensor_npy"},
}
TOML = """
name = "yolo"
version = "1.0"
image = "registry/yolo:1"
task_types = ["Object Detection"]
config_schema = {type = "object", required = ["epochs"]}
checkpoint_policy = {keep_last = 2, keep_best = 1, best_by = "val/loss", best_is = "min"}
serving = {url = "http://127.0.0.1:8080", input_codec = "tensor_npy"}
"""


@pytest.mark.parametrize("name, text", [("blueprint.json", json.dumps(FIELDS)), ("blueprint.toml", TOML)])
def test_a_blueprint_is_registered_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    made = register_blueprint(path)
    assert get_blueprint(made.id) == made == list_blueprints(name="yolo")[0]
    assert made.model_dump(include=set(FIELDS), exclude_unset=True, mode="json").keys() == FIELDS.keys()
    assert made.checkpoint_policy is not None
    assert (made.checkpoint_policy.keep_best, made.checkpoint_policy.best_is) == (1, "min")


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("b.json", "{", "b.json"),
        ("b.toml", "name = ", "b.toml"),
        ("b.json", '{"name": "a", "version": "1", "img": "x"}', "img"),
        ("b.json", '{"name": "a"}', "version"),
        ("b.json", '{"name": "a", "version": "1"}', "entry_point"),
        ("b.json", '{"name": " a", "version": "1", "image": "x"}', "no name"),
        ("b.json", '{"name": "a", "version": "1", "image": "x", "config_schema": {"type": "x"}}', "config_schema"),
        ("b.json", '{"name": "a", "version": "1", "image": "x", "checkpoint_policy": {"keep_best": 1}}', "best_by"),
        ("b.json", '{"name": "a", "version": "1", "image": "x", "serving": {"input_codec": "png"}}', "png"),
    ],
)
def test_a_file_that_describes_no_blueprint_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValidationError, match=said):
        register_blueprint(path)
    assert list_blueprints() == []
