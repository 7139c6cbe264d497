"""Bulk inference from a shell: submitted, looked at, steered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.bulk_inference.lifecycle import LIFECYCLE, end
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.tables import FailureRow
from orchestrator.database import writing
from orchestrator.registry import create_project, list_datums

if TYPE_CHECKING:
    from tests.orchestrator.cli.conftest import Catalog, Command
    from tests.support.services import Broker

SUBMIT = ("bulk-inference", "submit", "-m", "reader", "-d", "digits", "-s", "test", "--method", "predict")


def fail(job_id: str, snapshot_id: str) -> None:
    """Let the job end as a worker would that gave up on its first datum."""
    with writing() as session:
        LIFECYCLE.move(session, job_id, ProgressState.IN_PROGRESS)
        LIFECYCLE.move(session, job_id, ProgressState.RUNNING)
        failure = FailureRow(
            job_id=job_id,
            ordinal=0,
            datum_id=list_datums(snapshot_id, "test")[0].id,
            failure_class="item",
            status=400,
            message="not a digit",
            attempts=2,
        )
        session.add(failure)
        end(session, job_id, ProgressState.FAILED, reason="1 of 8 datums failed")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_is_accepted_with_the_broker_away_and_its_owner_is_told(orchestrator: Command, catalog: Catalog) -> None:
    ran = orchestrator(*SUBMIT, "--priority", "7", "--failure-threshold", "0.5", "--json")
    assert ran.code == 0
    assert ran.json["status"] == "initialized"
    assert (ran.json["priority"], ran.json["failure_threshold"]) == (7, 0.5)
    assert ran.json["request"]["model_id"] == catalog.model_id
    assert ran.json["request"]["dataset_snapshot_id"] == catalog.snapshot_id
    assert "broker does not answer" in ran.err
    listed = orchestrator("bulk-inference", "list")
    assert ran.json["job_id"] in listed.out
    assert "initialized" in listed.out
    assert max(map(len, listed.out.splitlines())) <= 80


def test_jobs_are_listed_of_a_project_without_naming_a_model(
    orchestrator: Command, catalog: Catalog, broker: Broker
) -> None:
    create_project("other")
    job = orchestrator.json(*SUBMIT, "-p", "demo")["job_id"]
    assert [one["job_id"] for one in orchestrator.json("bulk-inference", "list", "--project", "demo")] == [job]
    assert orchestrator.json("bulk-inference", "list", "--project", "other") == []
    ran = orchestrator("bulk-inference", "list", "--project", "nowhere")
    assert (ran.code, "no project has the id or name 'nowhere'" in ran.err) == (1, True)


def test_a_request_id_makes_two_submissions_one_job(orchestrator: Command, catalog: Catalog, broker: Broker) -> None:
    jobs = {orchestrator.json(*SUBMIT, "--request-id", "nightly")["job_id"] for _ in range(2)}
    assert len(jobs) == 1


@pytest.mark.parametrize("options, datums", [((), 8), (("--evaluate",), 3)])
def test_a_dry_run_counts_the_datums_and_writes_nothing(
    orchestrator: Command, catalog: Catalog, options: tuple[str, ...], datums: int
) -> None:
    plan = orchestrator.json(*SUBMIT, "--dry-run", *options)
    assert (plan["valid"], plan["datums"], plan["inference_method"]) == (True, datums, "predict")
    assert f"{datums} datums" in orchestrator(*SUBMIT, "--dry-run", *options).out
    assert orchestrator.json("bulk-inference", "list") == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "wrong, code, said",
    [
        (("-s", "tset"), 1, "test, train"),
        (("--method", "detect"), 1, "predict_proba"),
        (("--method", ""), 1, "predict_proba"),
        (("--batch-size", "0"), 1, "batch_size"),
        (("--snapshot", "second"), 1, "first"),
        (("--model", "writer"), 1, "writer"),
        (("--failure-threshold", "2"), 2, "failure_threshold"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_and_nothing_is_written(
    orchestrator: Command, catalog: Catalog, wrong: tuple[str, ...], code: int, said: str, dry: tuple[str, ...]
) -> None:
    ran = orchestrator(*SUBMIT, *wrong, *dry)
    assert ran.code == code
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert orchestrator.json("bulk-inference", "list") == []


def test_a_job_is_paused_resumed_and_aborted(orchestrator: Command, catalog: Catalog, broker: Broker) -> None:
    job = orchestrator.json(*SUBMIT)["job_id"]
    assert orchestrator.json("bulk-inference", "pause", job)["paused"] is True
    assert "paused" in orchestrator("bulk-inference", "list").out
    assert orchestrator.json("bulk-inference", "resume", job)["paused"] is False
    aborted = orchestrator.json("bulk-inference", "abort", job, "--reason", "wrong split")
    assert (aborted["status"], aborted["reason"]) == ("aborted", "wrong split")
    assert "wrong split" in orchestrator("bulk-inference", "show", job).out
    assert orchestrator("bulk-inference", "pause", job).code == 1
    assert orchestrator.json("bulk-inference", "list", "--status", "running") == []


def test_failures_are_listed_until_they_are_retried(orchestrator: Command, catalog: Catalog, broker: Broker) -> None:
    job = orchestrator.json(*SUBMIT)["job_id"]
    fail(job, catalog.snapshot_id)
    listed = orchestrator("bulk-inference", "failures", job).out
    assert "test/0.txt" in listed
    assert "not a digit" in listed
    assert orchestrator.json("bulk-inference", "failures", job)[0]["status"] == 400
    assert orchestrator.json("bulk-inference", "failures", job, "--after", "0") == []
    assert orchestrator.json("bulk-inference", "retry", job)["status"] == "running"
    assert "Nothing failed" in orchestrator("bulk-inference", "failures", job).out


def test_a_job_that_is_over_is_watched_to_its_exit_code(
    orchestrator: Command, catalog: Catalog, broker: Broker
) -> None:
    job = orchestrator.json(*SUBMIT)["job_id"]
    fail(job, catalog.snapshot_id)
    ran = orchestrator("bulk-inference", "watch", job)
    assert ran.code == 1
    assert "1 of 8 datums failed" in ran.out
    lines = orchestrator("bulk-inference", "watch", job, "--json")
    assert (lines.code, lines.out.count("\n"), lines.json["status"]) == (1, 1, "failed")
    assert orchestrator("bulk-inference", "watch", "nobody").code == 1
