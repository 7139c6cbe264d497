"""The broker is wiped, restarted, taken away and cut off: no job is lost, and submitting goes on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from orchestrator.bulk_inference import ProgressState, abort_bulk_inference_job, get_bulk_inference_details
from orchestrator.ledger import nudging
from tests.chaos.backlog import Backlog, claims
from tests.chaos.harness import Harness
from tests.chaos.proxy import Proxy
from tests.conftest import forget_settings
from tests.support.bulk_inference import stored
from tests.support.reaper import Reaper
from tests.support.services import Broker, RedisServer, own_redis

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("database", ["sqlite"], indirect=True)]

#: Seconds within which work goes on after a fault: of the broker itself, and of the way to it.
RESUMES = 10.0
RECOVERS = 15.0
#: Seconds that no call may take, and that of a hundred submissions ninety-nine do not take.
BLOCKS = 10.0
SUBMITS = 0.1
#: Whoever waits for a broker takes longer, also on a machine that is busy with other tests.
WAITS = 1.0
#: What is added in the short forms, which other tests run beside; the long ones have the machine for themselves.
BUSY = 10.0


@pytest.fixture
def redis_server(reaper: Reaper) -> Iterator[RedisServer]:
    """A Redis of this test's own, which it may stop."""
    with own_redis(reaper) as server:
        yield server


@pytest.fixture
def way(redis_server: RedisServer) -> Iterator[Proxy]:
    """The way to the broker."""
    with Proxy(redis_server.port) as between:
        yield between


@pytest.fixture
def broker(redis_server: RedisServer, way: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """In the place of the fixture of this name: a broker behind a proxy."""
    chosen = Broker("redis", way.url(redis_server.url))
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", chosen.url)
    forget_settings()
    return chosen


@pytest.fixture(autouse=True)
def patience(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions wait for their nudge as long as in production."""
    monkeypatch.setattr(nudging, "PATIENCE", 0.02)


def assert_complete(harness: Harness, datums: int) -> None:
    for job_id in harness.job_ids:
        # One after the other: hundreds of them take as long as the machine needs, if only they go on.
        (details,) = harness.wait(job_id, within=120)
        assert (details.status, details.reason, details.num_failed) == (ProgressState.SUCCEEDED, "", 0)
        assert stored(details.job_id) == list(range(datums))


def wipe_and_restart(harness: Harness, faults: list[Callable[[], None]], *, within: float = RESUMES) -> None:
    """Run jobs while each of `faults` happens, and wait after each until work goes on."""
    backlog = Backlog(harness)
    took: list[float] = []
    for fault in faults:
        backlog.fill()
        fault()
        took.append(backlog.await_resumption(within))
    print(f"{len(backlog.job_ids)} jobs; resumed after", [f"{seconds:.1f}" for seconds in took], "s")
    backlog.finish()


def restart(server: RedisServer) -> None:
    server.stop()
    server.start()


def test_a_wiped_and_a_restarted_broker_lose_nothing(
    harness: Harness, broker: Broker, redis_server: RedisServer
) -> None:
    wipe_and_restart(harness, [broker.wipe, lambda: restart(redis_server)], within=RESUMES + BUSY)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_twenty_wipes_and_ten_restarts_lose_nothing(
    harness: Harness, broker: Broker, redis_server: RedisServer
) -> None:
    faults = [broker.wipe] * 20 + [lambda: restart(redis_server)] * 10
    harness.chance.shuffle(faults)
    wipe_and_restart(harness, faults)


def submit_for(harness: Harness, scene: object, seconds: float, *, pause: float) -> list[float]:
    """Submit again and again for so many seconds; returns what each submission took."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        harness.submit(scene)  # type: ignore[arg-type]  # what `harness.scene` returned
        took.append(time.monotonic() - begun)
        harness.pause(pause)
    return took


def submit_while_away(
    harness: Harness,
    server: RedisServer,
    seconds: float,
    *,
    pause: float,
    within: float = RESUMES,
    submits: float = SUBMITS,
    beside: float = 0,
) -> None:
    scene = harness.scene(5)
    harness.start(workers=1, concurrency=2)
    harness.submit(scene)
    harness.wait(within=30)
    if beside:
        # On a busy machine everything takes longer, with a broker as without.
        submits = max(submits, 1.5 * percentile(submit_for(harness, scene, beside, pause=pause)))
        harness.wait(within=60)
    present = len(harness.job_ids)
    server.stop()
    took = submit_for(harness, scene, seconds, pause=pause)
    server.start()
    begun = time.monotonic()
    waiting = harness.job_ids[present:]
    harness.until(lambda: claims(*waiting), "the first unit is claimed", within=within)
    print(f"{len(took)} submissions; resumed after {time.monotonic() - begun:.1f} s")
    assert percentile(took) < submits, sorted(took)[-5:]
    assert_complete(harness, 5)


def percentile(took: list[float]) -> float:
    """What 99 of 100 do not exceed."""
    found = statistics.quantiles(took, n=100)[98]
    print(f"p99 of {len(took)}: {found * 1000:.0f} ms; longest {max(took) * 1000:.0f} ms")
    return found


def test_without_a_broker_jobs_are_accepted_at_once_and_run_when_it_is_back(
    harness: Harness, redis_server: RedisServer
) -> None:
    submit_while_away(harness, redis_server, 4, pause=0.05, within=RESUMES + BUSY, submits=WAITS)


@pytest.mark.chaos
def test_a_minute_without_a_broker_delays_jobs_and_nothing_else(harness: Harness, redis_server: RedisServer) -> None:
    submit_while_away(harness, redis_server, 60, pause=0.15, beside=15)


def test_submissions_do_not_wait_for_a_broker_in_a_black_hole(harness: Harness, way: Proxy) -> None:
    scene = harness.scene(5)
    harness.submit(scene)  # leaves a connection in the pool
    nudging.settle_nudges(10)
    way.black_hole()
    took = submit_for(harness, scene, 3, pause=0.1)
    assert percentile(took) < WAITS, sorted(took)[-5:]
    way.heal()
    harness.start(workers=1, concurrency=2)
    assert_complete(harness, 5)


def cut_off(
    harness: Harness, way: Proxy, faults: list[tuple[Callable[[], None], float]], *, within: float = RECOVERS
) -> None:
    """Run jobs while the way to the broker is cut for so many seconds, again and again."""
    backlog = Backlog(harness)
    took: list[float] = []
    for fault, seconds in faults:
        backlog.fill()
        fault()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            call(lambda: harness.submit(backlog.scene))
            call(lambda: abort_bulk_inference_job(harness.job_ids[-1]))
            call(lambda: get_bulk_inference_details(backlog.job_ids[0]))
            harness.pause(0.3)
        way.heal()
        took.append(backlog.await_resumption(within))
    print("recovered after", [f"{seconds:.1f}" for seconds in took], "s")
    backlog.finish()
    harness.wait(within=120)


def call(door: Callable[[], object]) -> None:
    """Call a function of the API, which must not hang."""
    begun = time.monotonic()
    door()
    assert time.monotonic() - begun < BLOCKS


def test_a_half_open_and_a_black_holed_broker_are_left_for_a_new_connection(harness: Harness, way: Proxy) -> None:
    cut_off(harness, way, [(way.black_hole, 1), (way.half_open, 0)], within=RECOVERS + BUSY)


@pytest.mark.chaos
def test_a_broker_that_is_cut_off_in_every_way_is_found_again(harness: Harness, way: Proxy) -> None:
    faults: list[tuple[Callable[[], None], float]] = [
        (way.half_open, 0),
        (way.black_hole, 12),
        (way.half_open, 5),
        (way.reset, 0),
        (way.refuse, 8),
        (lambda: way.slow(0.3), 3),
    ]
    cut_off(harness, way, faults)
