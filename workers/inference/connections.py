"""What a worker process keeps from unit to unit: its event loop, open clients, and what it learnt of servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.registry.models import InferenceAction, Model
from workers.inference.client import Client
from workers.inference.congestion import Aimd, Window

T = TypeVar("T")

#: Seconds after which a client is opened anew, so that a server that moved or changed is noticed.
LIFETIME = 60.0


@dataclass(slots=True)
class Connection:
    """An open client and the limit on its requests in flight."""

    client: Client
    window: Window
    opened_at: float


class _Kept(threading.local):
    """One loop a thread, since a pool of threads may run several units in one process."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.connections: dict[str, Connection] = {}
        self.learnt: dict[str, Aimd] = {}


_kept = _Kept()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on this thread's loop, which outlives it."""
    try:
        return _kept.runner.run(work)
    except BaseException:
        if asyncio.all_tasks(_kept.runner.get_loop()):
            renew()
        raise


def renew() -> None:
    """Cancel what an interruption from outside, such as a time limit, left on the loop, and begin with a new one.

    Left alone, those tasks would go on beside the next unit, under a lease that is lost.
    """
    _kept.runner.close()
    _kept.runner = asyncio.Runner()
    _kept.connections.clear()  # their windows count requests that nobody waits for


async def connect(model: Model, action: InferenceAction) -> Connection:
    """The open client for a model's action, or a new one.

    Raises:
        EndpointRefused: no request can succeed.
        Unreachable: the server cannot be asked.
    """
    key = f"{model.id} {action.value} {model.endpoint.model_dump_json()}"
    found = _kept.connections.get(key)
    if found is not None and time.monotonic() - found.opened_at < LIFETIME:
        return found
    await disconnect(key)
    client = await Client(model.endpoint, model.task_type, action).__aenter__()
    window = Window(model.endpoint.max_concurrency, requests_per_second=model.endpoint.requests_per_second)
    window.control = _kept.learnt.setdefault(key, window.control)
    connection = Connection(client, window, time.monotonic())
    _kept.connections[key] = connection
    return connection


async def disconnect(key: str) -> None:
    """Close the client kept under `key`, if there is one."""
    found = _kept.connections.pop(key, None)
    if found is not None:
        await found.client.__aexit__()


async def disconnect_all() -> None:
    """Close every client: after an error nothing that was learnt of a server can be trusted."""
    for key in list(_kept.connections):
        await disconnect(key)
