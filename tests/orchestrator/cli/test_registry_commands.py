"""Projects, datasets, snapshots and models from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.orchestrator.cli.conftest import Catalog, Command


def test_what_was_made_is_listed_and_shown_by_its_name(orchestrator: Command, database: Database, source: Path) -> None:
    project = orchestrator.json("project", "create", "demo", "--weight", "3")
    dataset = orchestrator.json("dataset", "create", "digits")
    snapshot = orchestrator.json("snapshot", "import", "digits", str(source), "--name", "first")
    assert orchestrator.json("project", "list") == [project]
    assert orchestrator.json("project", "show", "demo")["weight"] == 3
    assert orchestrator.json("dataset", "list", "--project", "demo") == [dataset]
    assert dataset["project_id"] == project["id"]
    assert orchestrator.json("snapshot", "show", "first", "--dataset", "digits") == snapshot
    assert orchestrator.json("snapshot", "show", snapshot["id"]) == snapshot
    assert snapshot["splits"][0] == {"split": "test", "datum_count": 8, "annotated_count": 3}
    assert "test 8, train 2" in orchestrator("snapshot", "list", "digits").out


def test_a_model_needs_a_url_and_a_task_and_the_rest_follows_from_them(
    orchestrator: Command, database: Database, tmp_path: Path
) -> None:
    orchestrator("project", "create", "demo")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    register = ("model", "register", "pets", "--url", "http://127.0.0.1:9/", "--labels", str(labels))
    model = orchestrator.json(*register, "--task-type", "image-classification", "--max-concurrency", "4")
    assert model["task_type"] == "Image Classification"
    assert model["actions"] == ["predict", "predict_proba"]
    assert model["endpoint"]["url"] == "http://127.0.0.1:9"
    assert model["endpoint"]["model_name"] == "pets"
    assert (model["endpoint"]["input_codec"], model["endpoint"]["output_codec"]) == ("image_base64", "classification")
    assert model["endpoint"]["labels"] == ["cat", "dog"]
    newer = orchestrator.json(*register, "--task-type", "Image Classification", "--version", "2", "--action", "predict")
    assert orchestrator.json("model", "show", "pets")["id"] == newer["id"]
    assert orchestrator.json("model", "show", "pets", "--version", "1")["id"] == model["id"]
    assert [found["version"] for found in orchestrator.json("model", "list")] == ["2", "1"]
    shown = orchestrator("model", "show", model["id"]).out
    assert "4 requests in flight" in shown


def test_a_project_may_be_left_out_only_where_there_is_one(orchestrator: Command, database: Database) -> None:
    none = orchestrator("dataset", "list")
    assert (none.code, none.err.count("\n")) == (1, 1)
    assert "orchestrator project create" in none.err
    orchestrator("project", "create", "a")
    orchestrator("project", "create", "b")
    several = orchestrator("dataset", "create", "digits")
    assert several.code == 1
    assert "--project: a, b" in several.err
    assert orchestrator("dataset", "create", "digits", "--project", "b").code == 0


def test_a_bad_archive_is_refused_with_the_line(orchestrator: Command, catalog: Catalog, source: Path) -> None:
    with (source / "annotations.jsonl").open("a") as file:
        file.write('{"path": "test/99.txt", "annotations": []}\n')
    refused = orchestrator("snapshot", "import", "digits", str(source), "--name", "second")
    assert refused.code == 1
    assert refused.out == ""
    assert "annotations.jsonl" in refused.err
    assert "test/99.txt" in refused.err
    assert [snapshot["name"] for snapshot in orchestrator.json("snapshot", "list", "digits")] == ["first"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("project", "create", "demo"),
        ("dataset", "create", "digits"),
        ("project", "show", "nobody"),
        ("model", "show", "nobody"),
        ("snapshot", "list", "nobody"),
        ("snapshot", "show", "nobody", "--dataset", "digits"),
        ("model", "register", "m", "--url", "ftp://127.0.0.1", "--task-type", "text-embedding"),
    ],
)
def test_a_refused_request_is_one_line_and_exit_code_1(
    orchestrator: Command, catalog: Catalog, arguments: tuple[str, ...]
) -> None:
    ran = orchestrator(*arguments)
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("orchestrator: ")
    assert ran.err.count("\n") == 1


def test_a_task_that_does_not_exist_is_a_usage_error_that_lists_those_that_do(
    orchestrator: Command, database: Database
) -> None:
    ran = orchestrator("model", "register", "m", "--url", "http://127.0.0.1", "--task-type", "alchemy", width=200)
    assert ran.code == 2
    assert "oriented-object-detection" in ran.err
