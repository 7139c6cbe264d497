"""What `deploy/` promises, held against the code that it deploys."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery as celery_command

import orchestrator.cli
from orchestrator.queues import QueueName, celery_settings
from orchestrator.settings import settings
from tests.support.processes import ROOT, Workers, wait_until

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = {name: service for name, service in SERVICES.items() if service.get("command", [""])[0] == "worker"}
CELERY = {name: service["command"] for name, service in SERVICES.items() if "build" in service} | {
    "image": yaml.safe_load(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[-1])
}
del CELERY["migrate"]


def passes() -> bool:
    """Whether the image's check passes now, run by this Python instead of the image's."""
    (text,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)?\s*CMD (.*)$", DOCKERFILE, re.MULTILINE)
    program, *arguments = shlex.split(text)
    assert program == "python"
    ran = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, cwd=ROOT)
    return ran.returncode == 0


def test_every_queue_has_a_worker_service_of_its_own() -> None:
    served = {name: service["command"][service["command"].index("--queues") + 1] for name, service in WORKERS.items()}
    assert served == {queue.value: queue.value for queue in QueueName}


@pytest.mark.parametrize("service", sorted(CELERY))
def test_celery_knows_every_command_and_option(service: str) -> None:
    name, *arguments = CELERY[service]
    command = celery_command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    if name == "flower":
        known |= {"--address", "--port"}  # Flower hands its options to Tornado
    assert {argument.partition("=")[0] for argument in arguments if argument.startswith("--")} <= known


def test_a_worker_is_not_killed_before_its_soft_shutdown_ends() -> None:
    grace = {service["stop_grace_period"] for service in WORKERS.values()}
    assert {
        int(text.removesuffix("s")) > celery_settings(settings())["worker_soft_shutdown_timeout"] for text in grace
    } == {True}
    assert {service["environment"]["REMAP_SIGTERM"] for service in WORKERS.values()} == {"SIGQUIT"}


def test_redis_refuses_messages_rather_than_dropping_some_and_keeps_them_on_disk() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_nothing_starts_without_its_secrets() -> None:
    """`${NAME:?…}` makes compose refuse to start, and say so."""
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH:?")
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert WORKERS["inference"]["environment"]["ORCHESTRATOR_SIGNING_KEY"].startswith("${ORCHESTRATOR_SIGNING_KEY:?")


def test_every_setting_is_one_that_the_project_reads() -> None:
    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    known = {f"ORCHESTRATOR_{field.upper()}" for field in type(settings()).model_fields}
    assert {name for name in named if name.startswith("ORCHESTRATOR_")} <= known


def test_every_service_that_stays_has_a_health_check() -> None:
    checked = {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})}
    by_image = {name for name in (*WORKERS, "beat") if "healthcheck" not in SERVICES[name]}
    assert checked | by_image == set(SERVICES) - {"migrate"}


def test_the_image_is_built_from_extras_and_files_that_exist() -> None:
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {name for name in names if not (ROOT / name).exists()} == set()
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == admitted


def test_the_image_does_not_run_as_root() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["orchestrator"]


@pytest.mark.skipif(not hasattr(orchestrator.cli, "main"), reason="the command line is not there yet")
def test_the_migration_job_runs_a_command_that_exists() -> None:
    command = [*SERVICES["migrate"]["entrypoint"], *SERVICES["migrate"]["command"]]
    assert command == ["orchestrator", "db", "upgrade"]
    program = "from orchestrator.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", program, *command[1:], "--help"], capture_output=True, check=False, text=True
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("service, ready", [("inference", " ready."), ("beat", "Connected to")])
def test_the_health_check_passes_while_the_process_runs_and_fails_once_it_is_gone(
    worker_processes: Workers, service: str, ready: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A container has its temporary files to itself.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert not passes()
    running = worker_processes.celery(service, *SERVICES[service]["command"])
    running.wait_ready(lambda: ready in running.log.read_text())
    wait_until(passes, "the check passes")
    running.kill()
    assert not passes()
