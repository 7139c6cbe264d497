"""A model server that costs as little as one in Python can: it counts the items and sends a prepared answer."""

from __future__ import annotations

import argparse
import asyncio
import re
from functools import lru_cache

import orjson

LABELS = [str(digit) for digit in range(10)]
METADATA = {
    "name": "model",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(LABELS)]}],
}
SHAPE = re.compile(rb'"shape":\[(\d+)')
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@lru_cache(maxsize=256)
def answer(items: int) -> bytes:
    """The whole response for a batch of `items`."""
    data = [0.91] + [0.01] * (len(LABELS) - 1)
    output = {"name": "probabilities", "datatype": "FP32", "shape": [items, len(LABELS)], "data": data * items}
    return response(200, orjson.dumps({"model_name": "model", "outputs": [output]}))


def response(status: int, body: bytes) -> bytes:
    """An HTTP/1.1 response."""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Server:
    """What the connections share: how long an answer takes, and how many may be in flight."""

    def __init__(self, delay: float, capacity: int | None) -> None:
        self.delay = delay
        self.capacity = capacity
        self.in_flight = 0
        self.refused = 0
        self.served = 0


class Connection(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        while end >= 0:
            length = LENGTH.search(self.buffer, 0, end)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < stop:
                return
            head, body, self.buffer = self.buffer[:end], self.buffer[end + 4 : stop], self.buffer[stop:]
            self.respond(head, body)
            end = self.buffer.find(b"\r\n\r\n")

    def respond(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/infer"):
            self.infer(body)
        elif path == b"/counts":
            counts = {"served": self.server.served, "refused": self.server.refused}
            self.transport.write(response(200, orjson.dumps(counts)))
        elif path == b"/v2/models/model":
            self.transport.write(response(200, orjson.dumps(METADATA)))
        else:
            self.transport.write(response(200, b"{}"))

    def infer(self, body: bytes) -> None:
        server = self.server
        if server.capacity is not None and server.in_flight >= server.capacity:
            server.refused += 1
            self.transport.write(response(503, b'{"error":"busy"}'))
            return
        found = SHAPE.search(body)
        assert found is not None, "every request says how many items it holds"
        server.served += 1
        reply = answer(int(found[1]))
        if not server.delay:
            self.transport.write(reply)
            return
        server.in_flight += 1
        asyncio.get_running_loop().call_later(server.delay, self.finish, reply)

    def finish(self, reply: bytes) -> None:
        self.server.in_flight -= 1
        self.transport.write(reply)


async def serve(delay: float, capacity: int | None) -> None:
    """Serve on a free port, which is printed, until the process is ended."""
    server = Server(delay, capacity)
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=512)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run as a process: `python -m benchmarks.instant_server`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--capacity", type=int, help="answer 503 above this many in flight")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.delay, arguments.capacity))


if __name__ == "__main__":
    main()
