"""One batch to its end: retried while that may help, halved while it fails, until every item has an outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeAlias

from workers.inference.failures import (
    FailureClass,
    InferenceFailure,
    ItemRefused,
    Overloaded,
    Transient,
    Unreachable,
)

#: The status of a batch that is too large although its items may be sound.
TOO_LARGE = 413

Sleep = Callable[[float], Awaitable[None]]


class Item(NamedTuple):
    """A datum of a batch, with its bytes."""

    ordinal: int
    datum_id: str
    sha256: str
    storage_key: str
    data: bytes


class Stored(NamedTuple):
    """An item's inference as it is to be stored: JSON text and its version."""

    item: Item
    data: str
    version: str


class Failed(NamedTuple):
    """An item that cannot be inferred; `attempts` counts the tries that had it in their batch."""

    item: Item
    failure_class: FailureClass
    status: int | None
    message: str
    attempts: int


Outcome: TypeAlias = Stored | Failed


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a batch is tried, and how long to wait in between, in seconds."""

    tries: int = 4
    #: Tries of a part of a batch that has already used up its own.
    part_tries: int = 2
    base: float = 0.1
    cap: float = 5.0

    def delay(self, tries: int, failure: InferenceFailure) -> float:
        """The wait after the `tries`-th try: a random part of a doubling span, on top of what the server asks for."""
        asked = failure.retry_after if isinstance(failure, Overloaded) else None
        return (asked or 0.0) + random.uniform(0, min(self.cap, self.base * 2 ** (tries - 1)))


DEFAULT_POLICY = RetryPolicy()


class Infers(Protocol):
    """What is needed of a client."""

    version: str

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
        Unreachable: the server does not answer or is not ready; no item is to blame, the batch may come again.
        EndpointRefused: no batch will ever succeed here.
    """
    outcomes = await Batch(client, policy, gate or Open(), sleep).settle(items, policy.tries, 0)
    return sorted(outcomes, key=lambda outcome: outcome.item.ordinal)


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
        answer = await self.attempt([item.data for item in items], tries)
        if not isinstance(answer, Stuck):
            return [Stored(item, text, self.client.version) for item, text in zip(items, answer, strict=True)]
        failure, attempts = answer.failure, before + answer.tries
        if isinstance(failure, ItemRefused) and failure.culprits:
            return await self.set_aside(items, failure, tries, attempts)
        if len(items) == 1:
            return [failed(items[0], failure, attempts)]
        tries = tries if isinstance(failure, ItemRefused) else self.policy.part_tries
        return await self.halve(items, failure, tries, attempts)

    async def attempt(self, datums: Sequence[bytes], tries: int) -> list[str] | Stuck:
        """Try up to `tries` times; stuck is what then still fails on a server that is ready."""
        for made in count(1):
            try:
                async with self.gate.slot():
                    return await self.client.infer(datums)
            except ItemRefused as failure:
                return Stuck(failure, made)
            except (Transient, Overloaded, Unreachable) as failure:
                if made >= tries:
                    return await self.given_up(failure, made)
                delay = self.policy.delay(made, failure)
            await self.sleep(delay)
        raise AssertionError("unreachable: counting does not end")

    async def given_up(self, failure: InferenceFailure, made: int) -> Stuck:
        """Tell a server that is down from a batch that it cannot bear."""
        # A server that keeps saying that it is busy says nothing about the items.
        if isinstance(failure, Unreachable | Overloaded) or not await self.client.ready():
            raise Unreachable(failure.message, status=failure.status) from failure
        return Stuck(failure, made)

    async def set_aside(self, items: Sequence[Item], failure: ItemRefused, tries: int, attempts: int) -> list[Outcome]:
        """Fail the items that are known to be at fault, and settle the others together."""
        blamed = [failed(item, failure, attempts) for at, item in enumerate(items) if at in failure.culprits]
        others = [item for at, item in enumerate(items) if at not in failure.culprits]
        return [*blamed, *(await self.settle(others, tries, attempts) if others else [])]

    async def halve(self, items: Sequence[Item], failure: InferenceFailure, tries: int, attempts: int) -> list[Outcome]:
        """Settle both halves of a batch that failed as a whole."""
        middle = len(items) // 2
        left, rest = await self.settle(items[:middle], tries, attempts), items[middle:]
        if len(rest) > 1 and blames_an_item(failure) and all(isinstance(outcome, Stored) for outcome in left):
            # The poison is in the rest for certain: asking for it as a whole would tell nothing new.
            return left + await self.halve(rest, failure, tries, attempts)
        return left + await self.settle(rest, tries, attempts)


def blames_an_item(failure: InferenceFailure) -> bool:
    """Whether the failure must come from an item in the batch, and not from the size of the batch or from chance."""
    return isinstance(failure, ItemRefused) and failure.status != TOO_LARGE


def failed(item: Item, failure: InferenceFailure, attempts: int) -> Failed:
    """The outcome of an item that `failure` is about."""
    return Failed(item, failure.failure_class, failure.status, failure.message, attempts)
