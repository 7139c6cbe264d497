"""`orchestrator inference`: found by options, shown, counted, described, and deleted with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.inference_filters import condition
from orchestrator.errors import InvalidRequest
from orchestrator.inference_store import BaseInferenceFilter, MetadataFilter
from tests.orchestrator.cli.conftest import Catalog, Command
from tests.support.store import collection, create, create_upon, ids, registered

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def model() -> str:
    """A model with three inferences: two by the camera `east`, one of them with data."""
    model_id = registered()
    create_upon(model_id, "i0", b"data", metadata={"camera": ("string", "east"), "size": ("int", "3")})
    create(model_id, "i1", collection(metadata={"camera": ("string", "east"), "size": ("int", "30")}))
    create(model_id, "i2", collection(data_source="drone", latitude=48.0, longitude=11.0))
    return model_id


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], ["i0", "i1", "i2"]),
        (["--newest", "--limit", "2"], ["i2", "i1"]),
        (["--offset", "2"], ["i2"]),
        (["--where", "camera=east"], ["i0", "i1"]),
        (["--where", "camera=east", "--where", "size:int >= 4"], ["i1"]),
        (["--where", "size:int in [3, 5]"], ["i0"]),
        (["--source", "drone"], ["i2"]),
        (["--within", "48,11,1000"], ["i2"]),
        (["--label", "cat", "--minimum-score", "0.8"], []),
        (["--since", "2100-01-01T00:00:00Z"], []),
        (["--action", "embed"], []),
    ],
)
def test_options_choose(orchestrator: Command, model: str, options: list[str], expected: list[str]) -> None:
    found = orchestrator.json("inference", "list", "-m", model, *options)
    assert [each["inference_id"] for each in found] == expected
    if not {"--newest", "--offset"} & set(options):
        assert orchestrator.json("inference", "count", "-m", model, *options) == {"count": len(expected)}


def test_a_file_holds_a_whole_filter(orchestrator: Command, model: str, tmp_path: Path) -> None:
    file = tmp_path / "filter.json"
    file.write_text(BaseInferenceFilter(data_source_filter="drone").model_dump_json())
    assert orchestrator("inference", "count", "-m", model, "--filter", str(file)).out == "1\n"
    both = orchestrator("inference", "count", "-m", model, "--filter", str(file), "--source", "x")
    assert both.code == 2
    file.write_text('{"data_source_filter": 1}')
    wrong = orchestrator("inference", "count", "-m", model, "--filter", str(file))
    assert (wrong.code, "data_source_filter" in wrong.err) == (1, True)


def test_an_inference_is_shown_with_its_metadata(orchestrator: Command, model: str) -> None:
    shown = orchestrator("inference", "show", "i0", "-m", model)
    assert shown.code == 0
    assert "camera" in shown.out
    assert "east" in shown.out
    found = orchestrator.json("inference", "show", "i0", "-m", model)
    assert found["presigned_url"].startswith("/blobs/")
    missing = orchestrator("inference", "show", "nobody", "-m", model)
    assert (missing.code, "nobody" in missing.err) == (1, True)


def test_tables_are_for_people(orchestrator: Command, model: str) -> None:
    listed = orchestrator("inference", "list", "-m", model, width=160).out
    assert listed.splitlines()[0].split() == ["INFERENCE", "ACTION", "OUTPUT", "SOURCE", "AGE"]
    assert "No inference here." in orchestrator("inference", "list", "-m", model, "--source", "x").out
    assert model in orchestrator("inference", "models").out


def test_metadata_is_described(orchestrator: Command, model: str) -> None:
    assert orchestrator.json("inference", "stats", "-m", model) == {"camera": {"string": 2}, "size": {"int": 2}}
    found = orchestrator.json("inference", "stats", "size", "--type", "int", "--bins", "2", "-m", model)
    assert found == {"count": 2, "distribution": {"3-16.5": 1, "16.5-30": 1}, "min": 3, "max": 30}
    assert "east" in orchestrator("inference", "stats", "camera", "-m", model).out
    one = orchestrator.json("inference", "stats", "camera", "-m", model, "--where", "size:int<4")
    assert one["distribution"] == {"east": 1}


def test_deletion_is_tried_first_and_asks(orchestrator: Command, model: str) -> None:
    chosen = ["inference", "delete", "-m", model, "--where", "camera=east"]
    assert orchestrator.json(*chosen, "--dry-run") == {"count": 2}
    assert orchestrator(*chosen).code != 0
    assert ids(model) == ["i0", "i1", "i2"]
    assert orchestrator.json(*chosen, "--yes") == {"deleted": ["i0", "i1"]}
    assert orchestrator.json("inference", "delete", "-m", model, "i2", "i9", "--yes") == {"deleted": ["i2"]}
    assert ids(model) == []


def test_deletion_must_be_told_what(orchestrator: Command, model: str) -> None:
    for arguments in ([], ["i0", "--all"], ["--all", "--source", "x"]):
        assert orchestrator("inference", "delete", "-m", model, "--yes", *arguments).code == 1
    assert len(ids(model)) == 3
    assert len(orchestrator.json("inference", "delete", "-m", model, "--all", "--yes")["deleted"]) == 3


def test_a_model_is_registered(orchestrator: Command, catalog: Catalog) -> None:
    registering = ["inference", "register", "m", "--task", "Image Embedding", "--embedding-size", "3"]
    assert orchestrator.json(*registering) == {"model_id": "m"}
    assert orchestrator(*registering).code == 0
    (found,) = orchestrator.json("inference", "models")
    assert (found["model_id"], found["embedding_size"]) == ("m", 3)
    again = orchestrator("inference", "register", "m", "--task", "Object Detection")
    assert (again.code, "registered" in again.err) == (1, True)


@pytest.mark.parametrize(
    "text, key, kind, operator, value",
    [
        ("a=b", "a", "string", "=", "b"),
        ("a != b=c", "a", "string", "!=", "b=c"),
        ("a:int>=3", "a", "int", ">=", "3"),
        ("x.y:json.float < 1e3", "x.y", "json.float", "<", "1e3"),
        ("a:b=c", "a:b", "string", "=", "c"),
        ("a in [b, c]", "a", "string", "in", "[b, c]"),
        ("a=", "a", "string", "=", ""),
    ],
)
def test_a_condition_is_a_key_a_type_an_operator_and_a_value(
    text: str, key: str, kind: str, operator: str, value: str
) -> None:
    expected = {"key": key, "type": kind, "operator": operator, "value": value}
    assert condition(text) == MetadataFilter.model_validate(expected)


def test_what_is_no_condition_is_refused() -> None:
    for text in ("camera", "=b", ""):
        with pytest.raises(InvalidRequest, match="--where"):
            condition(text)


def test_json_is_one_document(orchestrator: Command, model: str) -> None:
    assert isinstance(json.loads(orchestrator("inference", "list", "-m", model, "--json").out), list)
