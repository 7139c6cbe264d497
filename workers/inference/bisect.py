"""One batch to its end: retried while that may help, halved while it fails, until every item has an outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeAlias

from orchestrator.bulk_inference.record import FailedResult, StoredResult
from workers.inference.failures import (
    BadAnswer,
    Busy,
    InferenceFailure,
    ItemRefused,
    Overloaded,
    Transient,
    Unreachable,
)
from workers.inference.reputation import Reputation

#: The status of a batch that is too large although its items may be sound.
TOO_LARGE = 413

#: Requests that time out, with none that succeeds among them, after which a server is given up.
HUNG = 8

Sleep = Callable[[float], Awaitable[None]]


class Item(NamedTuple):
    """A datum of a batch, with its bytes."""

    ordinal: int
    datum_id: str
    sha256: str
    storage_key: str
    data: bytes


#: What becomes of an item, without its bytes: thousands of outcomes may wait for a flush.
Outcome: TypeAlias = StoredResult | FailedResult


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a batch is tried, and how long to wait in between, in seconds."""

    tries: int = 4
    #: Tries of a part of a batch that has already used up its own.
    part_tries: int = 2
    base: float = 0.1
    cap: float = 5.0
    #: Whether items are blamed that fail where nothing has succeeded yet. Else it is the server's fault, which passes.
    blames_without_proof: bool = False

    def delay(self, tries: int, failure: InferenceFailure) -> float:
        """The wait after the `tries`-th try: a random part of a doubling span, on top of what the server asks for."""
        asked = failure.retry_after if isinstance(failure, Overloaded) else None
        return (asked or 0.0) + random.uniform(0, min(self.cap, self.base * 2 ** (tries - 1)))


DEFAULT_POLICY = RetryPolicy()


class Infers(Protocol):
    """What is needed of a client."""

    version: str
    reputation: Reputation

    async def infer(self, datums: Sequence[bytes]) -> list[str]:
        """One JSON text a datum, or an `InferenceFailure`."""

    async def ready(self) -> bool:
        """Whether the server is ready for requests."""


class Gate(Protocol):
    """What limits the requests in flight, such as `congestion.Window`."""

    def slot(self) -> AbstractAsyncContextManager[Any]:
        """A place for one request; it is told how the request ended by what leaves the block."""


class Open:
    """A gate without a limit."""

    def slot(self) -> AbstractAsyncContextManager[Any]:
        """A place at once."""
        return nullcontext()


async def infer_batch(
    client: Infers,
    items: Sequence[Item],
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    gate: Gate | None = None,
    sleep: Sleep = asyncio.sleep,
) -> list[Outcome]:
    """Infer `items`, and find the ones that cannot be: an outcome for each, by ordinal.

    Raises:
        Unreachable: the server does not answer, is not ready, or answers nothing that it should; no item is to
            blame, the batch may come again.
        EndpointRefused: no batch will ever succeed here.
    """
    outcomes = await Batch(client, policy, gate or Open(), sleep).settle(items, policy.tries, 0)
    return sorted(outcomes, key=attrgetter("ordinal")) if len(outcomes) > 1 else outcomes


class Stuck(NamedTuple):
    """Why a batch failed, and after how many tries."""

    failure: InferenceFailure
    tries: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What stays the same while a batch is retried and halved."""

    client: Infers
    policy: RetryPolicy
    gate: Gate
    sleep: Sleep

    async def settle(self, items: Sequence[Item], tries: int, before: int) -> list[Outcome]:
        """Outcomes for `items`, which were part of `before` tries that failed."""
        answer = await self.attempt(items, tries)
        if not isinstance(answer, Stuck):
            version = self.client.version
            return [
                StoredResult(ordinal, datum_id, sha256, storage_key, text, version)
                for (ordinal, datum_id, sha256, storage_key, _), text in zip(items, answer, strict=True)
            ]
        failure, attempts = answer.failure, before + answer.tries
        if isinstance(failure, ItemRefused) and failure.culprits and is_certain(answer, self.client.reputation):
            return await self.set_aside(items, failure, tries, attempts)
        if len(items) == 1:
            return [failed(items[0], failure, attempts)]
        tries = self.policy.part_tries if may_pass(failure) else tries
        return await self.halve(items, failure, tries, attempts)

    async def attempt(self, items: Sequence[Item], tries: int) -> list[str] | Stuck:
        """Try up to `tries` times; stuck is what then still fails on a server that does serve."""
        datums = [item.data for item in items]
        failures: list[InferenceFailure] = []
        for made in count(1):
            try:
                answers = await self.ask(datums)
            except (BadAnswer, Transient, Overloaded, Unreachable) as failure:
                if verdict := self.client.reputation.verdict:
                    raise Unreachable(verdict.message, status=verdict.status) from failure
                failures.append(failure)
                if self.is_enough(failures, tries, len(items)):
                    return await self.given_up(items, failure, made, is_part=tries < self.policy.tries)
                delay = self.policy.delay(made, failure)
            except ItemRefused as failure:
                return Stuck(failure, made)
            else:
                self.client.reputation.succeeded(datums[0], made)
                return answers
            await self.sleep(delay)
        raise AssertionError("unreachable: counting does not end")

    async def ask(self, datums: Sequence[bytes]) -> list[str]:
        """Send a request when its turn comes, unless the server was given up meanwhile."""
        reputation = self.client.reputation
        async with self.gate.slot():
            if reputation.verdict is not None:
                raise reputation.verdict
            try:
                return await self.client.infer(datums)
            except Transient as failure:
                reputation.hung += failure.timed_out
                if reputation.hung >= HUNG:
                    reputation.verdict = Unreachable(f"{failure.message}; so did the {HUNG - 1} requests before")
                raise

    def is_enough(self, failures: Sequence[InferenceFailure], tries: int, size: int) -> bool:
        """Whether the last of these failures counts: for an item alone, once they cannot be chance."""
        last = failures[-1]
        if isinstance(last, Overloaded | Unreachable):
            return sum(isinstance(failure, type(last)) for failure in failures) >= self.policy.tries
        sure = self.client.reputation.tries
        # Of a batch, enough to begin a search that chance would make in vain.
        enough = max(tries, sure if size == 1 else (sure + 1) // 2)
        if isinstance(last, BadAnswer):
            enough = min(enough, sure)
        # Each timeout takes its time.
        most_timeouts = self.policy.tries if size == 1 else max(1, enough // 2)
        about_items = sum(not isinstance(failure, Overloaded | Unreachable) for failure in failures)
        return about_items >= enough or sum(map(is_timeout, failures)) >= most_timeouts

    async def given_up(self, items: Sequence[Item], failure: InferenceFailure, made: int, *, is_part: bool) -> Stuck:
        """Tell a server that is down from a batch that it cannot bear."""
        # A server that keeps saying that it is busy says nothing about the items.
        if isinstance(failure, Overloaded):
            raise Busy(failure.message, status=failure.status) from failure
        if isinstance(failure, Unreachable) or not await self.client.ready():
            raise Unreachable(failure.message, status=failure.status) from failure
        # Parts of a batch are only on the way to an item.
        if not (is_part and len(items) > 1) and not await self.serves(items, failure):
            verdict = Unreachable(f"{failure.message}; nothing else is served either", status=failure.status)
            self.client.reputation.verdict = verdict
            raise verdict from failure
        return Stuck(failure, made)

    async def serves(self, items: Sequence[Item], failure: InferenceFailure) -> bool:
        """Whether the server infers anything at all: what it did before, or else an end of the batch."""
        if isinstance(failure, BadAnswer) and 0 < len(failure.culprits) < len(items):
            return True  # the answer makes sense, except for those
        good = self.client.reputation.known_good
        if good is None and self.policy.blames_without_proof and not is_timeout(failure):
            return True
        ends = [items[0].data, items[-1].data] if len(items) > 1 else []
        for data in ends if good is None else [good]:
            if await self.infers(data):
                return True
        return False

    async def infers(self, data: bytes) -> bool:
        """Whether the server infers this item, or says what is wrong with it."""
        for made in count(1):
            try:
                await self.ask([data])
            except (BadAnswer, Transient, Overloaded, Unreachable) as failure:
                if made >= self.policy.tries or is_timeout(failure):
                    return False
                delay = self.policy.delay(made, failure)
            except ItemRefused:
                return True
            else:
                self.client.reputation.succeeded(data, made)
                return True
            await self.sleep(delay)
        raise AssertionError("unreachable: counting does not end")

    async def set_aside(self, items: Sequence[Item], failure: ItemRefused, tries: int, attempts: int) -> list[Outcome]:
        """Fail the items that are known to be at fault, and settle the others together."""
        blamed = [failed(item, failure, attempts) for at, item in enumerate(items) if at in failure.culprits]
        others = [item for at, item in enumerate(items) if at not in failure.culprits]
        return [*blamed, *(await self.settle(others, tries, attempts) if others else [])]

    async def halve(self, items: Sequence[Item], failure: InferenceFailure, tries: int, attempts: int) -> list[Outcome]:
        """Settle both halves of a batch that failed as a whole."""
        middle = len(items) // 2
        left, rest = await self.settle(items[:middle], tries, attempts), items[middle:]
        if len(rest) > 1 and blames_an_item(failure) and all(isinstance(outcome, StoredResult) for outcome in left):
            # The poison is in the rest for certain: asking for it as a whole would tell nothing new.
            return left + await self.halve(rest, failure, tries, attempts)
        return left + await self.settle(rest, tries, attempts)


def may_pass(failure: InferenceFailure) -> bool:
    """Whether the same request may succeed another time."""
    return isinstance(failure, BadAnswer) or not isinstance(failure, ItemRefused)


def is_timeout(failure: InferenceFailure) -> bool:
    """Whether it took the whole of the endpoint's time to fail."""
    return isinstance(failure, Transient) and failure.timed_out


def is_certain(stuck: Stuck, reputation: Reputation) -> bool:
    """Whether the culprits that an answer shows are at fault, and not the answer."""
    return not isinstance(stuck.failure, BadAnswer) or stuck.tries >= reputation.tries


def blames_an_item(failure: InferenceFailure) -> bool:
    """Whether the failure must come from an item in the batch, and not from the size of the batch or from chance."""
    return isinstance(failure, ItemRefused) and failure.status != TOO_LARGE


def failed(item: Item, failure: InferenceFailure, attempts: int) -> FailedResult:
    """The outcome of an item that `failure` is about; `attempts` counts the tries that had it in their batch."""
    return FailedResult(item.ordinal, item.datum_id, failure.failure_class, failure.status, failure.message, attempts)
