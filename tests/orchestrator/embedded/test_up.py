"""`orchestrator up`, as a real process with real children."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
import redis
from dotenv import dotenv_values

from orchestrator.embedded import instance
from tests.support.model_server import ModelServer
from tests.support.processes import ROOT, Running, wait_until
from tests.support.reaper import Reaper

#: The fixtures' settings, taken back: an embedded instance finds its own.
EMBEDDED = {"ORCHESTRATOR_BROKER_URL": "", "ORCHESTRATOR_DATABASE_URL": ""}

SUBMIT = ("bulk-inference", "submit", "-m", "model", "-d", "texts", "-s", "default", "--method", "predict")

Start = Callable[..., Running]


def said(up: Running) -> list[dict[str, Any]]:
    """What it has reported so far."""
    return [json.loads(line) for line in up.log.read_text().splitlines() if line.startswith("{")]


def events(up: Running) -> list[str]:
    return [event["event"] for event in said(up)]


def has_noted(up: Running, beginning: str) -> bool:
    """Whether it has remarked on something in these words."""
    return any(event["event"] == "note" and event["text"].startswith(beginning) for event in said(up))


def family(up: Running) -> list[psutil.Process]:
    """Every process below it."""
    return psutil.Process(up.pid).children(recursive=True)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def orchestrator(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in another shell, which knows nothing but the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env={**environment, "ORCHESTRATOR_HOME": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


#: Seconds in which it has ended: more than it gives its workers and then its Redis.
ENDS = instance.GRACE + instance.REDIS_GRACE + 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name that is no single word."""
    return tmp_path / "my 'project'"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of a hundred texts to import."""
    texts = tmp_path / "source"
    texts.mkdir()
    for number in range(100):
        (texts / f"{number}.txt").write_text(f"item {number}")
    return texts


def fill_catalog(folder: Path, source: Path, server: ModelServer) -> None:
    """Make everything that `SUBMIT` names, from another shell."""
    for arguments in (
        ("project", "create", "demo"),
        ("dataset", "create", "texts"),
        ("snapshot", "import", "texts", str(source)),
        ("model", "register", "model", "--url", server.url, "-t", "image-classification", "--input", "text"),
    ):
        ran = orchestrator(folder, *arguments)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture
def start(tmp_path: Path, folder: Path, reaper: Reaper) -> Iterator[Start]:
    """Starts `up` on the folder; returns when everything is at work. Killed at the end, if it still runs."""
    started: list[Running] = []

    def up(*options: str, **environment: str) -> Running:
        command = [sys.executable, "-m", "orchestrator", "up", str(folder), "--json", *options]
        log = tmp_path / f"up-{len(started)}.log"
        running = Running(command, log=log, reaper=reaper, environment={**EMBEDDED, **environment})
        started.append(running)
        running.wait_ready(lambda: "ready" in events(running))
        return running

    yield up
    for running in started:
        running.stop()


@pytest.mark.faults
def test_a_job_submitted_from_another_shell_runs_to_its_end(start: Start, folder: Path, source: Path) -> None:
    up = start()
    with ModelServer(output="labels") as server:
        fill_catalog(folder, source, server)
        ran = orchestrator(folder, *SUBMIT, "--watch")
    assert ran.returncode == 0, ran.stdout + ran.stderr + up.log_tail()
    assert "succeeded: 100 inferences, 0 failed" in ran.stdout
    examined = orchestrator(folder, "doctor")
    assert examined.returncode == 0, examined.stdout
    assert "problem" not in examined.stdout
    assert "warning" not in examined.stdout


@pytest.mark.faults
def test_every_process_shows_its_metrics_on_a_port_that_prometheus_can_find(start: Start, folder: Path) -> None:
    up = start("--workers", "1")
    (ready,) = [event for event in said(up) if event["event"] == "ready"]
    found = json.loads((folder / "metrics.json").read_text())
    urls = {target["labels"]["process"]: f"http://{target['targets'][0]}/metrics" for target in found}
    assert (urls, set(urls)) == (ready["metrics"], {"beat", "worker-1"})
    pages = {}
    for name, url in urls.items():
        with urlopen(url, timeout=10) as answer:
            pages[name] = answer.read().decode()
    assert ["orchestrator_healthy 1.0" in page for page in pages.values()] == [True, True]
    assert ["orchestrator_ledger_up 1.0" in pages[name] for name in ("beat", "worker-1")] == [True, False]


@pytest.mark.faults
def test_its_redis_is_behind_a_password_durable_and_known_to_this_user_alone(start: Start, folder: Path) -> None:
    up = start("--workers", "1")
    environment_file = folder / "orchestrator.env"
    url = dotenv_values(environment_file)["ORCHESTRATOR_BROKER_URL"]
    assert url is not None
    assert stat.S_IMODE(environment_file.stat().st_mode) == 0o600
    with redis.Redis.from_url(url) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        port = client.connection_pool.connection_kwargs["port"]
        password = client.connection_pool.connection_kwargs["password"]
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert password not in up.log.read_text()
    assert not [process for process in family(up) if password in " ".join(process.cmdline())]


def test_a_second_up_says_so_and_ctrl_c_leaves_nothing(start: Start, folder: Path) -> None:
    up = start()
    second = orchestrator(folder, "up", str(folder))
    assert second.returncode == 1
    assert f"pid {up.pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    processes = family(up)
    assert len(processes) >= 5
    up.send(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert [process for process in processes if not is_gone(process)] == []
    assert events(up)[-1] == "stopped"
    assert not (folder / "orchestrator.env").exists()


@pytest.mark.faults
def test_a_second_ctrl_c_does_not_wait_for_running_units(start: Start, folder: Path, source: Path) -> None:
    up = start()
    with ModelServer(output="labels", delay=600) as server:
        fill_catalog(folder, source, server)
        assert orchestrator(folder, *SUBMIT).returncode == 0
        wait_until(lambda: server.seen.in_flight, "a unit is at work")
        processes = family(up)
        up.send(signal.SIGINT)
        wait_until(lambda: has_noted(up, "stopping"), "it has begun to stop")
        up.send(signal.SIGINT)
        assert up.process.wait(20) == 0
    assert [process for process in processes if not is_gone(process)] == []
    assert "had to be killed" in up.log.read_text()


@pytest.mark.faults
def test_closing_the_terminal_stops_it_in_order(folder: Path, reaper: Reaper) -> None:
    """Whatever it writes now fails; yet the workers are told, and take their leave."""
    terminal, its_end = os.openpty()
    up = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "up", str(folder), "--workers", "1"],
        env={**os.environ, **EMBEDDED},
        cwd=ROOT,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    reaper.watch(up.pid)
    os.close(its_end)
    shown = b""
    while b"Ctrl-C stops everything" not in shown:
        shown += os.read(terminal, 4096)
    processes = psutil.Process(up.pid).children(recursive=True)
    os.close(terminal)
    up.send_signal(signal.SIGHUP)
    up.wait(60)
    reaper.forget(up.pid)
    assert [process for process in processes if not is_gone(process)] == []
    with closing(sqlite3.connect(folder / "orchestrator.db")) as connection:
        assert connection.execute("SELECT name FROM pulses WHERE name LIKE 'worker:%'").fetchall() == []


@pytest.mark.faults
def test_killed_it_takes_everything_with_it_and_the_next_up_works(start: Start, folder: Path) -> None:
    up = start()
    processes = family(up)
    os.kill(up.pid, signal.SIGKILL)
    up.process.wait()
    wait_until(lambda: all(map(is_gone, processes)), "nothing is left")
    assert (folder / "orchestrator.env").exists()
    assert orchestrator(folder, "project", "create", "survivor").returncode == 0
    again = start()
    assert again.is_running
    assert "survivor" in orchestrator(folder, "project", "list").stdout


@pytest.mark.faults
def test_a_child_that_dies_is_reported_and_started_again(start: Start, folder: Path) -> None:
    up = start("--workers", "1")
    children = said(up)[-1]["processes"]
    for name in ("redis", "worker-1", "beat"):
        psutil.Process(children[name]).kill()
    for name in ("redis", "worker-1", "beat"):
        wait_until(partial(has_noted, up, f"{name} was started again"), f"{name} is back")
        assert has_noted(up, f"{name} was ended by SIGKILL")
    wait_until(lambda: orchestrator(folder, "doctor").returncode == 0, "all is well again", within=60)


@pytest.mark.faults
def test_a_guard_that_dies_is_replaced_before_the_next_start(start: Start) -> None:
    up = start("--workers", "1")
    children = said(up)[-1]["processes"]
    guard = next(process for process in family(up) if "guard.py" in " ".join(process.cmdline()))
    guard.kill()
    psutil.Process(children["beat"]).kill()
    wait_until(lambda: "beat was started again" in up.log.read_text(), "beat is back")
    processes = family(up)
    os.kill(up.pid, signal.SIGKILL)
    up.process.wait()
    wait_until(lambda: all(map(is_gone, processes)), "nothing is left")


@pytest.mark.faults
def test_a_broker_that_the_environment_names_is_used_and_not_started(
    start: Start, folder: Path, redis_broker: Any
) -> None:
    redis_broker.wipe()
    up = start("--workers", "1", ORCHESTRATOR_BROKER_URL=redis_broker.url)
    assert set(said(up)[-1]["processes"]) == {"worker-1", "beat"}
    assert not (folder / "redis").exists()
    assert dotenv_values(folder / "orchestrator.env")["ORCHESTRATOR_BROKER_URL"] == redis_broker.url
    assert up.stop(within=ENDS) == 0
    with redis.Redis.from_url(redis_broker.url) as client:
        assert client.ping()
