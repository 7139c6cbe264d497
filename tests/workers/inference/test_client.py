"""The client against a real server: what it asks, what it sends, and what it makes of the answer."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable

import numpy as np
import orjson
import pytest

from orchestrator.registry.models import InferenceAction, InputCodec, OutputCodec, TaskType
from tests.support.model_server import ModelServer, Reply, label_index
from workers.inference.client import Client
from workers.inference.failures import (
    BadAnswer,
    EndpointRefused,
    FailureClass,
    InferenceFailure,
    ItemRefused,
    Overloaded,
    Transient,
    Unreachable,
)

pytestmark = pytest.mark.anyio

ClientOf = Callable[..., Client]


def expected(data: bytes) -> str:
    """The label that the scripted model gives an item."""
    return f"class-{label_index(data, 10)}"


def top_label(text: str) -> str:
    label: str = orjson.loads(text)[0]["label"]
    return label


@pytest.mark.parametrize("binary", [False, True])
async def test_a_batch_is_one_request_and_one_text_a_datum(client_of: ClientOf, binary: bool) -> None:
    with ModelServer(binary=binary) as server:
        async with client_of(server, input_codec=InputCodec.TEXT) as client:
            texts = await client.infer([b"one", b"two", b"three"])
            assert client.requests == server.seen.requests == 1
            assert client.version == "v2"
    assert [top_label(text) for text in texts] == [expected(data) for data in (b"one", b"two", b"three")]
    assert server.seen.parameters["action"] == "predict"
    assert ("inference-header-content-length" in server.seen.headers) is binary


@pytest.mark.parametrize("binary", [False, True])
async def test_images_travel_as_base64(client_of: ClientOf, binary: bool) -> None:
    with ModelServer(binary=binary) as server:
        async with client_of(server) as client:
            await client.infer([b"\x89PNG\x00"])
    assert server.seen.batches == [[b"iVBORwA="]]


@pytest.mark.parametrize("binary", [False, True])
async def test_arrays_arrive_as_the_model_declares_them(client_of: ClientOf, binary: bool) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([1.5, 2.5]))
    with ModelServer(binary=binary, datatype="FP32", shape=[-1, 2]) as server:
        async with client_of(server, input_codec=InputCodec.TENSOR_NPY) as client:
            await client.infer([buffer.getvalue()] * 2)
    assert server.seen.batches == [[np.array([1.5, 2.5], "<f4").tobytes()] * 2]


@pytest.mark.parametrize("binary", [False, True])
async def test_every_output_codec_understands_its_model(client_of: ClientOf, binary: bool) -> None:
    detect = {"task_type": TaskType.OBJECT_DETECTION, "action": InferenceAction.DETECT}
    embed = {"task_type": TaskType.IMAGE_EMBEDDING, "action": InferenceAction.EMBED}
    with ModelServer(binary=binary, output="objects") as server:
        async with client_of(server, output_codec=OutputCodec.OBJECTS, **detect) as client:
            (found,) = orjson.loads((await client.infer([b"x"]))[0])
    with ModelServer(binary=binary, output="embedding", classes=3) as server:
        async with client_of(server, output_codec=OutputCodec.EMBEDDING, **embed) as client:
            vectors = [orjson.loads(text) for text in await client.infer([b"x", b"y"])]
            assert client.version == "v1"
    assert found["xmax"] == 30.0
    assert [len(vector) for vector in vectors] == [3, 3]


async def test_nothing_is_sent_for_no_datums_or_for_a_datum_that_cannot_be_read(client_of: ClientOf) -> None:
    with ModelServer(datatype="FP32") as server:
        async with client_of(server, input_codec=InputCodec.TENSOR_NPY) as client:
            assert await client.infer([]) == []
            with pytest.raises(ItemRefused):
                await client.infer([b"no array"])
            assert client.requests == server.seen.requests == 0


@pytest.mark.parametrize(
    "reply, kind, status",
    [
        (Reply(500), Transient, 500),
        (Reply(drop=True), Transient, None),
        (Reply(429, b"", (("Retry-After", "3"),)), Overloaded, 429),
        (Reply(403), EndpointRefused, 403),
        (Reply(307, b"", (("Location", "http://169.254.169.254/"),)), EndpointRefused, 307),
        (Reply(422), ItemRefused, 422),
        (Reply(200, b"not json"), BadAnswer, 200),
        (Reply(200, b'{"outputs":[]}'), BadAnswer, None),
        (Reply(200, b"{}", (("Inference-Header-Content-Length", "x"),)), BadAnswer, 200),
        (Reply(200, b"{}", (("Inference-Header-Content-Length", "99"),)), BadAnswer, 200),
        (Reply(200, b"{}", (("Inference-Header-Content-Length", "9" * 5000),)), BadAnswer, 200),
        (Reply(200, b"{}", (("Inference-Header-Content-Length", "\xff"),)), BadAnswer, 200),
        (Reply(503, b"", (("Retry-After", "\xff"),)), Overloaded, 503),
    ],
)
async def test_each_failure_is_told_by_its_class(
    client_of: ClientOf, reply: Reply, kind: type[InferenceFailure], status: int | None
) -> None:
    with ModelServer() as server:
        async with client_of(server) as client:
            server.behaviour.script.append(reply)
            with pytest.raises(kind) as caught:
                await client.infer([b"x"])
            assert len(await client.infer([b"x"])) == 1  # and the client is as good as before
    assert caught.value.status == status


async def test_a_slow_answer_is_a_timeout(client_of: ClientOf) -> None:
    with ModelServer(delay=30.0) as server:
        async with client_of(server, timeout=0.05) as client:
            with pytest.raises(Transient) as caught:
                await client.infer([b"x"])
    assert caught.value.timed_out


async def test_a_server_that_went_away_is_unreachable_and_not_ready(client_of: ClientOf) -> None:
    with ModelServer() as server:
        client = await client_of(server).__aenter__()
        assert await client.ready()
        server.behaviour.ready = False
        assert not await client.ready()
    with pytest.raises((Unreachable, Transient)):
        await client.infer([b"x"])  # the first may still meet a dying connection
    with pytest.raises(Unreachable) as caught:
        await client.infer([b"x"])
    assert caught.value.failure_class is FailureClass.UNREACHABLE
    assert not await client.ready()
    await client.__aexit__()


async def test_a_port_where_nobody_listens_is_unreachable(client_of: ClientOf) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable):
        await client_of(f"http://127.0.0.1:{port}").__aenter__()


async def test_a_host_that_does_not_resolve_is_unreachable(client_of: ClientOf) -> None:
    with pytest.raises(Unreachable, match="does not resolve"):
        await client_of("http://nobody.invalid").__aenter__()


async def test_a_name_with_several_addresses_is_tried_until_one_answers(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(f"http://localhost:{server.port}") as client:
            assert len(await client.infer([b"x"])) == 1


@pytest.mark.parametrize("host", ["model.invalid", "model.invalid."])
async def test_the_address_that_was_checked_is_the_one_that_is_called(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with ModelServer() as server:
        answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
        # No resolver but the check's own knows the name: whoever looked it up again would find nothing.
        async with client_of(f"http://{host}:{server.port}") as client:
            assert len(await client.infer([b"x"])) == 1


async def test_a_forbidden_address_is_never_called(client_of: ClientOf) -> None:
    with pytest.raises(EndpointRefused, match=r"169\.254\.169\.254"):
        await client_of("http://169.254.169.254/latest").__aenter__()


async def test_an_unknown_model_is_told_before_the_first_request(client_of: ClientOf) -> None:
    with ModelServer() as server:
        with pytest.raises(EndpointRefused) as caught:
            await client_of(server, model_name="other").__aenter__()
        assert server.seen.requests == 0
    assert caught.value.status == 404


async def test_an_unknown_tensor_is_told_before_the_first_request(client_of: ClientOf) -> None:
    with ModelServer() as server, pytest.raises(EndpointRefused, match="no output 'scores', only output"):
        await client_of(server, output_name="scores").__aenter__()


async def test_a_server_without_metadata_serves_when_the_endpoint_names_its_input(client_of: ClientOf) -> None:
    with ModelServer(metadata=False) as server:
        async with client_of(server, input_name="input") as client:
            assert len(await client.infer([b"x"])) == 1
        with pytest.raises(EndpointRefused):
            await client_of(server).__aenter__()


async def test_the_version_of_the_model_is_part_of_the_path(client_of: ClientOf) -> None:
    with ModelServer() as server:
        async with client_of(server, model_version="2/b") as client:
            await client.infer([b"x"])
    assert server.seen.paths[-1] == "/v2/models/model/versions/2%2Fb/infer"


async def test_a_proxy_of_the_environment_is_not_used(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with ModelServer() as server:
        async with client_of(server) as client:
            assert len(await client.infer([b"x"])) == 1
