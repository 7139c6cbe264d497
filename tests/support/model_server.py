"""A scriptable Open Inference Protocol server: in a thread for tests, or `python -m tests.support.model_server`.

It reads and writes the protocol with code of its own, so that a misreading of ours shows.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import threading
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import orjson

from tests.support.listening import stop_listening

Output = Literal["probabilities", "labels", "objects", "embedding"]

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}
WIDTHS = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4", "UINT8": "<u1"}


class Reply(NamedTuple):
    """A scripted answer to an infer request; `drop` closes the connection instead."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False


@dataclass
class Behaviour:
    """What the server is and does; tests change it while it runs."""

    model: str = "model"
    output: Output = "probabilities"
    #: `BYTES` for images and texts, else the datatype of the input tensor.
    datatype: str = "BYTES"
    #: The shape that the metadata gives for the input.
    shape: list[int] = field(default_factory=lambda: [-1])
    classes: int = 10
    #: Whether the binary tensor extension is announced and used.
    binary: bool = False
    #: Whether model metadata exists, and whether the server says that it is ready.
    metadata: bool = True
    ready: bool = True
    #: Seconds until an answer.
    delay: float = 0.0
    #: A batch with an item that contains this is answered with `poison_status`.
    poison: bytes = b""
    poison_status: int = 400
    #: More requests than this in flight are answered with 429.
    capacity: int | None = None
    #: Answers that go before any other, in order.
    script: deque[Reply] = field(default_factory=deque)


@dataclass
class Seen:
    """What the server was asked."""

    requests: int = 0
    batches: list[list[bytes]] = field(default_factory=list)
    answered: Counter[bytes] = field(default_factory=Counter)
    in_flight: int = 0
    peak: int = 0
    paths: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def label_index(item: bytes, classes: int) -> int:
    """The class that the model sees in an item: any function of the bytes will do."""
    return zlib.crc32(item) % classes


class ModelServer:
    """Serves in a thread while the block runs: `with ModelServer(poison=b"bad") as server:`."""

    def __init__(self, *, record: bool = True, port: int = 0, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.seen = Seen()
        self.record = record
        self.port = port
        self.loop = asyncio.new_event_loop()
        self.open: set[asyncio.Transport] = set()
        self.listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.listen(), self.loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def listen(self) -> None:
        """Take a free port, or the one that was given."""
        self.listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), "127.0.0.1", self.port
        )
        self.port = self.listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop to listen, and drop every connection."""
        if self.listening:
            await stop_listening(self.listening)
        for transport in list(self.open):
            transport.abort()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """The answer to one request."""
        if self.record:
            self.seen.paths.append(path)
        if path.endswith("/infer"):
            return self.infer(path, headers, body)
        if path == "/v2":
            return json_reply({"name": "test", "extensions": ["binary_tensor_data"] if self.behaviour.binary else []})
        if path.startswith("/v2/health/"):
            return Reply(200 if self.behaviour.ready else 503, b"")
        if path.startswith("/v2/models/") and self.behaviour.metadata and self.knows(path):
            return json_reply(self.metadata())
        return json_reply({"error": "not found"}, 404)

    def knows(self, path: str) -> bool:
        """Whether `path` names the model that is served."""
        return path.split("/")[3] == self.behaviour.model

    def metadata(self) -> dict[str, Any]:
        """The model's metadata."""
        kind = {"probabilities": "FP32", "embedding": "FP32"}.get(self.behaviour.output, "BYTES")
        return {
            "name": self.behaviour.model,
            "inputs": [{"name": "input", "datatype": self.behaviour.datatype, "shape": self.behaviour.shape}],
            "outputs": [{"name": "output", "datatype": kind, "shape": [-1, -1]}],
        }

    def infer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Answer an infer request: by script, by overload, by poison, or by the model."""
        self.seen.requests += 1
        if self.behaviour.script:
            return self.behaviour.script.popleft()
        if self.behaviour.capacity is not None and self.seen.in_flight > self.behaviour.capacity:
            return json_reply({"error": "too many requests"}, 429, ("Retry-After", "0"))
        if not self.knows(path):
            return json_reply({"error": "unknown model"}, 404)
        document, items = read_request(headers, body)
        if self.record:
            self.seen.headers, self.seen.parameters = headers, document.get("parameters", {})
            self.seen.batches.append(items)
        if self.behaviour.poison and any(self.behaviour.poison in item for item in items):
            return json_reply({"error": "an item cannot be read"}, self.behaviour.poison_status)
        if self.record:
            self.seen.answered.update(items)
        wants_binary = document.get("parameters", {}).get("binary_data_output") is True
        return write_response(self.behaviour, items, binary=wants_binary)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept alive."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (request := self.take_request()) is not None:
            self.handle(*request)

    def take_request(self) -> tuple[str, dict[str, str], bytes] | None:
        """The next whole request of the buffer."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        stop = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < stop:
            return None
        body = bytes(self.buffer[end + 4 : stop])
        del self.buffer[:stop]
        return first.split(" ")[1], headers, body

    def handle(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Answer now, or after the delay."""
        seen = self.server.seen
        inferring = path.endswith("/infer")
        if inferring:
            seen.in_flight += 1
            seen.peak = max(seen.peak, seen.in_flight)
        reply = self.server.answer(path, headers, body)
        if inferring and self.server.behaviour.delay:
            self.server.loop.call_later(self.server.behaviour.delay, self.write, reply, inferring)
        else:
            self.write(reply, inferring)

    def write(self, reply: Reply, inferring: bool) -> None:
        """Send the answer."""
        if inferring:
            self.server.seen.in_flight -= 1
        if reply.drop:
            self.transport.abort()
            return
        lines = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Status')}", f"Content-Length: {len(reply.body)}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + reply.body)


def json_reply(document: Any, status: int = 200, *headers: tuple[str, str]) -> Reply:
    """A reply of JSON."""
    return Reply(status, orjson.dumps(document), headers)


def read_request(headers: dict[str, str], body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The JSON part of an infer request, and the bytes of each item."""
    length = int(headers.get("inference-header-content-length", len(body)))
    document = orjson.loads(body[:length])
    tensor = document["inputs"][0]
    count = tensor["shape"][0]
    if "binary_data_size" in tensor.get("parameters", {}):
        raw = body[length : length + tensor["parameters"]["binary_data_size"]]
        if tensor["datatype"] == "BYTES":
            return document, split_bytes(raw)
        width = len(raw) // count
        return document, [raw[at : at + width] for at in range(0, len(raw), width)]
    if tensor["datatype"] == "BYTES":
        return document, [element.encode() for element in tensor["data"]]
    rows = np.array(tensor["data"], dtype=WIDTHS[tensor["datatype"]]).reshape(count, -1)
    return document, [row.tobytes() for row in rows]


def split_bytes(raw: bytes) -> list[bytes]:
    """BYTES elements from their binary form."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def write_response(behaviour: Behaviour, items: Sequence[bytes], *, binary: bool) -> Reply:
    """What the model answers for `items`."""
    datatype, shape, data = model_answer(behaviour, items)
    output: dict[str, Any] = {"name": "output", "datatype": datatype, "shape": shape}
    document = {"model_name": behaviour.model, "outputs": [output]}
    if not binary:
        output["data"] = data
        return Reply(200, orjson.dumps(document))
    raw = (
        b"".join(struct.pack("<I", len(text)) + text.encode() for text in data)
        if datatype == "BYTES"
        else np.array(data, dtype=WIDTHS[datatype]).tobytes()
    )
    output["parameters"] = {"binary_data_size": len(raw)}
    header = orjson.dumps(document)
    return Reply(200, header + raw, (("Inference-Header-Content-Length", str(len(header))),))


def model_answer(behaviour: Behaviour, items: Sequence[bytes]) -> tuple[str, list[int], list[Any]]:
    """Datatype, shape and flat data of the model's output."""
    indexes = [label_index(item, behaviour.classes) for item in items]
    if behaviour.output == "labels":
        return "BYTES", [len(items)], [f"class-{index}" for index in indexes]
    if behaviour.output == "objects":
        box = {"score": 0.5, "xmin": 1.0, "ymin": 2.0, "xmax": 30.0, "ymax": 40.0}
        return "BYTES", [len(items)], [orjson.dumps([{"label": f"class-{i}", **box}]).decode() for i in indexes]
    rest = 0.1 / max(behaviour.classes - 1, 1)
    rows = [0.9 if index == column else rest for index in indexes for column in range(behaviour.classes)]
    return "FP32", [len(items), behaviour.classes], rows


async def serve_forever(server: ModelServer) -> None:
    """Serve until the process is ended, and say on which port."""
    server.loop = asyncio.get_running_loop()
    await server.listen()
    print(server.port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run as a process; the first line of output is the port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--output", choices=get_args(Output), default="probabilities")
    parser.add_argument("--datatype", default="BYTES", help="of the input tensor")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--binary", action="store_true", help="offer the binary tensor extension")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--poison", type=str.encode, default=b"", help="refuse batches with an item that contains this")
    parser.add_argument("--poison-status", type=int, default=400)
    parser.add_argument("--capacity", type=int, help="answer 429 above this many in flight")
    server = ModelServer(record=False, **vars(parser.parse_args()))
    asyncio.run(serve_forever(server))


if __name__ == "__main__":
    main()
