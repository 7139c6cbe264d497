"""A process that sends to a model for as long as it lives, within its share: `python -m … URL REDIS LIMITS`.

It says `joined` once, then `answered` for each answer; on SIGUSR1 it freezes itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import orjson

from orchestrator.registry.models import Endpoint, InferenceAction, TaskType
from workers.inference.client import Client
from workers.inference.congestion import Window
from workers.inference.shares import Member, Shares


async def send(client: Client, window: Window) -> None:
    """Send one request after the other, and count."""
    while True:
        async with window.slot():
            await client.infer([b"datum"])
        print("answered", flush=True)


def freeze() -> None:
    """Stop, from the loop: not between the moment in which a request may leave and the one in which it does."""
    os.kill(os.getpid(), signal.SIGSTOP)


async def main(url: str, redis: str, limits: str) -> None:
    """Join and send."""
    endpoint = Endpoint.model_validate(
        {
            "url": url,
            "model_name": "model",
            "input_codec": "text",
            "output_codec": "classification",
            "labels": [str(at) for at in range(10)],
            **orjson.loads(limits),
        }
    )
    window = Window(endpoint.max_concurrency, requests_per_second=endpoint.requests_per_second)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, freeze)
    async with Client(endpoint, TaskType.IMAGE_CLASSIFICATION, InferenceAction.PREDICT) as client:
        await Member(Shares.at(redis), "model", window, endpoint).join()
        print("joined", flush=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(send(client, window))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
