"""The window finds what a server bears, and never lets more in."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.inference.congestion import CEILING, START, Aimd, Window
from workers.inference.failures import ItemRefused, Overloaded, Transient

pytestmark = pytest.mark.anyio


def simulate(control: Aimd, *, parallel: int, service: float, requests: int, reject_above: int | None = None) -> int:
    """Send `requests` as fast as `control` lets, to a server that works on `parallel` at a time; count rejections."""
    now, rejected, tie = 0.0, 0, count()
    slots = [0.0] * parallel  # when each of the server's places is free again
    flying: list[tuple[float, int, float, bool]] = []
    for _ in range(requests):
        while len(flying) < int(control.limit):
            refused = reject_above is not None and len(flying) >= reject_above
            done = now + 0.0001 if refused else max(slots[0], now) + service
            if not refused:
                heapq.heapreplace(slots, done)
            heapq.heappush(flying, (done, next(tie), now, refused))
        now, _, sent_at, refused = heapq.heappop(flying)
        rejected += refused
        if refused:
            control.overloaded(now, sent_at)
        else:
            control.succeeded(now, sent_at, len(flying) + 1)
    return rejected


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 5), st.integers(1, 300)), max_size=300),
    st.integers(1, CEILING),
)
def test_the_limit_stays_between_one_and_the_ceiling(
    answers: list[tuple[bool, float, float, int]], ceiling: int
) -> None:
    control, now = Aimd(ceiling=ceiling), 0.0
    for good, pause, latency, in_flight in answers:
        now += pause
        if good:
            control.succeeded(now, now - latency, in_flight)
        else:
            control.overloaded(now, now - latency)
        assert 1 <= control.limit <= ceiling


def test_a_server_with_room_gets_all_it_bears() -> None:
    control = Aimd()
    simulate(control, parallel=64, service=0.05, requests=4000)
    assert 64 <= control.limit <= 160


def test_growth_stops_where_latency_rises_and_throughput_does_not() -> None:
    control = Aimd()
    simulate(control, parallel=8, service=0.05, requests=4000)
    assert 8 <= control.limit <= 24


def test_growth_still_stops_there_after_a_long_time() -> None:
    control = Aimd()
    simulate(control, parallel=8, service=0.05, requests=60_000)
    assert 8 <= control.limit <= 40


def test_a_server_that_became_slower_for_good_is_learnt_anew() -> None:
    control = Aimd()
    simulate(control, parallel=4, service=0.02, requests=500)
    simulate(control, parallel=64, service=0.2, requests=60_000)
    assert control.limit >= 32


def test_rejections_keep_the_limit_near_the_capacity() -> None:
    control = Aimd()
    rejected = simulate(control, parallel=32, service=0.02, requests=6000, reject_above=20)
    assert 10 <= control.limit <= 22
    assert rejected < 600


def test_many_rejections_of_one_round_trip_shrink_the_limit_once() -> None:
    control = Aimd(limit=100)
    for _ in range(50):
        control.overloaded(10.0, 9.0)
    assert control.limit == pytest.approx(70)
    control.overloaded(12.0, 11.0)
    assert control.limit == pytest.approx(49)


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    control = Aimd()
    for at in range(1000):
        control.succeeded(float(at), at - 0.01, in_flight=1)
    assert control.limit == START


def test_an_endpoint_with_a_limit_is_never_exceeded() -> None:
    assert Window(max_concurrency=2).limit == 2
    assert Aimd(ceiling=1).limit == 1


async def test_no_more_requests_fly_than_the_limit_says() -> None:
    window, peak = Window(max_concurrency=3), 0

    async def request() -> None:
        nonlocal peak
        async with window.slot():
            peak = max(peak, window.in_flight)
            await asyncio.sleep(0)

    await asyncio.gather(*[request() for _ in range(50)])
    assert peak == 3
    assert window.in_flight == 0


async def test_places_go_first_come_first_served() -> None:
    window, served = Window(max_concurrency=1), []

    async def request(number: int) -> None:
        async with window.slot():
            await asyncio.sleep(0)
            served.append(number)

    await asyncio.gather(*[request(number) for number in range(10)])
    assert served == list(range(10))


async def test_a_cancelled_waiter_leaks_no_place() -> None:
    window = Window(max_concurrency=1)
    await window.acquire()
    waiters = [asyncio.create_task(window.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    window.release()
    waiters[1].cancel()  # it has just been given the place, and does not know yet
    await asyncio.wait_for(waiters[2], 5)
    assert window.in_flight == 1
    window.release()
    assert window.in_flight == 0


async def test_overload_and_timeouts_shrink_the_window_and_a_poison_item_does_not() -> None:
    async def limit_after(error: Exception) -> int:
        window = Window()
        with pytest.raises(type(error)):
            async with window.slot():
                raise error
        assert window.in_flight == 0
        return window.limit

    assert await limit_after(Overloaded("busy")) < START
    assert await limit_after(Transient("slow", timed_out=True)) < START
    assert await limit_after(Transient("reset")) == START
    assert await limit_after(ItemRefused("poison")) == START


async def test_requests_leave_no_faster_than_the_rate_allows() -> None:
    now, sent = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += max(seconds, 0.0)

    window = Window(clock=lambda: now, requests_per_second=10, sleep=sleep)
    for _ in range(4):
        async with window.slot():
            sent.append(round(now, 6))
    now += 5.0  # nothing is saved up while nobody sends
    for _ in range(3):
        async with window.slot():
            sent.append(round(now, 6))
    assert sent == [0.0, 0.1, 0.2, 0.3, 5.3, 5.4, 5.5]


async def test_a_request_cancelled_before_its_turn_gives_its_place_back() -> None:
    window = Window(max_concurrency=1, requests_per_second=0.01)
    async with window.slot():
        pass
    waiting = asyncio.create_task(window.slot().__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert window.in_flight == 0
