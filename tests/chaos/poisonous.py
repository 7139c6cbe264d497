"""The composition root of chaos with a library that ends the process, as broken native code does, on some datums."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from typing import Any

from tests.chaos.faulty import app
from workers.inference.client import Client

__all__ = ["app"]

POISON = b"POISON"

_infer = Client.infer


@app.on_configure.connect
def _name_this_module(sender: Any, **_: Any) -> None:
    # Connected after that of `faulty`: a spawned child imports this, and with it all the others.
    sender.conf.imports = (__name__,)


async def infer(self: Client, datums: Sequence[bytes]) -> list[str]:
    """In the place of `Client.infer`."""
    if any(POISON in data for data in datums):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    return await _infer(self, datums)


Client.infer = infer  # type: ignore[method-assign]  # that is the point
