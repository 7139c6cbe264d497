"""A batch to its end: poison stands alone, a busy server is waited for, a dead one blames nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.bulk_inference.record import FailedResult, StoredResult
from orchestrator.registry.models import InputCodec
from tests.support.model_server import ModelServer, Reply
from workers.inference.bisect import Item, Outcome, RetryPolicy, infer_batch
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


def ordinals(outcomes: list[Outcome], kind: type[StoredResult | FailedResult]) -> list[int]:
    return [outcome.ordinal for outcome in outcomes if isinstance(outcome, kind)]


def failures(outcomes: list[Outcome]) -> list[FailedResult]:
    return [outcome for outcome in outcomes if isinstance(outcome, FailedResult)]


async def test_a_good_batch_is_one_request(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(16))
    assert ordinals(outcomes, StoredResult) == list(range(16))
    assert server.seen.requests == 1


async def test_a_poison_item_fails_alone_and_its_batch_succeeds(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(16, [11]), sleep=waits)
    (failed,) = failures(outcomes)
    assert (failed.datum_id, failed.failure_class, failed.status) == ("datum-11", FailureClass.ITEM, 400)
    assert failed.message == "HTTP 400: an item cannot be read"
    assert len(ordinals(outcomes, StoredResult)) == 15
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
    assert ordinals(outcomes, FailedResult) == sorted(poison)
    assert ordinals(outcomes, StoredResult) == sorted(set(range(size)) - poison)
    assert requests <= 1 + 2 * len(poison) * max(1, (size - 1).bit_length())


async def test_an_item_that_crashes_the_server_is_found_too(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer(poison=b"poison", poison_status=500) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(8, [3]), sleep=waits)
    (failed,) = failures(outcomes)
    assert (failed.ordinal, failed.failure_class, failed.status) == (3, FailureClass.TRANSIENT, 500)
    alone = failed.attempts - (4 + 2 * 2)  # the whole batch, then its halves and theirs
    assert 4 <= alone <= 16
    assert len(ordinals(outcomes, StoredResult)) == 7


async def test_items_that_cannot_be_read_cost_no_request_of_their_own(client_of: ClientOf) -> None:
    items = [item._replace(data=b"\xff") if item.ordinal in (2, 5) else item for item in batch(16)]
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, items)
    assert ordinals(outcomes, FailedResult) == [2, 5]
    assert server.seen.requests == 1


async def test_a_burst_of_errors_is_waited_out_with_growing_pauses(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer() as server:
        server.behaviour.script.extend([Reply(500), Reply(drop=True), Reply(502)])
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(4), RetryPolicy(base=1.0), sleep=waits)
    assert ordinals(outcomes, StoredResult) == [0, 1, 2, 3]
    assert server.seen.requests == 4
    assert all(wait <= limit for wait, limit in zip(waits, (1, 2, 4), strict=True))


async def test_a_busy_server_is_given_the_time_it_asks_for(client_of: ClientOf) -> None:
    waits = Waits()
    with ModelServer() as server:
        server.behaviour.script.append(Reply(429, b"", (("Retry-After", "7"),)))
        async with client_of(server) as client:
            outcomes = await infer_batch(client, batch(2), sleep=waits)
    assert ordinals(outcomes, StoredResult) == [0, 1]
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
    assert ordinals(outcomes, StoredResult) == list(range(8))
    assert server.seen.requests == 3


async def test_every_request_takes_a_place_in_the_window_and_gives_it_back(client_of: ClientOf) -> None:
    window = Window()
    with ModelServer(poison=b"poison") as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            server.behaviour.script.append(Reply(429))
            before = window.limit
            outcomes = await infer_batch(client, batch(4, [1]), gate=window, sleep=Waits())
    assert ordinals(outcomes, FailedResult) == [1]
    assert window.in_flight == 0
    assert window.limit < before


RUBBISH = Reply(200, b"<html>please log in</html>")


async def test_rubbish_for_an_answer_is_asked_for_again_and_nothing_fails(client_of: ClientOf) -> None:
    with ModelServer() as server:
        server.behaviour.script.extend([RUBBISH, Reply(200, b'{"outputs":[]}'), RUBBISH])
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(4), sleep=Waits())
    assert ordinals(outcomes, StoredResult) == [0, 1, 2, 3]
    assert server.seen.requests == 4


@pytest.mark.parametrize("size", [1, 32])
async def test_a_server_that_answers_rubbish_to_everything_blames_no_item(client_of: ClientOf, size: int) -> None:
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            assert len(await infer_batch(client, batch(1))) == 1
            server.behaviour.script.extend([RUBBISH] * 100)
            with pytest.raises(Unreachable, match=r"bad answer.*nothing else is served either"):
                await infer_batch(client, batch(size), sleep=Waits())
    assert server.seen.requests < 20


async def test_a_server_that_never_answered_well_is_asked_for_both_ends_of_a_batch(client_of: ClientOf) -> None:
    with ModelServer(poison=b"poison", poison_status=500) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            outcomes = await infer_batch(client, batch(4, [0]), sleep=Waits())
            assert ordinals(outcomes, FailedResult) == [0]
    with ModelServer(poison=b"poison", poison_status=500) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            with pytest.raises(Unreachable, match="HTTP 500"):
                await infer_batch(client, batch(4, range(4)), sleep=Waits())


async def test_an_item_for_which_nothing_speaks_is_at_fault_only_after_much_patience(client_of: ClientOf) -> None:
    patient, impatient = RetryPolicy(), RetryPolicy(blames_without_proof=True)
    with ModelServer(poison=b"poison", poison_status=500) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            with pytest.raises(Unreachable):
                await infer_batch(client, batch(1, [0]), patient, sleep=Waits())
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            (failed,) = failures(await infer_batch(client, batch(1, [0]), impatient, sleep=Waits()))
    assert failed.status == 500


async def test_a_server_that_hangs_is_given_up_after_a_few_timeouts_and_blames_no_item(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT, timeout=0.1) as client:
            await infer_batch(client, batch(8))
            server.behaviour.delay = 60
            with pytest.raises(Unreachable, match="timed out"):
                await infer_batch(client, batch(8), sleep=Waits())
    assert server.seen.requests <= 1 + 2 + 1


async def test_a_server_that_hangs_is_not_asked_by_everyone_who_waits_for_a_turn(client_of: ClientOf) -> None:
    window = Window()
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT, timeout=0.2) as client:
            await infer_batch(client, batch(8), gate=window)
            server.behaviour.delay = 60
            waiting = [infer_batch(client, batch(8), gate=window, sleep=Waits()) for _ in range(100)]
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unreachable}
        assert server.seen.requests < 30
        server.behaviour.delay = 0
        async with client_of(server, input_codec=InputCodec.TEXT, timeout=5) as client:
            assert len(await infer_batch(client, batch(8))) == 8


async def test_a_row_that_is_infinite_again_and_again_fails_alone(client_of: ClientOf) -> None:
    data = [0.1] * 10 + [1e300] * 10 + [0.1] * 10
    answer = {"outputs": [{"name": "output", "datatype": "FP32", "shape": [3, 10], "data": data}]}
    with ModelServer() as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            for number in range(300):  # no doubt about this server
                client.reputation.succeeded(b"good %d" % number, 1)
            server.behaviour.script.extend([Reply(200, orjson.dumps(answer))] * 3)
            outcomes = await infer_batch(client, batch(3), sleep=Waits())
            assert (ordinals(outcomes, FailedResult), ordinals(outcomes, StoredResult)) == ([1], [0, 2])
            assert server.seen.requests <= 4
