"""A window that shares a limit: it sends within its grant, waits when Redis is away, and gives back what it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import fakeredis
import pytest

from orchestrator.errors import Unavailable
from orchestrator.registry.models import Endpoint, InputCodec, OutputCodec
from tests.support.processes import wait_until
from workers.inference import shares as module
from workers.inference.congestion import Window
from workers.inference.failures import ItemRefused
from workers.inference.shares import Member, Shares

pytestmark = pytest.mark.anyio

#: Seconds until a test gives up.
PATIENCE = 20.0


def limits(max_concurrency: int | None = None, requests_per_second: float | None = None) -> Endpoint:
    return Endpoint(
        url="http://127.0.0.1:1",
        model_name="model",
        input_codec=InputCodec.TEXT,
        output_codec=OutputCodec.CLASSIFICATION,
        max_concurrency=max_concurrency,
        requests_per_second=requests_per_second,
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    """A Redis that can be switched off; grants last a second there, and a new one needs no care."""
    monkeypatch.setattr(module, "LASTS", 1.0)
    monkeypatch.setattr(module, "MARGIN", 0.1)
    monkeypatch.setattr(module, "CARE", 0.0)
    return fakeredis.FakeServer()


@pytest.fixture
async def shares(server: fakeredis.FakeServer) -> AsyncIterator[Shares]:
    redis = fakeredis.FakeAsyncRedis(server=server)
    yield Shares(redis)
    server.connected = True
    await redis.aclose()


async def send_for_ever(window: Window) -> None:
    """Requests that say nothing about load: else a pause of the machine would count as congestion and cost a place."""
    while True:
        with suppress(ItemRefused):
            async with window.slot():
                assert window.clock() < window.share.until
                await asyncio.sleep(0.01)
                raise ItemRefused("the item's own fault")


async def test_a_window_sends_within_its_grant_and_stops_when_redis_stays_away(
    shares: Shares, server: fakeredis.FakeServer
) -> None:
    window = Window(max_concurrency=2)
    member = Member(shares, "model", window, limits(2))
    await member.join()
    await window.acquire()
    server.connected = False
    with pytest.raises(Unavailable, match="keeps the model's limits"):
        await asyncio.wait_for(send_for_ever(window), PATIENCE)
    server.connected = True
    await asyncio.to_thread(wait_until, lambda: window.has_place(window.clock()), "there is a share again")
    await window.acquire()
    assert window.in_flight == 2
    await member.leave()


async def test_nobody_joins_while_redis_is_away(shares: Shares, server: fakeredis.FakeServer) -> None:
    server.connected = False
    member = Member(shares, "model", Window(max_concurrency=2), limits(2))
    with pytest.raises(Unavailable):
        await member.join()
    server.connected = True
    await member.join()
    await member.leave()


async def test_whoever_leaves_makes_room_at_once_and_may_come_again(shares: Shares) -> None:
    first, second = Window(max_concurrency=2), Window(max_concurrency=2)
    one, other = Member(shares, "model", first, limits(2)), Member(shares, "model", second, limits(2))
    await one.join()
    assert first.share.places == 2
    await one.leave()
    assert not first.is_open(first.clock())
    await other.join()
    assert second.share.places == 2
    await one.join()
    assert first.share.places == 0
    await other.leave()
    async with asyncio.timeout(PATIENCE):
        async with first.slot():
            assert second.in_flight == 0
    await one.leave()


async def test_a_rate_begins_when_one_has_joined_and_not_before(shares: Shares) -> None:
    window = Window(requests_per_second=5)
    member = Member(shares, "model", window, limits(requests_per_second=5))
    for _ in range(2):  # coming and going earns nothing
        began = window.clock()
        await member.join()
        async with asyncio.timeout(PATIENCE), window.slot():
            assert window.clock() - began >= 0.2
        await member.leave()


async def test_a_model_with_a_rate_alone_has_no_other_limit(shares: Shares) -> None:
    window = Window(requests_per_second=5)
    member = Member(shares, "model", window, limits(requests_per_second=5))
    await member.join()
    assert window.share.places == window.control.ceiling
    assert window.share.rate == 5
    await member.leave()


async def test_whoever_is_told_to_end_in_the_middle_of_a_call_ends_although_the_client_did_not_hear_it(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, is_calling = Member(shares, "model", Window(max_concurrency=2), limits(2)), asyncio.Event()
    await member.join()

    async def call_deaf() -> None:
        is_calling.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE)

    monkeypatch.setattr(member, "is_due", lambda: True)
    monkeypatch.setattr(member, "renew", call_deaf)
    keeper = member.keeper
    assert keeper is not None
    await asyncio.wait_for(is_calling.wait(), PATIENCE)
    keeper.cancel()
    await asyncio.wait_for(keeper, PATIENCE)
