"""Endpoints of the scripted server, and clients that talk to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.registry.models import Endpoint, InferenceAction, InputCodec, OutputCodec, TaskType
from tests.support.model_server import ModelServer
from workers.inference.client import Client

ClientOf = Callable[..., Client]

LABELS = [f"class-{index}" for index in range(10)]


@pytest.fixture
def anyio_backend() -> str:
    """Run the asynchronous tests on asyncio alone, as the workers do."""
    return "asyncio"


@pytest.fixture
def client_of() -> ClientOf:
    """Build a client of a server: a classifier of images, unless told otherwise."""

    def build(
        server: ModelServer | str,
        *,
        task_type: TaskType = TaskType.IMAGE_CLASSIFICATION,
        action: InferenceAction = InferenceAction.PREDICT,
        **overrides: Any,
    ) -> Client:
        values: dict[str, Any] = {
            "url": server if isinstance(server, str) else server.url,
            "model_name": "model",
            "input_codec": InputCodec.IMAGE_BASE64,
            "output_codec": OutputCodec.CLASSIFICATION,
            "labels": LABELS,
            **overrides,
        }
        return Client(Endpoint(**values), task_type, action)

    return build
