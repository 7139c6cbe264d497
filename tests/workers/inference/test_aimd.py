"""The arithmetic finds what a server bears, refuses little on the way, and follows when the server changes."""

from __future__ import annotations

import heapq
import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.simulated_server import Server, World, limits
from workers.inference.aimd import CEILING, START, Aimd


@pytest.fixture(autouse=True)
def _same_dice() -> None:
    """The waits between two tries are random; here each test has the same ones whenever it runs."""
    random.seed(0)


def simulate(control: Aimd, *, parallel: int, service: float, requests: int, reject_above: int | None = None) -> int:
    """Send `requests` as fast as `control` lets, to a server that works on `parallel` at a time; count rejections."""
    now, rejected, tie = 0.0, 0, count()
    slots = [0.0] * parallel  # when each of the server's places is free again
    flying: list[tuple[float, int, float, bool, int]] = []
    for _ in range(requests):
        while len(flying) < int(control.limit):
            refused = reject_above is not None and len(flying) >= reject_above
            done = now + 0.0001 if refused else max(slots[0], now) + service
            if not refused:
                heapq.heapreplace(slots, done)
            heapq.heappush(flying, (done, next(tie), now, refused, len(flying) + 1))
        now, _, sent_at, refused, with_it = heapq.heappop(flying)
        rejected += refused
        if refused:
            control.overloaded(now, sent_at, with_it)
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
            control.overloaded(now, now - latency, in_flight)
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


def test_a_refusal_says_exactly_how_much_was_too_much() -> None:
    control = Aimd(limit=100)
    for in_flight in (70, 80, 65, 90):
        control.overloaded(10.0, 9.0, in_flight)
    assert control.limit == 64


def test_many_timeouts_of_one_round_trip_shrink_the_limit_once() -> None:
    control = Aimd(limit=100)
    for _ in range(50):
        control.timed_out(10.0, 9.0)
    assert control.limit == pytest.approx(70)
    control.timed_out(12.0, 11.0)
    assert control.limit == pytest.approx(49)
    assert control.timeouts == 51


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    control = Aimd()
    for at in range(1000):
        control.succeeded(float(at), at - 0.01, in_flight=1)
    assert control.limit == START


@pytest.mark.parametrize("clients", [1, 2, 4])
@pytest.mark.parametrize("service, capacity, seconds", [(0.005, 64, 10), (0.02, 64, 60), (0.1, 16, 60)])
def test_a_server_that_refuses_is_kept_busy_and_refuses_little(
    clients: int, service: float, capacity: int, seconds: float
) -> None:
    rate, refused = World(Server(service, capacity=capacity), clients).run(seconds)
    assert rate >= 0.95 * capacity / service
    assert refused <= 0.02


@pytest.mark.parametrize("seed", range(5))
def test_two_processes_share_a_server_without_a_word(seed: int) -> None:
    world = World(Server(0.005, capacity=64), 2, seed=seed)
    rate, refused = world.run(10)
    assert rate >= 0.95 * 64 / 0.005
    assert refused <= 0.02
    assert min(client.served for client in world.clients) > 0.2 * world.server.served
    assert world.unreachable == 0


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_capacity_that_drops_and_returns_is_followed(clients: int) -> None:
    world = World(Server(0.02, capacity=64), clients)
    world.run(10)
    world.server.capacity = 8
    rate, refused = world.run(20)
    assert rate >= 0.95 * 8 / 0.02
    assert refused <= 0.02
    world.server.capacity = 64
    world.run(5)
    rate, refused = world.run(15)
    assert rate >= 0.95 * 64 / 0.02
    assert refused <= 0.02


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_a_server_that_asks_for_pauses_is_seldom_tried(clients: int) -> None:
    rate, refused = World(Server(0.05, capacity=64, retry_after=1.0), clients).run(120)
    assert rate >= 0.9 * 64 / 0.05  # a refusal costs a second of everything
    assert refused <= 0.005


def test_refusals_that_come_late_are_believed_at_once() -> None:
    world = World(Server(0.05, capacity=64, refusal=0.05), 2)
    rate, refused = world.run(60)
    assert rate >= 0.95 * 64 / 0.05
    assert refused <= 0.02
    world.server.capacity = 8
    world.run(1)
    assert sum(limits(world.clients)) <= 16


@pytest.mark.parametrize("clients", [1, 2])
def test_a_single_gpu_is_kept_busy_without_a_long_queue(clients: int) -> None:
    world = World(Server(0.05, parallel=8), clients)
    rate, _ = world.run(60)
    assert rate >= 0.95 * 8 / 0.05
    assert sum(limits(world.clients)) <= 128


def test_a_server_that_becomes_ten_times_slower_is_not_asked_for_more() -> None:
    world = World(Server(0.02, parallel=16), 1)
    world.run(20)
    before = world.clients[0].control.limit
    world.server.service = 0.2
    world.run(8)
    assert world.clients[0].control.limit <= before


def test_a_hang_does_not_keep_throughput_low_for_ever() -> None:
    world = World(Server(0.02, capacity=64), 1)
    world.run(10)
    control = world.clients[0].control
    for moment in range(10):  # as many rounds of timeouts
        control.timed_out(world.now + moment, world.now + moment - 0.5)
    assert control.limit < 4
    world.now += 10
    world.run(10)
    rate, _ = world.run(10)
    assert rate >= 0.95 * 64 / 0.02
