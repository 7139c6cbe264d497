"""A model's limits hold over real processes, which a real Redis and a real server see; also when some die or freeze."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.support.model_server import ModelServer
from tests.support.processes import Running, Workers, wait_until
from tests.support.reaper import Reaper
from tests.support.services import Broker
from workers.inference.shares import LASTS

Start = Callable[..., Running]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(delay=0.05, record=False) as serving:
        yield serving


@pytest.fixture
def start(tmp_path: Path, reaper: Reaper, redis_broker: Broker, server: ModelServer) -> Iterator[Start]:
    """Starts a process that sends, on an empty Redis."""
    redis_broker.wipe()
    processes = Workers(tmp_path, reaper)

    def begin(limits: str) -> Running:
        name = f"sharing-{len(processes.started)}"
        command = [sys.executable, "-m", "tests.workers.inference.sharing_process"]
        process = processes.run(name, [*command, server.url, redis_broker.url, limits])
        process.wait_ready(lambda: "joined" in process.log.read_text())
        return process

    yield begin
    processes.close()


def answers(process: Running) -> int:
    """How many answers the process has had."""
    return process.log.read_text().count("answered")


def answered_more(process: Running, by: int, *, within: float = 30.0) -> None:
    """Wait until the process has had some more answers."""
    before = answers(process)
    wait_until(lambda: answers(process) >= before + by, "it is answered", within=within)


def test_processes_together_never_send_more_than_the_limit(start: Start, server: ModelServer) -> None:
    processes = [start('{"max_concurrency": 6}') for _ in range(3)]
    for process in processes:
        answered_more(process, 40)
    wait_until(lambda: server.seen.peak == 6, "the limit is used")
    answered_more(processes[0], 100)
    assert server.seen.peak == 6


@pytest.mark.faults
def test_one_place_goes_round(start: Start, server: ModelServer) -> None:
    processes = [start('{"max_concurrency": 1}') for _ in range(3)]
    for _ in range(2):
        for process in processes:
            answered_more(process, 3)
    assert server.seen.peak == 1


def test_the_share_of_a_killed_process_is_used_by_the_rest(
    start: Start, server: ModelServer, redis_broker: Broker
) -> None:
    doomed, survivor = start('{"max_concurrency": 6}'), start('{"max_concurrency": 6}')
    answered_more(doomed, 10)
    answered_more(survivor, 10)
    doomed.kill()
    client = redis.Redis.from_url(redis_broker.url)

    def has_it_all() -> bool:
        (record,) = client.hgetall("{orchestrator:shares}:model").values() or [b""]
        return record.split()[5:6] == [b"6"]

    wait_until(lambda: client.hlen("{orchestrator:shares}:model") == 1 and has_it_all(), "all is the survivor's")
    answered_more(survivor, 20)
    assert server.seen.peak <= 6
    client.close()


@pytest.mark.faults
def test_a_process_that_wakes_after_its_grant_has_run_out_asks_first(start: Start, server: ModelServer) -> None:
    frozen, other = start('{"max_concurrency": 6}'), start('{"max_concurrency": 6}')
    answered_more(frozen, 20)
    answered_more(other, 20)
    frozen.send(signal.SIGUSR1)
    time.sleep(LASTS + 2)  # the time to live is what is tested
    before = answers(frozen)
    frozen.send(signal.SIGCONT)
    wait_until(lambda: answers(frozen) >= before + 20, "it sends again")
    answered_more(other, 20)
    # A request that was about to leave when the process froze leaves when it wakes; its whole share would make nine.
    assert server.seen.peak <= 7


@pytest.mark.faults
def test_nothing_is_sent_beyond_a_wipe(start: Start, server: ModelServer, redis_broker: Broker) -> None:
    processes = [start('{"max_concurrency": 6}') for _ in range(2)]
    for _ in range(3):
        redis_broker.wipe()
        processes.append(start('{"max_concurrency": 6}'))
        for process in processes:
            answered_more(process, 5)
    assert server.seen.peak == 6


@pytest.mark.faults
def test_a_rate_holds_over_processes(start: Start, server: ModelServer) -> None:
    processes = [start('{"requests_per_second": 40}') for _ in range(3)]
    for process in processes:
        answered_more(process, 10)
    before, began = server.seen.requests, time.monotonic()
    answered_more(processes[0], 40)
    seconds = time.monotonic() - began
    # One request of each process may have waited for its turn when the count began.
    assert server.seen.requests - before <= 40 * seconds + len(processes)
    for process in processes:
        assert process.is_running
