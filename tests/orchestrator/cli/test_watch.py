"""Watching a job from a process of its own, through what goes on around it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from orchestrator.bulk_inference.job import abort_bulk_inference_job, get_bulk_inference_details
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, end
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.database import dispose, writing
from tests.support.processes import Running, wait_until
from tests.support.reaper import Reaper

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.orchestrator.cli.conftest import Catalog, Command
    from tests.support.services import Broker, Postgres

SUBMIT = ("bulk-inference", "submit", "-m", "reader", "-d", "digits", "-s", "test", "--method", "predict")


@pytest.fixture
def job(orchestrator: Command, catalog: Catalog, broker: Broker) -> str:
    """A job that no worker will touch."""
    return str(orchestrator.json(*SUBMIT)["job_id"])


@pytest.fixture
def watching(job: str, tmp_path: Path, reaper: Reaper) -> Iterator[Running]:
    """`watch --json` on the job, once it has shown something."""
    command = [sys.executable, "-m", "orchestrator", "bulk-inference", "watch", job, "--json"]
    running = Running(command, log=tmp_path / "watch.log", reaper=reaper)
    running.wait_ready(lambda: running.log.read_text().endswith("\n"))
    yield running
    running.kill()


def seen(running: Running) -> list[str]:
    """The states that the watching process has printed, in order."""
    return [json.loads(line)["status"] for line in running.log.read_text().splitlines() if line.startswith("{")]


def test_each_change_is_a_line_and_the_end_an_exit_code(watching: Running, job: str) -> None:
    with writing() as session:
        LIFECYCLE.move(session, job, ProgressState.IN_PROGRESS)
        LIFECYCLE.move(session, job, ProgressState.RUNNING)
    wait_until(lambda: seen(watching)[-1] == "running", "the change is shown")
    with writing() as session:
        end(session, job, ProgressState.SUCCEEDED)
    assert watching.process.wait(20) == 0
    assert seen(watching) == ["initialized", "running", "succeeded"]


def test_ctrl_c_ends_the_watching_and_not_the_job(watching: Running, job: str) -> None:
    watching.send(signal.SIGINT)
    assert watching.process.wait(20) == 130
    said = watching.log.read_text()
    assert f"the job goes on; look again with `orchestrator bulk-inference watch {job}`" in said
    assert "Traceback" not in said
    assert get_bulk_inference_details(job).status == "initialized"


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_database_that_is_away_for_a_while_is_waited_for(
    watching: Running, job: str, database: Database, postgres: Postgres
) -> None:
    dispose()
    assert database.url.database is not None
    postgres.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.url.database)
    with psycopg.connect(postgres.url.render_as_string(hide_password=False), autocommit=True) as operator:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        operator.execute(cut, [database.url.database])
    wait_until(lambda: "does not answer" in watching.log.read_text(), "the outage is noticed")
    assert watching.is_running
    postgres.execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.url.database)
    abort_bulk_inference_job(job)
    assert watching.process.wait(20) == 1
    assert seen(watching) == ["initialized", "aborted"]
