"""A TCP proxy that misbehaves on command: what a network does to a connection, done to one port.

Bytes that a black hole swallows are held back, and arrive when it heals: so does TCP, which sends
again what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from enum import Flag, auto
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.support.listening import stop_listening

T = TypeVar("T")

#: Bytes that are forwarded at a time.
CHUNK = 65_536
#: Close at once, with a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


class Direction(Flag):
    """Which way bytes flow."""

    TO_SERVER = auto()
    TO_CLIENT = auto()
    BOTH = TO_SERVER | TO_CLIENT


class Proxy:
    """Forwards a port of its own to `target` on 127.0.0.1, in a thread, while the block runs."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        #: Connections that were taken so far.
        self.accepted = 0
        #: Seconds that each chunk is kept.
        self.latency = 0.0
        self.holes = Direction(0)
        self.links: set[Link] = set()
        self.listening: asyncio.Server | None = None
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self.changed = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="proxy")
        self.thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def url(self, behind: str) -> str:
        """`behind`, the URL of the server, with the proxy in its place."""
        parts = urlsplit(behind)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    @property
    def open(self) -> int:
        """Connections that the client's side has not ended."""
        return len(self.links)

    def reset(self) -> None:
        """Reset every connection, on both sides; new ones are served."""
        self._do(self._reset)

    def half_open(self) -> None:
        """Lose the server's side of every connection without a word to the client; new ones are served."""
        self._do(self._lose_servers)

    def black_hole(self, direction: Direction = Direction.BOTH) -> None:
        """Take connections and bytes, and forward nothing, until `heal`."""
        self._do(lambda: self._set(holes=direction))

    def slow(self, latency: float) -> None:
        """Keep each chunk for `latency` seconds, until `heal`."""
        self._do(lambda: self._set(latency=latency))

    def refuse(self) -> None:
        """Reset every connection and take no new one, until `heal`: the server's process has gone."""
        self._call(self._refuse())

    def heal(self) -> None:
        """Forward everything again, what was held back first; half-open connections stay dead."""
        self._call(self._heal())

    def _do(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        self._call(act())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _listen(self) -> None:
        self.listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.listening.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link(self, reader, writer)
        self.links.add(link)
        try:
            await link.run()
        finally:
            link.reset()
            self.links.discard(link)

    def _reset(self) -> None:
        for link in list(self.links):
            link.reset()

    def _lose_servers(self) -> None:
        for link in self.links:
            link.lose_server()

    async def _refuse(self) -> None:
        if self.listening is not None:
            await stop_listening(self.listening)
            self.listening = None
        self._reset()

    async def _heal(self) -> None:
        self._set(holes=Direction(0), latency=0.0)
        if self.listening is None:
            await self._listen()

    def _set(self, **faults: Any) -> None:
        for name, value in faults.items():
            setattr(self, name, value)
        self.changed.set()
        self.changed = asyncio.Event()

    async def _close(self) -> None:
        await self._refuse()
        self._set(holes=Direction(0), latency=0.0)
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writer = writer
        self.server: asyncio.StreamWriter | None = None
        self.is_half_open = False

    async def run(self) -> None:
        """Forward both ways until one side ends."""
        await self._passes(Direction.TO_SERVER)
        try:
            source, self.server = await asyncio.open_connection("127.0.0.1", self.proxy.target)
        except OSError:
            return
        pumps = [
            asyncio.ensure_future(self._pump(self.reader, self.server, Direction.TO_SERVER)),
            asyncio.ensure_future(self._pump(source, self.writer, Direction.TO_CLIENT)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)  # until then, they still read
        if self.is_half_open:
            await self._swallow()

    def reset(self) -> None:
        """End both sides at once."""
        for writer in (self.writer, self.server):
            if writer is not None:
                abort(writer)

    def lose_server(self) -> None:
        """End the server's side, and keep the client's."""
        self.is_half_open = True
        if self.server is not None:
            abort(self.server)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction) -> None:
        try:
            while chunk := await source.read(CHUNK):
                if self.proxy.latency:
                    await asyncio.sleep(self.proxy.latency)
                await self._passes(direction)
                sink.write(chunk)
                await sink.drain()
            await self._passes(direction)  # its end is news as well
        except OSError:
            return

    async def _passes(self, direction: Direction) -> None:
        while direction & self.proxy.holes:
            await self.proxy.changed.wait()

    async def _swallow(self) -> None:
        try:
            while await self.reader.read(CHUNK):
                pass
        except OSError:
            return


def abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    if writer.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
