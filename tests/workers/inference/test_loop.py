"""The loop: every outcome reaches the sink once, whatever the sink, the server and the clock do meanwhile."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.bulk_inference.record import FailedResult, StoredResult
from orchestrator.errors import LeaseLost, Unavailable
from orchestrator.storage.local import LocalBlobs
from tests.support.model_server import ModelServer, Reply
from workers.inference import loop as looping
from workers.inference.bisect import Outcome, RetryPolicy
from workers.inference.client import Client
from workers.inference.congestion import Window
from workers.inference.failures import EndpointRefused, Unreachable
from workers.inference.feed import Feed, Reference
from workers.inference.loop import Loop

pytestmark = pytest.mark.anyio

ClientOf = Callable[..., Client]

#: Tries that follow each other at once.
SWIFT = RetryPolicy(tries=2, part_tries=1, base=0.001, cap=0.001)


class Sink:
    """A sink that remembers what it was given, and may be told to stop, to fail, or to dawdle."""

    def __init__(self) -> None:
        self.flushes: list[list[Outcome]] = []
        self.wanted = True
        self.error: Exception | None = None
        self.pause: Callable[[], object] = lambda: None

    def __call__(self, outcomes: Sequence[Outcome], in_flight: int) -> bool:
        self.flushes.append(list(outcomes))
        self.pause()
        if self.error is not None:
            raise self.error
        return self.wanted

    def ordinals(self, kind: type[StoredResult | FailedResult]) -> Counter[int]:
        return Counter(outcome.ordinal for flush in self.flushes for outcome in flush if isinstance(outcome, kind))


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  nobody signals what is awaited here
            await asyncio.sleep(0.001)


def key_of(blobs: LocalBlobs, number: int) -> str:
    """Where `feed_of` puts a datum."""
    return blobs.put_content(f"good {number}".encode())


def feed_of(blobs: LocalBlobs, count: int, batch_size: int = 1, poison: Sequence[int] = ()) -> Feed:
    """A feed of datums, some of them poison."""
    references = []
    for number in range(count):
        data = f"{'poison' if number in poison else 'good'} {number}".encode()
        references.append(Reference(number, f"datum-{number}", "sha", blobs.put_content(data), len(data)))
    return Feed(blobs, [references], batch_size)


async def test_every_outcome_reaches_the_sink_once_however_flushes_and_answers_interleave(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers come in while a flush is under way: they belong to the next, and none may be lost between the two."""
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 7)
    monkeypatch.setattr(looping, "BACKLOG_ITEMS", 40)
    sink = Sink()
    sink.pause = lambda: threading.Event().wait(random.uniform(0, 0.003))
    with ModelServer(delay=0.001) as server:
        async with client_of(server) as client:
            assert await Loop(client, Window(), feed_of(blobs, 2000), sink).run()
    assert sink.ordinals(StoredResult) == Counter(range(2000))
    assert len(sink.flushes) > 20


async def test_poison_fails_alone_and_lost_datums_fail_too(client_of: ClientOf, blobs: LocalBlobs) -> None:
    sink = Sink()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec="text") as client:
            feed = feed_of(blobs, 300, 16, poison=[3, 150, 299])
            blobs.delete(key_of(blobs, 200))
            assert await Loop(client, Window(), feed, sink, policy=SWIFT).run()
    assert sink.ordinals(FailedResult) == Counter([3, 150, 200, 299])
    assert sink.ordinals(StoredResult) == Counter(set(range(300)) - {3, 150, 200, 299})


async def test_datums_whose_blobs_are_all_gone_reach_the_sink_although_nothing_is_inferred(
    client_of: ClientOf, blobs: LocalBlobs
) -> None:
    sink = Sink()
    feed = feed_of(blobs, 5)
    blobs.delete_many([key_of(blobs, number) for number in range(5)])
    with ModelServer() as server:
        async with client_of(server) as client:
            assert await Loop(client, Window(), feed, sink).run()
    assert sink.ordinals(FailedResult) == Counter(range(5))
    assert server.seen.requests == 0


async def test_datums_that_turn_out_lost_during_the_last_flush_are_flushed_after_it(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 1)
    sink = Sink()
    feed = feed_of(blobs, 300)
    last = [key_of(blobs, number) for number in range(256, 300)]
    read, flushing, all_lost = feed.read, asyncio.Event(), threading.Event()

    async def read_late(group: Sequence[Reference]) -> list[object]:
        if group[0].ordinal >= 256:
            await flushing.wait()
        return list(await read(group))

    running = asyncio.get_running_loop()

    def pause() -> None:
        if sum(sink.ordinals(StoredResult).values()) == 256:
            running.call_soon_threadsafe(flushing.set)
            all_lost.wait(10)

    async def watch() -> None:
        await until(lambda: len(feed.lost) == len(last) and not feed.is_open)
        all_lost.set()

    monkeypatch.setattr(feed, "read", read_late)
    sink.pause = pause
    blobs.delete_many(last)
    with ModelServer() as server:
        async with client_of(server) as client:
            watching = asyncio.create_task(watch())
            assert await Loop(client, Window(), feed, sink).run()
            await watching
    assert sink.ordinals(StoredResult) == Counter(range(256))
    assert sink.ordinals(FailedResult) == Counter(range(256, 300))


async def test_an_empty_feed_is_done_at_once(client_of: ClientOf, blobs: LocalBlobs) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            assert await Loop(client, Window(), feed_of(blobs, 0), Sink()).run()


async def test_a_unit_that_is_not_wanted_any_more_stops_after_what_is_in_flight(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 10)
    sink = Sink()
    sink.wanted = False
    with ModelServer() as server:
        async with client_of(server) as client:
            assert not await Loop(client, Window(4), feed_of(blobs, 2000), sink).run()
    stored = sink.ordinals(StoredResult)
    assert 10 <= len(stored) < 2000
    assert set(stored.values()) == {1}
    assert set(server.seen.answered.values()) == {1}
    assert len(server.seen.answered) == len(stored)  # what was inferred is stored


async def test_a_unit_whose_time_is_up_stops_after_what_is_in_flight(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 10)
    sink = Sink()
    with ModelServer() as server:
        async with client_of(server) as client:
            assert not await Loop(client, Window(4), feed_of(blobs, 2000), sink).run(budget=0)
    assert len(server.seen.answered) == len(sink.ordinals(StoredResult)) < 2000


async def test_a_server_that_goes_away_ends_the_attempt_and_what_it_answered_is_stored(
    client_of: ClientOf, blobs: LocalBlobs
) -> None:
    sink = Sink()
    with ModelServer() as server:
        async with client_of(server) as client:

            def leave() -> None:
                server.behaviour.ready = False
                server.behaviour.script.extend([Reply(503)] * 1000)

            sink.pause = leave
            loop = Loop(client, Window(4), feed_of(blobs, 3000), sink, policy=SWIFT)
            with pytest.raises(Unreachable):
                await loop.run()
    assert len(server.seen.answered) == len(sink.ordinals(StoredResult)) >= 1


async def test_a_server_that_refuses_everything_ends_the_attempt(client_of: ClientOf, blobs: LocalBlobs) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            server.behaviour.model = "another"
            with pytest.raises(EndpointRefused, match="unknown model"):
                await Loop(client, Window(), feed_of(blobs, 100), Sink()).run()


async def test_a_lost_lease_ends_the_attempt_at_once(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 10)
    sink = Sink()
    sink.error = LeaseLost("unit", 1)
    with ModelServer() as server:
        async with client_of(server) as client:
            with pytest.raises(LeaseLost):
                await Loop(client, Window(), feed_of(blobs, 2000), sink).run()
    assert len(sink.flushes) == 1


async def test_a_blob_store_that_is_away_ends_the_attempt_and_what_was_inferred_is_stored(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, feed = Sink(), feed_of(blobs, 600)
    get_many, calls = blobs.get_many, iter(range(100))

    async def fail_later(keys: Sequence[str]) -> list[bytes]:
        if next(calls) == 2:
            raise Unavailable("the bucket does not answer")
        return await get_many(keys)

    monkeypatch.setattr(blobs, "get_many", fail_later)
    with ModelServer() as server:
        async with client_of(server) as client:
            with pytest.raises(Unavailable, match="the bucket"):
                await Loop(client, Window(), feed, sink).run()
    assert len(server.seen.answered) == len(sink.ordinals(StoredResult)) > 0


async def test_outcomes_that_wait_for_a_flush_do_not_keep_the_datums_bytes(
    client_of: ClientOf, blobs: LocalBlobs
) -> None:
    sink = Sink()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec="text") as client:
            await Loop(client, Window(), feed_of(blobs, 20, poison=[4]), sink, policy=SWIFT).run()
    held: list[object] = [part for flush in sink.flushes for outcome in flush for part in outcome]
    assert not any(isinstance(part, bytes) for part in held)


async def test_inference_waits_for_a_slow_database(
    client_of: ClientOf, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looping, "FLUSH_ITEMS", 10)
    monkeypatch.setattr(looping, "BACKLOG_ITEMS", 50)
    sink, may_go_on = Sink(), threading.Event()
    sink.pause = lambda: may_go_on.wait(10)
    with ModelServer() as server:
        async with client_of(server) as client:
            loop = Loop(client, Window(8), feed_of(blobs, 2000), sink)
            running = asyncio.create_task(loop.run())
            await until(lambda: not loop.room.is_set() and not server.seen.in_flight)
            assert len(server.seen.answered) < 200
            may_go_on.set()
            assert await running
    assert sink.ordinals(StoredResult) == Counter(range(2000))
