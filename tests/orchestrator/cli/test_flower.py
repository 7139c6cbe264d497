"""A real Flower beside a real worker, behind its password."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from orchestrator import ledger
from orchestrator.bulk_inference.models import ProgressState
from tests.support.processes import Running, Workers, free_port, wait_until

if TYPE_CHECKING:
    from tests.orchestrator.cli.conftest import Catalog, Command

PASSWORD = "correct-horse"
SUBMIT = ("bulk-inference", "submit", "-m", "reader", "-d", "digits", "-s", "test", "--method", "predict")


def start_flower(workers: Workers, *options: str, **environment: str) -> tuple[Running, str]:
    """`orchestrator flower` on a free port; returns when it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "orchestrator", "flower", "--port", str(port), *options]
    flower = workers.run(f"flower-{port}", command, environment=environment)
    flower.wait_ready(lambda: answers(url))
    return flower, url


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthcheck").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_workers_and_finished_tasks_are_read_with_the_password_and_not_without(
    orchestrator: Command, catalog: Catalog, worker_processes: Workers
) -> None:
    flower, url = start_flower(worker_processes, ORCHESTRATOR_FLOWER_BASIC_AUTH=f"someone:{PASSWORD}")
    worker_processes.start("planning", concurrency=1)
    job = orchestrator.json(*SUBMIT)["job_id"]
    with httpx.Client(base_url=url, auth=("someone", PASSWORD), timeout=20) as client:

        def finished() -> list[dict[str, Any]]:
            ledger.dispatch()
            return [task for task in client.get("/api/tasks").json().values() if task["state"] == "SUCCESS"]

        plan = wait_until(finished, "Flower knows of a finished task")[0]
        workers = wait_until(lambda: client.get("/api/workers", params={"refresh": "1"}).json(), "and of the worker")
    assert plan["name"] == "bulk_inference.plan"
    assert plan["args"] == f"job={job} plan"
    assert [name.split("@")[0] for name in workers] == ["worker-1"]
    for path in ("/", "/workers", "/api/workers", "/api/tasks"):
        assert httpx.get(f"{url}{path}").status_code == 401
        assert httpx.get(f"{url}{path}", auth=("someone", "wrong")).status_code == 401
    assert PASSWORD not in " ".join(psutil.Process(flower.pid).cmdline())
    assert PASSWORD not in flower.log.read_text()
    assert orchestrator.json("bulk-inference", "show", job)["status"] == ProgressState.RUNNING


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_password_is_made_up_and_printed_once_and_nothing_can_switch_it_off(worker_processes: Workers) -> None:
    flower, url = start_flower(worker_processes, FLOWER_UNAUTHENTICATED_API="true", FLOWER_BASIC_AUTH="")
    words = flower.log.read_text().split()
    password = words[words.index("password") + 1]
    assert words.count(password) == 1
    assert httpx.get(f"{url}/api/workers").status_code == 401
    assert httpx.get(f"{url}/api/workers", auth=("admin", password)).status_code == 200


@pytest.mark.parametrize(
    "options, variable",
    [
        (("--password", ""), None),
        (("--user", ""), None),
        (("--user", "a:b", "--password", "secret"), None),
        (("--user", "a", "--password", "one,two"), None),
        ((), "no-colon"),
        ((), "user:"),
        ((), ""),
    ],
)
def test_without_a_usable_password_it_does_not_start(
    orchestrator: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("ORCHESTRATOR_FLOWER_BASIC_AUTH", variable)
    ran = orchestrator("flower", *options)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
