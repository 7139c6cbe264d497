"""A model's limits over all worker processes: each leases a share of them from Redis, and sends within it.

Nothing is asked of Redis for a request. A process asks about twice a second, for as much as it can use, and what it is
granted lasts `LASTS` seconds by its own clock. `shares.lua` divides the limit; `docs/decisions/0008` says why so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from contextlib import suppress
from importlib.resources import files
from typing import Final, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from orchestrator.errors import Unavailable
from orchestrator.registry.models import Endpoint
from workers.inference.congestion import Share, Window

log = structlog.get_logger(__name__)

#: Seconds that a grant lasts, and by how many less its holder believes it: clocks differ, and sending takes a moment.
LASTS: Final = 5.0
MARGIN: Final = 0.5
#: Seconds between two calls; and while a place is owed to others, awaited, or could be used at once.
RENEWAL: Final = 0.4
HURRY: Final = 0.1
#: Seconds that a place is kept while another process has none.
SLICE: Final = 0.5
#: Seconds after Redis was wiped in which nothing new is granted: in that time everyone says what he holds.
CARE: Final = 1.5
#: Seconds until Redis counts as away.
PATIENCE: Final = 2.0

#: Rates are whole millionths of a request a second, so that sums are exact.
MICRO: Final = 1_000_000
#: The part of a rate that even an idle member keeps, so that it can show that it needs more.
IDLE_PART: Final = 50

#: What a member may use before it was granted anything: nothing.
NOTHING: Final = Share(0, 0.0, float("-inf"))

SOURCE: Final = files(__package__).joinpath("shares.lua").read_text(encoding="utf-8")


class Demand(NamedTuple):
    """What is asked of one limit: the limit (0 for none), what is wanted, in use until the answer, and granted yet."""

    limit: int
    wanted: int
    in_use: int
    granted: int


UNLIMITED: Final = Demand(0, 0, 0, 0)


class Grant(NamedTuple):
    """Places in flight, and millionths of a request a second."""

    places: int
    rate: int


class Shares:
    """The shares that one Redis keeps, of any number of models."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.script = redis.register_script(SOURCE)

    @classmethod
    def at(cls, url: str) -> Shares:
        """Those of the Redis at `url`; nothing is connected yet."""
        once = Retry(NoBackoff(), 0)
        return cls(Redis.from_url(url, retry=once, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE))

    async def ask(self, model_id: str, member: str, call: int, places: Demand, rate: Demand) -> Grant | None:
        """Say what is needed and learn what is granted; None when a later call of the member came first.

        Whoever wants and uses nothing is a member no more.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        keys = [f"{{orchestrator:shares}}:{model_id}", "{orchestrator:shares}"]
        spans = [round(1000 * seconds) for seconds in (LASTS, SLICE, CARE)]
        async with asyncio.timeout(PATIENCE):
            granted = await self.script(keys=keys, args=[member, call, *spans, *places, *rate])
        return None if granted[0] < 0 else Grant(int(granted[0]), int(granted[1]))

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()


class Member:
    """One window's part in a model's limits: while it has joined, a task keeps the window's share up to date."""

    def __init__(self, shares: Shares, model_id: str, window: Window, limits: Endpoint) -> None:
        self.shares = shares
        self.model_id = model_id
        self.window = window
        self.places_limit = limits.max_concurrency or 0
        self.rate_limit = max(1, int(limits.requests_per_second * MICRO)) if limits.requests_per_second else 0
        #: Random, too: a process id comes again, on another host or after a restart.
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self.call = 0
        self.keeper: asyncio.Task[None] | None = None
        self.granted = Grant(0, 0)
        self.wanted = Grant(0, 0)
        self.asked_at = float("-inf")
        self.sent_before = 0
        #: Held during a call, which must not be cut off: it would arrive after a later one.
        self.asking = asyncio.Lock()
        self.lose()

    async def join(self) -> None:
        """Become one of those who share, if not one yet; the first grant may be nothing.

        Raises:
            Unavailable: Redis does not answer.
        """
        if self.keeper is None:
            self.window.refusal = None
            self.window.was_paced = True  # nobody knows yet how much is needed
            await self.renew()
            self.keeper = asyncio.get_running_loop().create_task(self.keep())

    async def leave(self) -> None:
        """Give everything back; where Redis is away, it comes back by itself after `LASTS`."""
        if self.keeper is None:
            return
        async with self.asking:
            self.keeper.cancel()
        with suppress(asyncio.CancelledError):
            await self.keeper
        self.keeper = None
        self.lose()
        in_use = self.window.in_flight if self.places_limit else 0
        with suppress(RedisError, OSError):
            await self.ask(Demand(self.places_limit, 0, in_use, 0), Demand(self.rate_limit, 0, 0, 0))

    async def keep(self) -> None:
        """Renew when it is time, until cancelled."""
        away = False
        this = asyncio.current_task()
        # Asked, too: below Python 3.12 `asyncio.wait_for`, by which the client sends, may swallow a cancellation.
        while this is not None and not this.cancelling():
            await asyncio.sleep(HURRY)
            if not self.is_due():
                continue
            try:
                await self.renew()
            except Unavailable as error:
                if not away:
                    log.warning("shares_away", model=self.model_id, error=error.body)
                away = True
                if self.has_lapsed():
                    self.lose()
                    self.window.refuse(error)
            else:
                away = False

    def is_due(self) -> bool:
        """Whether to ask again: after a while, or sooner where something would change at once."""
        if self.window.clock() - self.asked_at >= RENEWAL:
            return True
        if not self.places_limit:
            return self.granted.rate == 0
        owes = self.window.in_flight > self.granted.places
        could_use = self.granted.places < int(self.window.control.limit) and self.wanted.places < self.wants_places()
        return owes or could_use or self.granted.places == 0

    async def renew(self) -> None:
        """Ask once, and give the window what is granted.

        Raises:
            Unavailable: Redis does not answer; the window keeps what it has in use, until its grant has run out.
        """
        window, before = self.window, self.granted
        if self.has_lapsed():
            self.lose()
            before = Grant(0, 0)
        in_use = window.in_flight if self.places_limit else 0
        wanted = Grant(self.wants_places(), self.wants_rate())
        asked_at = window.clock()
        if self.places_limit:
            # Redis will count on this until it has answered, and for as long as nobody knows whether it has.
            window.share = window.share._replace(places=min(window.share.places, in_use))
        self.asked_at, self.wanted = asked_at, wanted
        self.sent_before, window.was_paced = window.sent, False
        try:
            granted = await self.ask(
                Demand(self.places_limit, wanted.places, in_use, before.places),
                Demand(self.rate_limit, wanted.rate, 0, before.rate),
            )
        except (RedisError, OSError) as error:
            self.granted = Grant(min(before.places, in_use), before.rate)
            raise Unavailable(f"the Redis that keeps the model's limits does not answer: {error}") from error
        if granted is not None:
            self.granted = granted
            window.allot(self.share(granted, asked_at + LASTS - MARGIN))

    async def ask(self, places: Demand, rate: Demand) -> Grant | None:
        """One call, numbered."""
        self.call += 1
        places = places if self.places_limit else UNLIMITED
        rate = rate if self.rate_limit else UNLIMITED
        async with self.asking:
            return await self.shares.ask(self.model_id, self.name, self.call, places, rate)

    def share(self, granted: Grant, until: float) -> Share:
        """What a grant means for the window."""
        places = granted.places if self.places_limit else self.window.control.ceiling
        return Share(places, granted.rate / MICRO if self.rate_limit else None, until)

    def has_lapsed(self) -> bool:
        """Whether the last grant has run out."""
        return self.window.clock() >= self.window.share.until

    def lose(self) -> None:
        """Nothing may be sent until something is granted."""
        self.granted = Grant(0, 0)
        self.window.share = NOTHING if self.rate_limit else NOTHING._replace(rate=None)

    def wants_places(self) -> int:
        """Twice what the server is known to bear: room to grow until the next call."""
        return min(self.places_limit, 2 * int(self.window.control.limit))

    def wants_rate(self) -> int:
        """All of it where requests have had to wait, else twice what was used."""
        if self.window.was_paced or self.asked_at == float("-inf"):
            return self.rate_limit
        used = (self.window.sent - self.sent_before) / max(self.window.clock() - self.asked_at, HURRY)
        return min(self.rate_limit, max(self.rate_limit // IDLE_PART, 1, round(2 * used * MICRO)))
