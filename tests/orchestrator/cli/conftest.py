"""The command in this process, and a small catalog for it to act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from typer.testing import CliRunner

from orchestrator import registry
from orchestrator.bulk_inference import plan as planning
from orchestrator.cli.app import app, quiet_logs
from orchestrator.registry.models import Endpoint, InputCodec, OutputCodec, TaskType

if TYPE_CHECKING:
    from tests.conftest import Database


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its whole output, read as one document."""
        return json.loads(self.out)


class Command:
    """Runs `orchestrator …` in this process."""

    def __call__(self, *arguments: str, width: int = 80) -> Ran:
        result = CliRunner(env={"COLUMNS": str(width)}).invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    def json(self, *arguments: str) -> Any:
        """What the command prints with `--json`; it has to succeed."""
        ran = self(*arguments, "--json")
        assert ran.code == 0, ran
        return ran.json


@dataclass(frozen=True)
class Catalog:
    """A project with a dataset of one snapshot, and a model whose endpoint nobody serves."""

    project_id: str
    dataset_id: str
    snapshot_id: str
    model_id: str


@pytest.fixture
def orchestrator() -> Iterator[Command]:
    """The command, with its logs as quiet as they are for a user."""
    quiet_logs()
    yield Command()
    structlog.reset_defaults()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder to import: eight datums in `test`, of which three are annotated, and two in `train`."""
    folder = tmp_path / "source"
    lines = []
    for split, count in (("test", 8), ("train", 2)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            path = f"{split}/{number}.txt"
            (folder / path).write_text(f"{split} {number}")
            if split == "test" and number < 3:
                lines.append(json.dumps({"path": path, "annotations": [{"class_label": "1"}]}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def catalog(database: Database, source: Path) -> Catalog:
    """`demo` with the dataset `digits`, its snapshot `first`, and the classifier `reader`."""
    project = registry.create_project("demo")
    dataset = registry.create_dataset(project.id, "digits")
    snapshot = registry.import_snapshot(dataset.id, source, name="first")
    endpoint = Endpoint(
        url="http://127.0.0.1:1",
        model_name="reader",
        input_codec=InputCodec.TEXT,
        output_codec=OutputCodec.CLASSIFICATION,
    )
    model = registry.register_model(project.id, "reader", TaskType.IMAGE_CLASSIFICATION, endpoint)
    return Catalog(project.id, dataset.id, snapshot.id, model.id)


@pytest.fixture(autouse=True)
def planned_in_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small jobs stand for large ones here: each is planned by a unit of its own."""
    monkeypatch.setattr(planning, "AT_ONCE", 0)
