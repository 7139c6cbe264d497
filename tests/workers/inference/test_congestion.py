"""The window finds what a server bears, and never lets more in."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import Unavailable
from workers.inference.aimd import START
from workers.inference.congestion import Share, Window
from workers.inference.failures import ItemRefused, Overloaded, Transient

pytestmark = pytest.mark.anyio


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


async def test_nobody_sends_while_the_server_asks_for_a_pause() -> None:
    now = 0.0
    window = Window(clock=lambda: now)
    with pytest.raises(Overloaded):
        async with window.slot():
            raise Overloaded("busy", retry_after=0.05)
    other = asyncio.create_task(window.acquire())
    await asyncio.sleep(0)
    assert window.in_flight == 0
    now = 0.06
    await asyncio.wait_for(other, 5)
    assert window.in_flight == 1


async def test_a_share_that_has_run_out_lets_nobody_send_until_it_is_renewed() -> None:
    now = 0.0
    window = Window(clock=lambda: now)
    window.allot(Share(2, None, until=5.0))
    await window.acquire()
    now = 5.0
    waiting = asyncio.create_task(window.acquire())
    await asyncio.sleep(0)
    assert window.in_flight == 1
    window.allot(Share(2, None, until=10.0))
    await waiting
    assert window.in_flight == 2


async def test_a_smaller_share_is_reached_by_waiting_and_not_by_breaking_off() -> None:
    window = Window()
    for _ in range(3):
        await window.acquire()
    window.allot(Share(1, None, float("inf")))
    waiting = asyncio.create_task(window.acquire())
    for left in (2, 1):
        window.release()
        await asyncio.sleep(0)
        assert window.in_flight == left
        assert not waiting.done()
    window.release()
    await waiting
    assert window.in_flight == 1


async def test_a_window_without_a_place_still_wants_one_request_ready() -> None:
    window = Window(max_concurrency=4)
    window.allot(Share(0, None, float("inf")))
    assert window.limit == 1
    window.allot(Share(3, None, float("inf")))
    assert window.limit == 3


async def test_whoever_waits_is_told_when_the_share_cannot_be_renewed() -> None:
    window = Window()
    window.allot(Share(0, None, float("inf")))
    waiting = asyncio.create_task(window.acquire())
    await asyncio.sleep(0)
    window.refuse(Unavailable("away"))
    for request in (waiting, window.acquire()):
        with pytest.raises(Unavailable, match="away"):
            await request
    window.allot(Share(1, None, float("inf")))
    await window.acquire()
    assert window.in_flight == 1


async def test_a_rate_that_changes_counts_what_was_waited_for() -> None:
    now, sent = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 0.4 and window.share.rate == 1.0:
            window.allot(Share(8, 10.0, float("inf")))

    window = Window(clock=lambda: now, requests_per_second=1.0, sleep=sleep)
    window.share = Share(0, 0.0, float("-inf"))
    window.allot(Share(8, 1.0, float("inf")))
    for _ in range(3):
        async with window.slot():
            sent.append(now)
    # Half of the first second was waited for at one a second, and the other half goes ten times as fast.
    assert sent == pytest.approx([0.55, 0.65, 0.75], abs=0.006)
