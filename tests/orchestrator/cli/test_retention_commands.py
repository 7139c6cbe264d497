"""`orchestrator retention`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.registry import create_project
from orchestrator.storage.local import LocalBlobs
from tests.orchestrator.cli.conftest import Command
from tests.support.retention import register, run_units, store, visible

if TYPE_CHECKING:
    from tests.conftest import Database


@pytest.fixture
def model(database: Database) -> str:
    model_id = register()
    store(model_id, ["old-1", "old-2"], hours=30, data=b"1")
    store(model_id, ["young"], hours=1)
    return model_id


def set_policy(orchestrator: Command, model: str, *options: str) -> str:
    ages = ("--record-age", "24", "--blob-age", "24")
    found: str = orchestrator.json("retention", "policy", "set", "--model", model, *ages, *options)["id"]
    return found


def test_a_dry_run_is_looked_at_approved_and_run(orchestrator: Command, model: str, tmp_path: Path) -> None:
    set_policy(orchestrator, model, "--hard")
    dry = orchestrator.json("retention", "run", "--model", model, "--dry-run")["task_id"]
    assert orchestrator("retention", "manifest", dry).code == 1
    run_units(dry)
    file = tmp_path / "manifest.jsonl"
    assert orchestrator("retention", "manifest", dry, "--output", str(file)).code == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["record"] for line in lines if "record" in line] == ["old-1", "old-2"]
    assert lines[-1] == {"records": 2, "data": 0, "blobs": 1}
    assert orchestrator("retention", "manifest", dry).out == file.read_text()
    ran = orchestrator("retention", "manifest", dry, "--output", os.fsdecode(bytes(tmp_path) + b"/\xff"), width=400)
    assert (ran.code, r"/\xff: approve" in ran.out) == (0, True)
    digest = orchestrator.json("retention", "show", dry)["manifest"]["sha256"]
    task = orchestrator.json("retention", "run", "--model", model, "--manifest", f"{dry}/{digest}")["task_id"]
    run_units(task)
    assert visible(model) == ["young"]
    shown = orchestrator("retention", "show", task, width=120)
    assert "2/2" in shown.out
    assert dry in shown.out
    assert orchestrator("retention", "watch", task).code == 0
    assert [one["task_id"] for one in orchestrator.json("retention", "list", "--model", model)] == [task, dry]
    assert "approved manifest" in orchestrator("retention", "list", width=160).out


def test_a_manifest_is_printed_whatever_its_ids_and_its_length(
    orchestrator: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blob comes in pieces, which end in the midst of a letter, too."""
    set_policy(orchestrator, model)
    store(model, ["é€😀"], hours=30)
    dry = orchestrator.json("retention", "run", "--model", model, "--dry-run")["task_id"]
    run_units(dry)
    stream = LocalBlobs.stream
    monkeypatch.setattr(
        LocalBlobs, "stream", lambda blobs, key: (bytes([byte]) for byte in b"".join(stream(blobs, key)))
    )
    assert '"é€😀"' in orchestrator("retention", "manifest", dry).out


def test_an_auditor_lists_receipts(orchestrator: Command, model: str) -> None:
    assert "Nothing was deleted" in orchestrator("retention", "receipts").out
    policy = set_policy(orchestrator, model)
    task = orchestrator.json("retention", "run", "--model", model)["task_id"]
    run_units(task)
    (receipt,) = orchestrator.json("retention", "receipts", "--model", model, "--task", task)
    assert (receipt["policy_id"], receipt["action"], receipt["count"]) == (policy, "soft", 2)
    assert (receipt["first_id"], receipt["last_id"], receipt["blob_count"]) == ("old-1", "old-2", 1)
    assert "old-1" in orchestrator("retention", "receipts", "-n", "1", width=200).out
    assert orchestrator.json("retention", "receipts", "--after", receipt["id"]) == []


def test_a_task_is_stopped(orchestrator: Command, model: str) -> None:
    set_policy(orchestrator, model)
    task = orchestrator.json("retention", "run", "--model", model)["task_id"]
    assert orchestrator.json("retention", "stop", task)["state"] == "stopped"
    assert orchestrator("retention", "watch", task).code == 1
    assert orchestrator.json("retention", "list", "--state", "stopped")[0]["reason"] == "stopped by request"


def test_tasks_and_receipts_are_listed_of_a_project_without_naming_a_model(
    orchestrator: Command, database: Database
) -> None:
    tasks = {}
    for name in ("one", "two"):
        model = register(project_id=create_project(name).id)
        store(model, ["old"], hours=30)
        set_policy(orchestrator, model)
        tasks[name] = orchestrator.json("retention", "run", "--model", model)["task_id"]
        run_units(tasks[name])
    for name, task in tasks.items():
        for listing in ("list", "receipts"):
            found = orchestrator.json("retention", listing, "--project", name)
            assert [one["task_id"] for one in found] == [task]
    for listing in ("list", "receipts"):
        ran = orchestrator("retention", listing, "--project", "nowhere")
        assert (ran.code, "no project has the id or name 'nowhere'" in ran.err) == (1, True)


def test_a_policy_is_shown_and_deleted(orchestrator: Command, model: str) -> None:
    missing = orchestrator("retention", "policy", "show", "--model", model)
    assert (missing.code, "policy set" in missing.err) == (1, True)
    policy = set_policy(orchestrator, model, "--every", "6")
    shown = orchestrator("retention", "policy", "show", "--model", model).out
    assert "every 6 hours" in shown
    refused = orchestrator("retention", "run", "--model", model)
    assert (refused.code, "every 6 hours" in refused.err) == (1, True)
    assert orchestrator.json("retention", "policy", "delete", "--model", model) == {"deleted": policy}


def test_mistakes_are_told_in_a_line(orchestrator: Command, model: str) -> None:
    for arguments in (
        ("policy", "set", "--model", model, "--record-age", "1", "--blob-age", "2"),
        ("run", "--model", model, "--manifest", "nonsense"),
        ("run", "--model", model, "--manifest", "nobody/nothing"),
        ("run", "--model", model),
        ("show", "nobody"),
        ("stop", "nobody"),
        ("manifest", "nobody"),
    ):
        ran = orchestrator("retention", *arguments)
        assert (ran.code, ran.err.count("\n")) == (1, 1), arguments
