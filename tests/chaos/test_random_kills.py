"""Workers that are killed at random, parent or child, over and over: nothing is lost and nothing is doubled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import ProgressState
from orchestrator.bulk_inference.suspects import KEY
from tests.chaos.harness import Harness, Member
from tests.support.bulk_inference import stored

if TYPE_CHECKING:
    from tests.conftest import Database

#: Of so many kills, one hits a worker's parent; the others hit a process of a pool.
PARENTS = 8
#: Datums in a request.
BATCH = 4
#: The server's delays, in seconds: while the job is behind the kills, and while it is ahead of them.
BEHIND, AHEAD = 0.002, 0.5


def run_with_kills(harness: Harness, datums: int, kills: int, *, every: float) -> None:
    """Run a job of `datums`, and kill a process `every` so many seconds, evenly over all of the job."""
    harness.server.behaviour.delay = AHEAD
    scene = harness.scene(datums)
    workers = harness.start(workers=2, concurrency=2)
    job_id = harness.submit(scene, batch_size=BATCH)
    harness.until(lambda: harness.job(job_id).num_computed, "the first results", within=60)
    begun, killed = time.monotonic(), 0
    while killed < kills:
        # The moment is the point: there is nothing to wait for.
        end = time.monotonic() + harness.chance.uniform(0.5, 1.5) * every
        while time.monotonic() < end:
            # What was asked is ahead of what is stored, by what kills have undone and what is on its way.
            asked = harness.server.seen.requests * BATCH
            harness.server.behaviour.delay = AHEAD if asked * kills > datums * killed else BEHIND
            harness.pause(0.05)
        assert not harness.is_over(job_id), f"the job was over after {killed} kills"
        killed += kill_one(harness, harness.chance.choice(workers), parent=killed % PARENTS == 0)
    took = time.monotonic() - begun
    print(f"{kills} kills in {took:.0f} s, {sum(worker.restarts for worker in workers)} of them parents")
    print(f"then {harness.job(job_id).num_computed} of {datums} datums were stored")
    print(f"{pieces_of(job_id)} pieces of units were made")
    harness.server.behaviour.delay = 0
    (details,) = harness.wait(job_id, within=240)
    assert (details.status, details.reason) == (ProgressState.SUCCEEDED, "")
    assert (details.num_computed, details.num_failed, details.expected_total) == (datums, 0, datums)
    assert stored(job_id) == list(range(datums))


def pieces_of(job_id: str) -> int:
    """Units that were made of others whose attempts got nowhere."""
    return sum(unit.key.startswith(KEY) for unit in ledger.list_units(job_id, limit=100_000))


def kill_one(harness: Harness, worker: Member, *, parent: bool) -> bool:
    """Kill the worker's parent, or one process of its pool; says whether there was one to kill."""
    if parent:
        harness.kill(worker)
        return True
    return harness.kill_child(worker)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_few_kills_lose_nothing_and_double_nothing(harness: Harness) -> None:
    run_with_kills(harness, 3_000, 8, every=0.5)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_many_kills_lose_nothing_and_double_nothing(harness: Harness, database: Database) -> None:
    size, kills = (100_000, 200) if database.kind == "sqlite" else (20_000, 40)
    run_with_kills(harness, size, kills, every=0.8)
