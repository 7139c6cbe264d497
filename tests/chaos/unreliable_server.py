"""A model server of which three requests in ten go wrong, in one of fourteen ways, dealt out by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from tests.support.model_server import Connection, ModelServer, Reply

#: Of so many requests, so many go wrong: never more, so that what they cost can be counted.
DECK, FAULTY = 10, 3
#: Seconds that the client waits for an answer; what comes late comes after it.
TIMEOUT = 1.0
HTML = b"<html><body>Please log in to continue</body></html>"


class UnreliableServer(ModelServer):
    """Deals out faults while `share_faults` is on; `dealt` counts them by kind."""

    def __init__(self, seed: int, **behaviour: Any) -> None:
        super().__init__(record=False, **behaviour)
        self.chance = random.Random(seed)
        self.is_faulty = True
        self.deck: list[bool] = []
        self.kinds: list[str] = []
        self.dealt: Counter[str] = Counter()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self.listening = await loop.create_server(lambda: UnreliableConnection(self), "127.0.0.1", self.port)
        self.port = self.listening.sockets[0].getsockname()[1]

    def deal(self) -> str | None:
        """How the next request goes wrong, if it does: each kind before any comes again."""
        if not self.deck:
            self.deck = [True] * FAULTY + [False] * (DECK - FAULTY)
            self.chance.shuffle(self.deck)
        if not self.deck.pop() or not self.is_faulty:
            return None
        if not self.kinds:
            self.kinds = [*FAULTS]
            self.chance.shuffle(self.kinds)
        kind = self.kinds.pop()
        self.dealt[kind] += 1
        return kind


class UnreliableConnection(Connection):
    """Writes what was dealt in the place of an answer."""

    server: UnreliableServer

    def write(self, reply: Reply, inferring: bool) -> None:
        kind = self.server.deal() if inferring else None
        if kind is None:
            super().write(reply, inferring)
            return
        self.server.seen.in_flight -= 1
        FAULTS[kind](self, reply)

    def refuse(self, status: int, *headers: tuple[str, str]) -> None:
        """An error, as a server or a gateway before it would word it."""
        super().write(Reply(status, b'{"error":"not now"}', headers), inferring=False)

    def part(self, reply: Reply) -> None:
        """The head of an answer, and half of its body."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply.body)}\r\n\r\n"
        self.transport.write(head.encode() + reply.body[: len(reply.body) // 2])

    def part_and_reset(self, reply: Reply) -> None:
        self.part(reply)
        self.server.loop.call_later(0.02, self.transport.abort)

    def part_and_close(self, reply: Reply) -> None:
        self.part(reply)
        self.transport.close()

    def wrong_length(self, reply: Reply) -> None:
        """A length that is too short: the rest of the body runs into the next answer."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply.body) - 7}\r\n\r\n"
        self.transport.write(head.encode() + reply.body)

    def rubbish(self, body: bytes) -> None:
        """Something else under a 200."""
        super().write(Reply(200, body), inferring=False)

    def altered(self, reply: Reply, change: Callable[[dict[str, Any]], None]) -> None:
        """An answer of the wrong shape."""
        document = orjson.loads(reply.body)
        change(document["outputs"][0])
        self.rubbish(orjson.dumps(document))

    def late(self, reply: Reply) -> None:
        """The right answer, when nobody waits for it any more."""
        self.server.loop.call_later(2 * TIMEOUT, self.write_late, reply)

    def write_late(self, reply: Reply) -> None:
        if not self.transport.is_closing():
            super().write(reply, inferring=False)

    def hang(self) -> None:
        """Nothing, for good."""


def too_few(output: dict[str, Any]) -> None:
    """One row less than there are datums."""
    rows, width = output["shape"]
    output["shape"], output["data"] = [rows - 1, width], output["data"][:-width]


def not_a_number(output: dict[str, Any]) -> None:
    """A row that holds what JSON writes where Python has NaN."""
    output["data"][0] = None


def misnamed(output: dict[str, Any]) -> None:
    """The output of another model."""
    output["name"] = "somebody else's"


FAULTS: dict[str, Callable[[UnreliableConnection, Reply], None]] = {
    "429 with Retry-After": lambda link, _: link.refuse(429, ("Retry-After", "1")),
    "429 without": lambda link, _: link.refuse(429),
    "503": lambda link, _: link.refuse(503),
    "500": lambda link, _: link.refuse(500),
    "502 with HTML": lambda link, _: Connection.write(link, Reply(502, HTML), False),
    "504": lambda link, _: link.refuse(504),
    "reset before the body": lambda link, _: link.transport.abort(),
    "reset in the body": UnreliableConnection.part_and_reset,
    "truncated body": UnreliableConnection.part_and_close,
    "wrong length": UnreliableConnection.wrong_length,
    "200 with HTML": lambda link, _: link.rubbish(HTML),
    "too few rows": lambda link, reply: link.altered(reply, too_few),
    "not a number": lambda link, reply: link.altered(reply, not_a_number),
    "wrong name": lambda link, reply: link.altered(reply, misnamed),
    "late": UnreliableConnection.late,
    "hangs": lambda link, _: link.hang(),
}
