"""Many processes write to one SQLite file at once: none of them ever hears that it is locked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bulk_inference import get_bulk_inference_details
from tests.chaos.invariants import of_the_tables
from tests.conftest import Database
from tests.support.bulk_inference import set_scene
from tests.support.processes import ROOT
from tests.support.seed import SEED

#: Seconds in which so many writers have started and ended: their writing is tried, and not how fast they are.
PATIENCE = 180

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def write_together(folder: Path, writers: int, seconds: float) -> None:
    """Let the writers write for so long, and look at what they saw and what they left."""
    scene = set_scene(folder, 30)
    command = [sys.executable, "-m", "tests.chaos.writer", json.dumps(asdict(scene)), str(seconds)]
    running = [
        subprocess.Popen([*command, str(SEED + number)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(writers)
    ]
    did = [report(writer.communicate(timeout=seconds + PATIENCE)[0]) for writer in running]
    errors = [error for one in did for error in one["errors"]]
    print(f"{len(errors)} errors, {max(one['longest'] for one in did):.1f} s the longest act, {did[0]['acts']}")
    assert errors == []
    job_ids = [job_id for one in did for job_id in one["job_ids"]]
    assert {get_bulk_inference_details(job_id).job_id for job_id in job_ids} == set(job_ids)
    assert sum(one["acts"].get("settled", 0) for one in did) > 0
    assert list(of_the_tables()) == []


def report(output: str) -> dict[str, Any]:
    """What a writer says it did, which is between its logs."""
    found: dict[str, Any] = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return found


def test_six_writers_never_hear_that_the_database_is_locked(database: Database, tmp_path: Path) -> None:
    write_together(tmp_path, 6, seconds=3)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_sixteen_writers_never_hear_of_a_lock_for_two_minutes(database: Database, tmp_path: Path) -> None:
    write_together(tmp_path, 16, seconds=120)
