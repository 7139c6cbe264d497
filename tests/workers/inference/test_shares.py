"""Shares of a limit never add up to more than the limit, whoever crashes, freezes or forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import fakeredis
import pytest
import time_machine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workers.inference.shares import CARE, LASTS, MARGIN, RENEWAL, SLICE, UNLIMITED, Demand, Grant, Shares

START = 1_900_000_000


class Redis:
    """A Redis whose clock stands still unless told otherwise, asked without a loop."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeAsyncRedis()
        self.shares = Shares(self.redis)
        self.runner = asyncio.Runner()
        self.traveller = time_machine.travel(START, tick=False)
        self.clock = self.traveller.start()
        #: Seconds that have passed for everyone, whatever Redis's clock says.
        self.now = 0.0
        self.places("nobody", 1, 0, 0)
        self.wait(CARE)

    def keys(self) -> list[bytes | str]:
        async def found() -> list[bytes | str]:
            return await self.redis.keys()

        return self.runner.run(found())

    def delete(self, *keys: bytes | str) -> None:
        async def deleted() -> None:
            await self.redis.delete(*keys)

        self.runner.run(deleted())

    def close(self) -> None:
        self.runner.run(self.redis.aclose())
        self.runner.close()
        self.traveller.stop()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.clock.shift(seconds)

    def places(
        self,
        member: str,
        call: int,
        limit: int,
        wanted: int,
        in_use: int = 0,
        granted: int = 0,
        *,
        model: str = "model",
    ) -> int | None:
        answer = self.ask(member, call, Demand(limit, wanted, in_use, granted), UNLIMITED, model)
        return None if answer is None else answer.places

    def ask(self, member: str, call: int, places: Demand, rate: Demand, model: str = "model") -> Grant | None:
        return self.runner.run(self.shares.ask(model, member, call, places, rate))


@pytest.fixture
def redis() -> Iterator[Redis]:
    redis = Redis()
    yield redis
    redis.close()


def test_who_is_alone_gets_all_he_wants(redis: Redis) -> None:
    assert redis.places("a", 1, 10, 4) == 4
    assert redis.places("a", 2, 10, 40, 4, 4) == 10


def test_who_comes_later_waits_until_the_others_have_shrunk(redis: Redis) -> None:
    assert redis.places("a", 1, 10, 10) == 10
    assert redis.places("b", 1, 10, 10) == 0
    assert redis.places("a", 2, 10, 10, 10, 10) == 5
    assert redis.places("b", 2, 10, 10) == 0  # ten are still under way
    assert redis.places("a", 3, 10, 10, 7, 5) == 5
    assert redis.places("b", 3, 10, 10) == 3
    assert redis.places("a", 4, 10, 10, 5, 5) == 5
    assert redis.places("b", 4, 10, 10, 3, 3) == 5


def test_what_one_does_not_want_is_for_the_others(redis: Redis) -> None:
    assert redis.places("small", 1, 10, 2) == 2
    assert redis.places("large", 1, 10, 100) == 8


def test_whoever_leaves_gives_everything_back_at_once(redis: Redis) -> None:
    redis.places("a", 1, 10, 10)
    assert redis.places("a", 2, 10, 0) == 0
    assert redis.places("b", 1, 10, 10) == 10


def test_the_share_of_a_crashed_process_returns(redis: Redis) -> None:
    redis.places("crashed", 1, 10, 10)
    redis.wait(LASTS - 0.1)
    assert redis.places("b", 1, 10, 10) == 0
    redis.wait(0.2)
    assert redis.places("b", 2, 10, 10) == 10


def test_a_call_that_arrives_after_a_later_one_changes_nothing(redis: Redis) -> None:
    assert redis.places("a", 2, 10, 8) == 8
    assert redis.places("a", 1, 10, 1) is None
    assert redis.places("b", 1, 10, 10) == 2


def test_two_models_do_not_share(redis: Redis) -> None:
    assert redis.places("a", 1, 10, 10) == 10
    assert redis.places("b", 1, 10, 10, model="other") == 10


def test_one_place_goes_round(redis: Redis) -> None:
    members = ["a", "b", "c"]
    turns = dict.fromkeys(members, 0)
    granted = dict.fromkeys(members, 0)
    for call in range(1, 60):
        for member in members:
            granted[member] = redis.places(member, call, 1, 5, granted[member], granted[member]) or 0
            turns[member] += granted[member]
        assert sum(granted.values()) <= 1
        redis.wait(0.1)
    assert min(turns.values()) >= 12  # of 59


def test_a_small_want_is_not_starved_by_large_ones(redis: Redis) -> None:
    assert redis.places("large", 1, 1, 100) == 1
    assert redis.places("small", 1, 1, 1) == 0
    redis.wait(SLICE)
    assert redis.places("large", 2, 1, 100, 0, 1) == 0
    assert redis.places("small", 2, 1, 1) == 1


def test_a_rate_is_divided_and_never_exceeded(redis: Redis) -> None:
    whole = 1_000_000
    assert redis.ask("a", 1, UNLIMITED, Demand(whole, whole, 0, 0)) == Grant(0, whole)
    assert redis.ask("b", 1, UNLIMITED, Demand(whole, whole, 0, 0)) == Grant(0, 0)
    assert redis.ask("a", 2, UNLIMITED, Demand(whole, whole, 0, whole)) == Grant(0, whole // 2)
    assert redis.ask("b", 2, UNLIMITED, Demand(whole, whole, 0, 0)) == Grant(0, whole // 2)


def test_after_a_wipe_everyone_keeps_what_he_holds_and_nobody_gets_more(redis: Redis) -> None:
    assert redis.places("a", 1, 10, 6) == 6
    assert redis.places("b", 1, 10, 4) == 4
    redis.delete(*redis.keys())
    assert redis.places("new", 1, 10, 10) == 0
    assert redis.places("b", 2, 10, 10, 4, 4) == 4
    redis.wait(RENEWAL)
    assert redis.places("a", 2, 10, 6, 6, 6) == 3
    redis.wait(CARE)
    assert redis.places("a", 3, 10, 6, 3, 3) == 3
    assert redis.places("new", 2, 10, 10) == 3


def test_a_model_that_was_forgotten_alone_is_careful_too(redis: Redis) -> None:
    redis.places("a", 1, 10, 6)
    redis.places("b", 1, 10, 4)
    redis.delete("{orchestrator:shares}:model")
    assert redis.places("a", 2, 10, 10, 6, 6) == 6
    assert redis.places("b", 2, 10, 10, 4, 4) == 4


def test_a_clock_that_goes_back_keeps_no_dead_share_for_long(redis: Redis) -> None:
    redis.places("crashed", 1, 10, 10)
    redis.clock.shift(-3600)
    assert redis.places("b", 1, 10, 10) == 0
    redis.wait(LASTS + 0.1)
    assert redis.places("b", 2, 10, 10) == 10


def test_nothing_is_left_in_redis_when_all_have_gone(redis: Redis) -> None:
    redis.places("a", 1, 10, 10)
    redis.places("a", 2, 10, 0)
    assert redis.keys() == [b"{orchestrator:shares}"]


@dataclass
class Process:
    """What a process knows, and what it has under way."""

    call: int = 0
    granted: int = 0
    in_use: int = 0
    until: float = 0.0
    wanted: int = 0


class Machine(RuleBasedStateMachine):
    """Processes that come, send, freeze, crash and leave; each keeps the rules of `shares.Member`."""

    members = st.sampled_from(["a", "b", "c", "d"])

    @initialize(limit=st.integers(1, 9))
    def begin(self, limit: int) -> None:
        self.redis = Redis()
        self.limit = limit
        self.processes: dict[str, Process] = {}
        self.born = 0

    def find(self, name: str) -> tuple[str, Process]:
        for key, process in self.processes.items():
            if key.startswith(name):
                return key, process
        self.born += 1
        return f"{name}{self.born}", self.processes.setdefault(f"{name}{self.born}", Process())

    @rule(name=members, wanted=st.integers(0, 20), lost=st.booleans())
    def ask(self, name: str, wanted: int, lost: bool) -> None:
        key, process = self.find(name)
        if process.until <= self.redis.now:
            process.granted = 0
        process.call, process.wanted = process.call + 1, wanted
        answer = self.redis.places(key, process.call, self.limit, wanted, process.in_use, process.granted)
        assert answer is not None
        if lost:
            process.granted = min(process.granted, process.in_use)
            return
        process.granted, process.until = answer, self.redis.now + LASTS - MARGIN

    @rule(name=members, share=st.floats(0, 1))
    def send(self, name: str, share: float) -> None:
        """Use some of what may be used: an expired member cannot."""
        _, process = self.find(name)
        if process.until > self.redis.now:
            process.in_use = max(process.in_use, round(process.granted * share))

    @rule(name=members)
    def end(self, name: str) -> None:
        """Requests end."""
        self.find(name)[1].in_use //= 2

    @rule(name=members)
    def crash(self, name: str) -> None:
        """A new process comes in its place; what it held is nobody's until it has run out."""
        self.processes.pop(self.find(name)[0])

    @rule(seconds=st.sampled_from([0.1, RENEWAL, 2.0, LASTS]))
    def wait(self, seconds: float) -> None:
        self.redis.wait(seconds)
        if seconds >= LASTS:  # no request lasts that long
            for process in self.processes.values():
                process.in_use = 0

    @rule()
    def everyone_gets_a_turn(self) -> None:
        """While all ask often and requests are short, nobody who wants something waits for long."""
        self.redis.wait(LASTS)
        served = set()
        for process in self.processes.values():
            process.granted = process.in_use = 0
        for _ in range(40):
            for key, process in self.processes.items():
                process.call += 1
                answer = self.redis.places(key, process.call, self.limit, 3, process.in_use, process.granted)
                assert answer is not None
                process.granted = process.in_use = answer
                process.until = self.redis.now + LASTS - MARGIN
                served |= {key} if answer else set()
            self.redis.wait(0.1)
        assert served == set(self.processes)

    @invariant()
    def no_more_than_the_limit(self) -> None:
        live = [process for process in self.processes.values() if process.until > self.redis.now]
        assert sum(max(process.granted, process.in_use) for process in live) <= self.limit

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.redis.close()


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestShares = Machine.TestCase
