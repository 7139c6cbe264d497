"""What a worker process keeps from unit to unit: its event loop, open clients, and what it learnt of servers."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import structlog

from orchestrator import meters
from orchestrator.registry.models import Endpoint, InferenceAction, Model
from orchestrator.settings import settings
from workers.inference.aimd import Aimd
from workers.inference.client import Client
from workers.inference.congestion import Window
from workers.inference.shares import Member, Shares

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Seconds after which a client is opened anew, so that a server that moved or changed is noticed.
LIFETIME = 60.0


@dataclass(slots=True)
class Connection:
    """An open client and the limit on its requests in flight; `member` where others share the model's limits."""

    client: Client
    window: Window
    opened_at: float
    member: Member | None = None


class _Kept(threading.local):
    """One loop a thread, since a pool of threads may run several units in one process."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.connections: dict[str, Connection] = {}
        self.learnt: dict[str, Aimd] = {}
        self.shares: Shares | None = None


_kept = _Kept()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on this thread's loop, which outlives it; the shares that it took of models' limits are given back."""
    try:
        # The loop outlives the unit; what the unit's log lines say of it must not.
        return _kept.runner.run(and_leave(work), context=contextvars.copy_context())
    except BaseException:
        if asyncio.all_tasks(_kept.runner.get_loop()):
            renew()
        raise


async def and_leave(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; the loop stands still until there is more, and could renew nothing meanwhile."""
    try:
        return await work
    finally:
        for connection in _kept.connections.values():
            if connection.member is not None:
                await connection.member.leave()


def renew() -> None:
    """Cancel what an interruption from outside, such as a time limit, left on the loop, and begin with a new one.

    Left alone, those tasks would go on beside the next unit, under a lease that is lost.
    """
    _kept.runner.close()
    _kept.runner = asyncio.Runner()
    _kept.connections.clear()  # their windows count requests that nobody waits for
    _kept.shares = None  # its connections belong to the loop before


async def connect(model: Model, action: InferenceAction) -> Connection:
    """The open client for a model's action, or a new one.

    Raises:
        EndpointRefused: no request can succeed.
        Unreachable: the server cannot be asked.
        Unavailable: the Redis that keeps the model's limits does not answer.
    """
    key = f"{model.id} {action.value} {model.endpoint.model_dump_json()}"
    connection = _kept.connections.get(key)
    if connection is None or time.monotonic() - connection.opened_at >= LIFETIME:
        await disconnect(key)
        connection = _kept.connections[key] = await open_connection(key, model, action)
    if connection.member is not None:
        await connection.member.join()
    return connection


async def open_connection(key: str, model: Model, action: InferenceAction) -> Connection:
    """A new client, with what was learnt of its server."""
    endpoint = model.endpoint
    client = await Client(endpoint, model.task_type, action).__aenter__()
    window = Window(endpoint.max_concurrency, requests_per_second=endpoint.requests_per_second)
    window.control = _kept.learnt.setdefault(key, window.control)
    meters.watch(window, model_id=model.id, model=model.name, url=endpoint.url)
    shares = shares_of(endpoint)
    member = Member(shares, model.id, window, endpoint) if shares else None
    return Connection(client, window, time.monotonic(), member)


def shares_of(endpoint: Endpoint) -> Shares | None:
    """Where the endpoint's limits are shared; None without limits, and where there is no Redis to share them in."""
    if endpoint.max_concurrency is None and endpoint.requests_per_second is None:
        return None
    if _kept.shares is None:
        url = settings().coordination
        if url is None:
            warn_once()
            return None
        _kept.shares = Shares.at(url)
    return _kept.shares


@cache
def warn_once() -> None:
    """Say that limits do not hold over processes."""
    log.warning("limits_hold_per_process", hint="name a Redis in ORCHESTRATOR_COORDINATION_URL")


async def disconnect(key: str) -> None:
    """Close the client kept under `key`, if there is one."""
    found = _kept.connections.pop(key, None)
    if found is None:
        return
    if found.member is not None:
        await found.member.leave()
    await found.client.__aexit__()


async def disconnect_all() -> None:
    """Close every client: after an error nothing that was learnt of a server can be trusted."""
    for key in list(_kept.connections):
        await disconnect(key)
    if _kept.shares is not None:
        await _kept.shares.close()  # it connects again when it is asked
