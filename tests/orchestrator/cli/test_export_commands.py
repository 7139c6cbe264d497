"""`orchestrator export`: from options to an archive on disk, with what goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.inference_store.export_task import get_export_details
from orchestrator.storage import blobs
from tests.support import exports
from tests.support.exports import Stored, archived, several

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.orchestrator.cli.conftest import Command
    from tests.support.services import Broker

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def stored(database: Database, broker: Broker) -> Stored:
    model = exports.register()
    model.store_many(several(10))
    model.store("other", b"other", inference_action="embed", data_source="camera")
    return model


@pytest.fixture
def complete(stored: Stored) -> str:
    """A task whose archive is there."""
    task_id = stored.submit()
    exports.run(task_id)
    return task_id


def test_options_say_what_is_archived(orchestrator: Command, stored: Stored) -> None:
    options = ("--action", "embed", "--include", "inference-00001", "--include", "inference-00002")
    made = orchestrator.json("export", "create", "-m", stored.model_id, *options, "--exclude", "inference-00002")
    assert (made["state"], made["expected_count"]) == ("pending", None)
    exports.run(made["task_id"])
    lines = archived(made["task_id"]).lines("inferences.jsonl")
    assert [line["inference_id"] for line in lines] == ["inference-00001", "other"]


def test_a_request_is_a_file_of_its_own(orchestrator: Command, stored: Stored, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"filters": {"data_source_filter": "camera"}, "include_custom_metadata": True}))
    made = orchestrator.json("export", "create", "-m", stored.model_id, "--request", str(file), "--format", "parquet")
    assert made["archive_format"] == "parquet"
    assert exports.run(made["task_id"]).expected_count == 1
    ran = orchestrator("export", "create", "-m", stored.model_id, "--request", str(file), "--annotations")
    assert (ran.code, "a request says all" in ran.err.replace("\n", " ")) == (2, True)
    file.write_text("{")
    ran = orchestrator("export", "create", "-m", stored.model_id, "--request", str(file))
    assert (ran.code, "is no JSON document" in ran.err) == (1, True)


def test_a_task_is_shown_listed_and_watched(orchestrator: Command, stored: Stored, complete: str) -> None:
    shown = orchestrator("export", "show", complete, width=120)
    assert "11/11" in shown.out
    assert "SHA-256" in shown.out
    assert complete in orchestrator("export", "list", "-m", stored.model_id).out
    assert orchestrator.json("export", "list")[0]["archive"]["sha256"]
    watched = orchestrator("export", "watch", complete)
    assert watched.code == 0
    assert "complete: 11 inferences" in watched.out
    line = json.loads(orchestrator("export", "watch", complete, "--json").out)
    assert (line["progress_count"], line["expected_count"]) == (11, 11)


def test_tasks_are_listed_of_a_project_without_naming_a_model(orchestrator: Command, stored: Stored) -> None:
    tasks = {each.project_id: each.submit() for each in (stored, exports.register())}
    for project, task in tasks.items():
        assert [one["task_id"] for one in orchestrator.json("export", "list", "--project", project)] == [task]
    ran = orchestrator("export", "list", "--project", "nowhere")
    assert (ran.code, "no project has the id or name 'nowhere'" in ran.err) == (1, True)


def test_a_cancelled_task_was_not_complete(orchestrator: Command, stored: Stored) -> None:
    task_id = stored.submit()
    assert orchestrator.json("export", "cancel", task_id)["state"] == "failed"
    assert orchestrator("export", "watch", task_id).code == 1
    ran = orchestrator("export", "download", task_id)
    assert (ran.code, "only a complete one has an archive" in ran.err) == (1, True)


def test_a_download_is_verified(orchestrator: Command, complete: str, tmp_path: Path) -> None:
    target = tmp_path / "a.tar.gz"
    found = orchestrator.json("export", "download", complete, "-o", str(target))
    assert found["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert list(tmp_path.glob("*.part")) == []
    assert orchestrator("export", "download", complete, "-o", str(target)).code == 0  # it is there
    target.write_bytes(b"another file")
    ran = orchestrator("export", "download", complete, "-o", str(target))
    assert (ran.code, "is another file" in ran.err, target.read_bytes()) == (1, True, b"another file")


def test_a_file_whose_name_is_not_utf_8_is_named_with_escapes(
    orchestrator: Command, complete: str, tmp_path: Path
) -> None:
    target = tmp_path / os.fsdecode(b"x\xff.tgz")
    ran = orchestrator("export", "download", complete, "-o", str(target), width=400)
    assert (ran.code, r"x\xff.tgz: " in ran.out) == (0, True)
    assert orchestrator.json("export", "download", complete, "-o", str(target))["path"] == rf"{tmp_path}/x\xff.tgz"
    assert target.exists()


def test_a_download_goes_on_where_it_was_cut_off(
    orchestrator: Command, complete: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = get_export_details(complete).archive
    assert archive is not None
    content = blobs().get(archive.key)
    target = tmp_path / "a.tar.gz"
    partial = tmp_path / f"a.tar.gz.{archive.sha256[:12]}.part"
    partial.write_bytes(content[:100])
    stream = blobs().stream
    asked = []

    def remembering(key: str, *, start: int = 0) -> object:
        asked.append(start)
        return stream(key, start=start)

    monkeypatch.setattr(blobs(), "stream", remembering)
    assert orchestrator("export", "download", complete, "-o", str(target)).code == 0
    assert asked == [100]
    assert target.read_bytes() == content
    assert not partial.exists()


def test_what_is_not_the_archive_never_gets_its_name(orchestrator: Command, complete: str, tmp_path: Path) -> None:
    archive = get_export_details(complete).archive
    assert archive is not None
    target = tmp_path / "a.tar.gz"
    partial = tmp_path / f"a.tar.gz.{archive.sha256[:12]}.part"
    partial.write_bytes(b"x" * 100)
    ran = orchestrator("export", "download", complete, "-o", str(target))
    assert (ran.code, "download it again" in ran.err) == (3, True)
    assert list(tmp_path.glob("a.tar*")) == []
    assert orchestrator("export", "download", complete, "-o", str(target)).code == 0


def test_a_model_that_is_not_known_is_refused(orchestrator: Command, stored: Stored) -> None:
    ran = orchestrator("export", "create", "-m", "nobody")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
