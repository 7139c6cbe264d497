"""A batch to its end: poison stands alone, a busy server is waited for, a dead one blames nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.registry.models import InputCodec
from tests.support.model_server import ModelServer, Reply
from workers.inference.bisect import Failed, Item, Outcome, RetryPolicy, Stored, infer_batch
from workers.inference.client import Client
from workers.inference.congestion import Window
from workers.inference.failures import EndpointRefused, FailureClass, Unreachable

pytestmark = pytest.mark.anyio

ClientOf = Callable[..., Client]


class Waits(list[float]):
    """A sleep that does not, and remembers."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def batch(size: int, poison: Iterable[int] = ()) -> list[Item]:
    bad = set(poison)
    return [Item(at, f"datum-{at}", "", "", b"poison %d" % at if at in bad else b"good %d" % at) for at in range(size)]


def ordinals(outcomes: list[Outcome], kind: type[Stored | Failed]) -> list[int]:
    return [outcome.item.ordinal for outcome in outcomes if isinstance(outcome, kind)]


def failures(outcomes: list[Outcome]) -> list[Failed]:
    return [outcome for outcome in outcomes if isinstance(outcome, Failed)]


async def test_a_good_batch_is_one_request(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(16))
    assert ordinals(outcomes, Stored) == list(range(16))
    assert server.seen.requests == 1


async def test_a_poison_item_fails_alone_and_its_batch_succeeds(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(16, [11]), sleep=waits)
    (failed,) = failures(outcomes)
    assert (failed.item.datum_id, failed.failure_class, failed.status) == ("datum-11", FailureClass.ITEM, 400)
    assert failed.message == "HTTP 400: an item cannot be read"
    assert len(ordinals(outcomes, Stored)) == 15
    assert server.seen.requests <= 9
    assert waits == []
    assert set(server.seen.answered.values()) == {1}  # no good item was inferred twice


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 40), data=st.data())
def test_whatever_is_poisoned_exactly_that_fails(client_of: ClientOf, size: int, data: st.DataObject) -> None:
    poison = data.draw(st.sets(st.integers(0, size - 1)))

    async def scenario() -> tuple[list[Outcome], int]:
        with ModelServer(poison=b"poison") as server:
            async with client_of(server, input_codec=InputCodec.TEXT) as client:
                return await infer_batch(client, batch(size, poison)), server.seen.requests

    outcomes, requests = asyncio.run(scenario())
    assert ordinals(outcomes, Failed) == sorted(poison)
    assert ordinals(outcomes, Stored) == sorted(set(range(size)) - poison)
    assert requests <= 1 + 2 * len(poison) * max(1, (size - 1).bit_length())


async def test_an_item_that_crashes_the_server_is_found_too(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer(poison=b"poison", poison_status=500) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(8, [3]), sleep=waits)
    (failed,) = failures(outcomes)
    assert (failed.item.ordinal, failed.failure_class, failed.status) == (3, FailureClass.TRANSIENT, 500)
    assert failed.attempts == 4 + 2 * 3  # the whole batch, then each of its halves
    assert len(ordinals(outcomes, Stored)) == 7


async def test_items_that_cannot_be_read_cost_no_request_of_their_own(client_of: ClientOf) -> None:
    items = [item._replace(data=b"\xff") if item.ordinal in (2, 5) else item for item in batch(16)]
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, items)
    assert ordinals(outcomes, Failed) == [2, 5]
    assert server.seen.requests == 1


async def test_a_burst_of_errors_is_waited_out_with_growing_pauses(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer() as server:
        server.behaviour.script.extend([Reply(500), Reply(drop=True), Reply(502)])
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(4), RetryPolicy(base=1.0), sleep=waits)
    assert ordinals(outcomes, Stored) == [0, 1, 2, 3]
    assert server.seen.requests == 4
    assert all(wait <= limit for wait, limit in zip(waits, (1, 2, 4), strict=True))


async def test_a_busy_server_is_given_the_time_it_asks_for(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer() as server:
        server.behaviour.script.append(Reply(429, b"", (("Retry-After", "7"),)))
        async with client_of(server) as client:
            outcomes = await infer_batch(client, batch(2), sleep=waits)
    assert ordinals(outcomes, Stored) == [0, 1]
    assert len(waits) == 1
    assert 7 <= waits[0] <= 7.1


async def test_a_server_that_is_not_ready_blames_no_item(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            server.behaviour.ready = False
            server.behaviour.script.extend([Reply(503)] * 4)
            with pytest.raises(Unreachable) as caught:
                await infer_batch(client, batch(4), sleep=Waits())
    assert caught.value.status == 503
    assert server.seen.requests == 4


async def test_a_server_that_died_blames_no_item(client_of: ClientOf) -> None:
    with ModelServer() as server:
        client = await client_of(server).__aenter__()
    with pytest.raises(Unreachable):
        await infer_batch(client, batch(4), sleep=Waits())
    await client.__aexit__()


async def test_a_refused_endpoint_ends_the_batch_at_once(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            server.behaviour.script.append(Reply(401, b'{"error":"token expired"}'))
            with pytest.raises(EndpointRefused, match="token expired"):
                await infer_batch(client, batch(4), sleep=Waits())
    assert server.seen.requests == 1


async def test_a_batch_that_is_too_large_is_halved_and_nothing_fails(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            server.behaviour.script.append(Reply(413))
            outcomes = await infer_batch(client, batch(8), sleep=Waits())
    assert ordinals(outcomes, Stored) == list(range(8))
    assert server.seen.requests == 3


async def test_every_request_takes_a_place_in_the_window_and_gives_it_back(client_of: ClientOf) -> None:
    window = Window()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            server.behaviour.script.append(Reply(429))
            before = window.limit
            outcomes = await infer_batch(client, batch(4, [1]), gate=window, sleep=Waits())
    assert ordinals(outcomes, Failed) == [1]
    assert window.in_flight == 0
    assert window.limit < before
