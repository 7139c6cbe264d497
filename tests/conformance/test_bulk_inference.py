"""The documented API, held against the code: a user of the SDK changes the import and keeps the call."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

import orchestrator.bulk_inference

ENTRIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("bulk_inference.json").read_text())
KINDS: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
}


def entries(kind: str) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in ENTRIES if entry["kind"] == kind]


def named(entry: dict[str, Any]) -> Any:
    """What the entry describes, found by module and dotted name."""
    found = importlib.import_module(entry["module"])
    for step in entry["name"].split("."):
        found = inspect.getattr_static(found, step)
    return found


def meant(annotation: str, entry: dict[str, Any]) -> Any:
    """The type that an annotation of the documentation means."""
    names = vars(importlib.import_module(entry["module"])) | vars(
        importlib.import_module("orchestrator.bulk_inference")
    )
    return eval(annotation, dict(names))


def parameters(signature: inspect.Signature) -> list[tuple[str, str, str | None]]:
    """Name, kind and default of each parameter, as the entries have them."""
    return [
        (each.name, KINDS[each.kind], None if each.default is each.empty else repr(each.default))
        for each in signature.parameters.values()
    ]


def expected_parameters(entry: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(each["name"], each["kind"], each.get("default")) for each in entry["params"]]


@pytest.mark.parametrize("entry", entries("function"))
def test_a_function_takes_and_returns_what_is_documented(entry: dict[str, Any]) -> None:
    function = named(entry)
    assert parameters(inspect.signature(function)) == expected_parameters(entry)
    hints = get_type_hints(function)
    assert hints.pop("return") == meant(entry["returns"], entry)
    assert hints == {each["name"]: meant(each["annotation"], entry) for each in entry["params"]}


@pytest.mark.parametrize("entry", entries("model"))
def test_a_model_has_the_documented_fields(entry: dict[str, Any]) -> None:
    model = named(entry)
    assert [base.__name__ for base in model.__bases__] == [entry["bases"]] == [BaseModel.__name__]
    assert parameters(inspect.signature(model)) == expected_parameters(entry)
    annotated = {name: field.annotation for name, field in model.model_fields.items()}
    assert annotated == {each["name"]: meant(each["annotation"], entry) for each in entry["params"]}
    assert repr(model.model_config) == entry["model_config"]


@pytest.mark.parametrize("entry", entries("property"))
def test_a_property_has_the_documented_type(entry: dict[str, Any]) -> None:
    found = named(entry)
    assert isinstance(found, property)
    assert get_type_hints(found.fget)["return"] == meant(entry["returns"], entry)


@pytest.mark.parametrize("entry", entries("enum"))
def test_an_enum_has_the_documented_members(entry: dict[str, Any]) -> None:
    enum = named(entry)
    assert [base.__name__ for base in enum.__bases__] == [entry["bases"]] == [StrEnum.__name__]
    assert {member.name: member.value for member in enum} == entry["values"]


def test_every_kind_of_entry_is_compared() -> None:
    assert {entry["kind"] for entry in ENTRIES} == {"function", "model", "property", "enum"}


def test_everything_documented_can_be_had_from_the_package() -> None:
    top = {entry["name"] for entry in ENTRIES if "." not in entry["name"]}
    assert top <= set(orchestrator.bulk_inference.__all__)
    assert all(hasattr(orchestrator.bulk_inference, name) for name in orchestrator.bulk_inference.__all__)


def test_importing_the_package_loads_nothing_that_only_workers_and_evaluations_need() -> None:
    heavy = ["workers", "valor_lite", "PIL", "matplotlib", "pandas", "sklearn", "typer"]
    program = f"import sys, orchestrator.bulk_inference; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
