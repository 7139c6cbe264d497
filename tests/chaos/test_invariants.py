"""The checker of invariants: it is content with a job that went well, and finds each thing that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert, select, update

from orchestrator import ledger
from orchestrator.bulk_inference import plan as planning
from orchestrator.bulk_inference import submit_bulk_inference_job
from orchestrator.bulk_inference.record import StoredResult, record
from orchestrator.bulk_inference.tables import FailureRow
from orchestrator.database import db_now, engine, reading, writing
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger.tables import UnitRow
from orchestrator.registry.tables import DatumRow
from orchestrator.storage import blobs
from orchestrator.transitions import EventRow
from tests.chaos import journal
from tests.chaos.invariants import Violated, check_invariants
from tests.support.bulk_inference import TARGET, claim, run_finish, run_plan, set_scene, settle, waiting
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
DATUMS = 5


@pytest.fixture
def job_id(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that has ended well, in a database that keeps a journal."""
    monkeypatch.setattr(planning, "AT_ONCE", 0)
    scene = set_scene(tmp_path, DATUMS)
    journal.install(engine())
    job_id = submit_bulk_inference_job(scene.request())
    run_plan(job_id)
    while waiting(job_id, "infer"):
        lease = claim(job_id, "infer")
        with reading() as session:
            datums = session.scalars(select(DatumRow).order_by(DatumRow.ordinal)).all()
        results = [StoredResult(row.ordinal, row.id, row.sha256, row.storage_key, "[]", "v2") for row in datums]
        record(lease, TARGET, results)
        settle(lease, ledger.Done())
    run_finish(job_id)
    return job_id


def lose_a_result(job_id: str) -> None:
    with writing() as session:
        session.execute(delete(InferenceRow).where(InferenceRow.ordinal == 3))


def fail_what_has_a_result(job_id: str) -> None:
    failure = {"ordinal": 2, "failure_class": "item", "status": None, "message": "", "attempts": 1}
    with writing() as session:
        datum_id = session.scalars(select(DatumRow.id).where(DatumRow.ordinal == 2)).one()
        session.execute(insert(FailureRow).values(job_id=job_id, datum_id=datum_id, created_at=db_now(), **failure))


def swap_a_datum(job_id: str) -> None:
    with writing() as session:
        session.execute(update(InferenceRow).where(InferenceRow.ordinal == 1).values(datum_id="another"))


def count_one_more(job_id: str) -> None:
    change(job_id, done_count=UnitRow.done_count + 1)


def change(job_id: str, **values: object) -> None:
    with writing() as session:
        chosen = UnitRow.job_id == job_id, UnitRow.kind == "bulk_inference.infer"
        session.execute(update(UnitRow).where(*chosen).values(**values))


def end_it_again(job_id: str) -> None:
    with writing() as session:
        states = {"from_state": "succeeded", "to_state": "failed"}
        number = len(session.scalars(select(EventRow).where(EventRow.subject_id == job_id)).all()) + 1
        session.execute(
            insert(EventRow).values(
                subject_id=job_id, sequence=number, lifecycle="bulk_inference", created_at=db_now(), **states
            )
        )


def leave_a_lease(job_id: str) -> None:
    lease = {"lease_owner": "nobody", "lease_expires_at": db_now(timedelta(minutes=-5)), "finished_at": None}
    change(job_id, state="leased", **lease)


def write_under_an_old_attempt(job_id: str) -> None:
    change(job_id, attempt=2, max_attempts=3)
    with writing() as session:
        unit_id = session.scalars(select(UnitRow.id).where(UnitRow.kind == "bulk_inference.infer")).one()
        journal.note(session.connection(), unit_id, 1, "_record", 1)


def forget_a_refusal(job_id: str) -> None:
    change(job_id, stale_writes=1)


def lose_a_blob(job_id: str) -> None:
    blobs().delete(a_blob())


def spoil_a_blob(job_id: str) -> None:
    blobs().put(a_blob(), b"datum-999999")


def a_blob() -> str:
    with reading() as session:
        return session.scalars(select(DatumRow.storage_key).limit(1)).one()


def leave_a_blob(job_id: str) -> None:
    blobs().put("datums/sha256/ab/nobody", b"whose?")


@pytest.mark.parametrize(
    "harm, told",
    [
        (lose_a_result, "datums without an outcome: 1, such as 3"),
        (fail_what_has_a_result, "datums with a result and a failure: 1, such as 2"),
        (swap_a_datum, "outcomes that name another datum: 1, such as 1"),
        (count_one_more, r"counts \(6, 0\) .* there are \(5, 0\) rows"),
        (end_it_again, "it was succeeded, and became failed"),
        (leave_a_lease, "leased by nobody, whose lease ran out"),
        (leave_a_lease, "units unfinished after its end: 1"),
        (write_under_an_old_attempt, "_record wrote as attempt 1 during attempt 2"),
        (forget_a_refusal, "refused writes"),
        (lose_a_blob, "blob .* is missing"),
        (spoil_a_blob, "is not of the size or the content"),
        (leave_a_blob, "blobs that belong to no datum: 1"),
    ],
)
def test_what_is_wrong_is_told(job_id: str, harm: Callable[[str], None], told: str) -> None:
    check_invariants([job_id])
    harm(job_id)
    with pytest.raises(Violated, match=told):
        check_invariants([job_id])


def test_a_job_that_is_not_there_is_lost(job_id: str) -> None:
    with pytest.raises(Violated, match="job elsewhere is lost"):
        check_invariants([job_id, "elsewhere"])


def test_a_process_that_was_left_behind_is_found(job_id: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env=dict(os.environ)) as left:
        try:
            with pytest.raises(Violated, match=f"process {left.pid} is still there"):
                wait_until(lambda: check_invariants([job_id]), "the process is found", within=5)
        finally:
            left.kill()
