"""The way to PostgreSQL is cut, for workers and for whoever calls: nobody hangs, and work goes on when it heals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator.bulk_inference import ProgressState, abort_bulk_inference_job, get_bulk_inference_details
from tests.chaos.harness import Harness
from tests.chaos.proxy import Proxy
from tests.conftest import forget_settings
from tests.support.bulk_inference import Scene, stored

if TYPE_CHECKING:
    from tests.conftest import Database

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("database", ["postgres"], indirect=True)]

#: Seconds that no call may take, and within which work goes on once the way is healed.
BLOCKS = 10.0
RECOVERS = 15.0
#: What is added in the short forms, which other tests run beside; the long ones have the machine for themselves.
BUSY = 10.0

Fault = tuple[Callable[[], None], float]


@pytest.fixture
def way(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the database, for this process and for those that it starts."""
    assert database.url.port is not None
    with Proxy(database.url.port) as between:
        behind = database.url.set(host="127.0.0.1", port=between.port).render_as_string(hide_password=False)
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", behind)
        forget_settings()
        yield between
        between.heal()
        forget_settings()


@pytest.fixture
def cut(way: Proxy, harness: Harness) -> Harness:
    """The harness, all of whose processes go this way."""
    return harness


def call(door: Callable[[], object]) -> None:
    """Call a function of the API, which may fail but must not hang."""
    begun = time.monotonic()
    with suppress(OperationalError):
        door()
    assert time.monotonic() - begun < BLOCKS


def computed(job_id: str) -> int:
    """How far the job has come, or -1 while the database cannot be asked."""
    try:
        return get_bulk_inference_details(job_id).num_computed
    except OperationalError:
        return -1


def cut_off(harness: Harness, way: Proxy, faults: list[Fault], datums: int, *, within: float = RECOVERS) -> None:
    """Run a job while each of `faults` lasts for so many seconds."""
    harness.server.behaviour.delay = 0.02
    scene = harness.scene(datums, max_concurrency=8)
    harness.start(workers=2, concurrency=1)
    job_id = harness.submit(scene)
    harness.until(lambda: computed(job_id) > 0, "the first results")
    took = []
    for number, (fault, seconds) in enumerate(faults):
        assert not harness.is_over(job_id), f"the job was over after {number} faults: let the server be slower"
        fault()
        knock(harness, scene, job_id, seconds)
        way.heal()
        took.append(await_progress(harness, job_id, within))
    print("recovered after", [f"{seconds:.1f}" for seconds in took], "s")
    harness.server.behaviour.delay = 0
    (details,) = harness.wait(job_id, within=120)
    assert (details.status, details.num_failed) == (ProgressState.SUCCEEDED, 0)
    assert stored(job_id) == list(range(datums))
    harness.wait(within=60)


def knock(harness: Harness, scene: Scene, job_id: str, seconds: float) -> None:
    """Submit, look and abort, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        call(lambda: harness.submit(scene))
        call(lambda: get_bulk_inference_details(job_id))
        if len(harness.job_ids) > 1:
            call(lambda: abort_bulk_inference_job(harness.job_ids[-1]))
        harness.pause(0.3)


def await_progress(harness: Harness, job_id: str, within: float) -> float:
    """Wait for new results; returns the seconds it took."""
    begun = time.monotonic()
    before = -1
    while before < 0:
        before = computed(job_id)
    harness.until(lambda: computed(job_id) > before, "work goes on", within=within)
    return time.monotonic() - begun


def test_a_database_that_cannot_be_reached_holds_nobody_up(cut: Harness, way: Proxy) -> None:
    cut_off(cut, way, [(way.half_open, 0), (way.black_hole, 1)], 2_000, within=RECOVERS + BUSY)


@pytest.mark.chaos
def test_a_database_that_is_cut_off_in_every_way_is_found_again(cut: Harness, way: Proxy) -> None:
    faults: list[Fault] = [
        (way.black_hole, 15),
        (way.half_open, 0),
        (way.reset, 0),
        (way.refuse, 5),
        (lambda: way.slow(0.1), 5),
        (way.half_open, 5),
    ]
    cut_off(cut, way, faults, 30_000)
