"""The documented API of training, held against the code: a user of the SDK changes the import and keeps the call."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import orchestrator.training_v2

ENTRIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("training_v2.json").read_text())
KINDS: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
}


def entries(*kinds: str) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in ENTRIES if entry["kind"] in kinds]


def named(entry: dict[str, Any]) -> Any:
    """What the entry describes, found by module and dotted name."""
    found: Any = importlib.import_module(entry["module"])
    for step in entry["name"].split("."):
        found = inspect.getattr_static(found, step)
    return found.__func__ if isinstance(found, classmethod) else found


def meant(annotation: str | None, entry: dict[str, Any]) -> Any:
    """The type that an annotation of the documentation means."""
    if annotation is None or annotation == "None":
        return type(None)
    module = vars(importlib.import_module(entry["module"]))
    return eval(annotation, {**vars(importlib.import_module("typing")), **vars(orchestrator.training_v2), **module})


def bare(hint: Any) -> Any:
    """A type without what a dict holds, which the documentation leaves open."""
    if get_origin(hint) is dict:
        return dict
    parts = get_args(hint)
    if dict in map(bare, parts):
        return dict | None if type(None) in parts else hint
    return hint


def parameters(function: Any) -> list[tuple[str, str, str | None]]:
    """Name, kind and default of each parameter but `self` and `cls`, as the entries have them."""
    return [
        (each.name, KINDS[each.kind], None if each.default is each.empty else repr(each.default))
        for each in inspect.signature(function).parameters.values()
        if each.name not in ("self", "cls")
    ]


def documented(entry: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(each["name"], each["kind"], each.get("default")) for each in entry["params"]]


@pytest.mark.parametrize("entry", entries("function", "method"))
def test_a_function_takes_and_returns_what_is_documented(entry: dict[str, Any]) -> None:
    function = named(entry)
    assert parameters(function) == documented(entry)
    hints = get_type_hints(function)
    returns = hints.pop("return")
    if entry["name"] == "Run.from_id":
        assert isinstance(inspect.getattr_static(orchestrator.training_v2.Run, "from_id"), classmethod)
    else:
        assert returns == meant(entry["returns"], entry)
    wanted = {each["name"]: bare(meant(each["annotation"], entry)) for each in entry["params"]}
    assert {name: bare(hint) for name, hint in hints.items()} == wanted


@pytest.mark.parametrize("entry", entries("model"))
def test_a_model_has_the_documented_fields(entry: dict[str, Any]) -> None:
    model = named(entry)
    assert [base.__name__ for base in model.__bases__] == [entry["bases"]]
    assert parameters(model) == documented(entry)
    annotated = {name: bare(field.annotation) for name, field in model.model_fields.items()}
    assert annotated == {each["name"]: bare(meant(each["annotation"], entry)) for each in entry["params"]}
    assert repr(model.model_config) == entry["model_config"]


@pytest.mark.parametrize("entry", entries("exception"))
def test_an_exception_is_raised_and_caught_as_documented(entry: dict[str, Any]) -> None:
    exception = named(entry)
    if entry["name"] == "APIException":
        assert exception is orchestrator.training_v2.ApiException
        return
    assert parameters(exception) == documented(entry)
    assert entry["bases"] in [base.__name__ for base in exception.__mro__]


def test_what_the_documentation_says_of_failed_requests_can_be_caught() -> None:
    error = orchestrator.training_v2.TrainingConflict("stop it first")
    assert isinstance(error, orchestrator.training_v2.APIException)
    assert (error.status, error.body) == (409, "stop it first")
    made = orchestrator.training_v2.ApiException(503, "away", body="come back later", data=[1])
    assert (made.status, made.reason, made.body, made.data) == (503, "away", "come back later", [1])


def test_every_kind_of_entry_is_compared() -> None:
    assert {entry["kind"] for entry in ENTRIES} == {"function", "model", "method", "exception"}


def test_everything_documented_can_be_had_from_the_package() -> None:
    top = {entry["name"] for entry in ENTRIES if "." not in entry["name"]}
    assert top <= set(orchestrator.training_v2.__all__)
    assert all(hasattr(orchestrator.training_v2, name) for name in orchestrator.training_v2.__all__)


def test_importing_the_package_loads_nothing_that_only_workers_need() -> None:
    heavy = ["workers", "numpy", "matplotlib", "kubernetes", "typer"]
    program = f"import sys, orchestrator.training_v2; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
