"""The end of an asyncio server that leaves no socket behind."""

from __future__ import annotations

import asyncio

#: More steps of the loop than lie between taking a connection and the first of its protocol.
STEPS = 5


async def stop_listening(server: asyncio.Server) -> None:
    """Take no further connection, and see those that were taken become known to their protocols.

    A server that is closed between taking a connection and making its transport loses the socket: asyncio
    neither serves nor closes it, and the collector finds it during some later test.
    """
    loop = asyncio.get_running_loop()
    for taken in server.sockets:
        loop.remove_reader(taken.fileno())
    for _ in range(STEPS):
        await asyncio.sleep(0)
    server.close()
