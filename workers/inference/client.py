"""One model's client: connects once, asks the server what it speaks, then turns datums into stored texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Self
from urllib.parse import quote

from pyreqwest.client import Client as HttpClient
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.http import Url
from pyreqwest.request import ConsumedRequest
from pyreqwest.response import Response

from orchestrator.errors import ApiException, Unavailable
from orchestrator.registry.addresses import Resolved, resolve
from orchestrator.registry.models import Endpoint, InferenceAction, TaskType
from workers.inference import codecs, oip
from workers.inference.failures import (
    BadAnswer,
    EndpointRefused,
    ItemRefused,
    Unreachable,
    classify_error,
    classify_response,
)
from workers.inference.reputation import reputation_of
from workers.inference.scores import Scores

#: Seconds for a TCP and TLS handshake.
CONNECT_TIMEOUT = timedelta(seconds=5)
#: Seconds for a question about health or metadata, which needs no model.
PROBE_TIMEOUT = timedelta(seconds=5)
#: Idle connections kept: as many as may be in flight, so that none is opened twice.
POOL_SIZE = 256
#: Digits of the length of a body, at most.
LONGEST_LENGTH = 18


class Client:
    """Infers with one action of one model, on one pinned address of its server.

    Entering it raises `EndpointRefused` when no request can succeed and `Unreachable` when the server cannot be
    asked. `requests` counts the infer requests sent, `version` is the version of what `infer` returns.
    """

    def __init__(self, endpoint: Endpoint, task_type: TaskType, action: InferenceAction) -> None:
        self.endpoint = endpoint
        self.task_type = task_type
        self.action = action
        self.version = codecs.stored_version(endpoint.output_codec)
        self.reputation = reputation_of(f"{action.value} {endpoint.model_dump_json()}")
        self.requests = 0

    async def __aenter__(self) -> Self:
        self.reputation.verdict, self.reputation.hung = None, 0
        resolved = await look_up(self.endpoint.url)
        root = resolved.url.split("?")[0].split("#")[0].rstrip("/")
        model = f"{root}/v2/models/{quote(self.endpoint.model_name, safe='')}"
        if self.endpoint.model_version is not None:
            model += f"/versions/{quote(self.endpoint.model_version, safe='')}"
        self.server_url = Url(f"{root}/v2")
        self.ready_url = Url(f"{root}/v2/health/ready")
        self.model_url = Url(model)
        self.infer_url = Url(f"{model}/infer")
        await self.connect(resolved)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def infer(self, datums: Sequence[bytes]) -> list[str]:
        """Infer `datums` with one request; one JSON text each, in their order.

        Raises:
            InferenceFailure: of the class that says what to do about it; nothing is retried here.
        """
        if not datums:
            return []
        request = self.request(datums)
        self.requests += 1
        try:
            response = await request.send()
            body = (await response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise classify_error(error) from error
        if not 200 <= response.status < 300:
            raise classify_response(response.status, body, header(response, "Retry-After"))
        try:
            length = header_length(response)
            texts = self.scores.read(body, len(datums)) if length is None else None
            return self.decode(oip.decode(body, length), len(datums)) if texts is None else texts
        except oip.OipError as error:
            raise BadAnswer(f"bad answer: {error}", status=response.status) from error

    async def ready(self) -> bool:
        """Whether the server says that it is ready for requests; an answer that fails means no."""
        try:
            response = await self.http.get(self.ready_url).timeout(PROBE_TIMEOUT).build().send()
        except PyreqwestError:
            return False
        return 200 <= response.status < 300

    def request(self, datums: Sequence[bytes]) -> ConsumedRequest:
        """The infer request for `datums`, in the form the server takes."""
        tensor = self.encode(datums)
        if self.binary:
            body, length = self.template.binary(tensor)
            post = self.http.post(self.infer_url).header(oip.CONTENT_LENGTH_HEADER, str(length))
            return post.header("Content-Type", "application/octet-stream").body_bytes(body).build()
        try:
            body = self.template.json(tensor)
        except oip.OipError as error:
            raise ItemRefused(str(error)) from error
        return self.http.post(self.infer_url).header("Content-Type", "application/json").body_bytes(body).build()

    async def connect(self, resolved: Resolved) -> None:
        """Settle on the first address that answers."""
        *others, last = resolved.addresses
        for address in others:
            try:
                await self.open(resolved, address)
            except Unreachable:
                continue
            return
        await self.open(resolved, last)

    async def open(self, resolved: Resolved, address: str) -> None:
        """Pin `address`, and learn what the server and the model speak."""
        self.http = pinned(resolved, address, self.endpoint.timeout)
        try:
            await self.probe()
        except BaseException:
            await self.http.close()
            raise

    async def probe(self) -> None:
        """Ask for the server's extensions and the model's tensors, and prepare what every request shares."""
        self.binary = await self.speaks_binary()
        metadata = await self.metadata()
        spec = named(metadata.inputs, self.endpoint.input_name, "input")
        output = named(metadata.outputs, self.endpoint.output_name, "output")
        if not spec.name:
            raise EndpointRefused("the server tells no tensor names: give the endpoint an input_name")
        codec = self.endpoint.input_codec
        self.encode = codecs.encoder(codec, spec)
        self.scores = Scores(self.endpoint, self.action, output.name or None)
        self.decode = codecs.decoder(self.endpoint, self.task_type, self.action, output.name or None)
        self.template = oip.RequestTemplate(
            spec.name, parameters={"action": self.action.value}, input_parameters=codecs.HINTS.get(codec)
        )

    async def speaks_binary(self) -> bool:
        """Whether the server announces the binary tensor data extension; many say nothing at all."""
        response, body = await self.ask(self.server_url)
        if response.status != 200:
            return False
        try:
            extensions = oip.parse_object(body).get("extensions")
        except oip.OipError:
            return False
        return isinstance(extensions, list) and oip.BINARY_EXTENSION in extensions

    async def metadata(self) -> oip.Metadata:
        """The model's tensors; empty where the server has no metadata and the endpoint names the input itself."""
        response, body = await self.ask(self.model_url)
        if response.status == 404 and self.endpoint.input_name is not None:
            return oip.Metadata([], [])
        if response.status != 200:
            failure = classify_response(response.status, body)
            if isinstance(failure, EndpointRefused):
                raise failure
            if isinstance(failure, ItemRefused):
                raise EndpointRefused(failure.message, status=failure.status)
            raise Unreachable(failure.message, status=failure.status)
        try:
            return oip.decode_metadata(body)
        except oip.OipError as error:
            raise EndpointRefused(f"the model's metadata cannot be read: {error}") from error

    async def ask(self, url: Url) -> tuple[Response, bytes]:
        """GET `url`; no answer at all means that the server is unreachable."""
        try:
            response = await self.http.get(url).timeout(PROBE_TIMEOUT).build().send()
            return response, (await response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise Unreachable(classify_error(error).message) from error


async def look_up(url: str) -> Resolved:
    """Resolve and check `url` off the event loop, in the words of this package."""
    try:
        return await asyncio.to_thread(resolve, url)
    except Unavailable as error:
        raise Unreachable(error.body) from error
    except ApiException as error:
        raise EndpointRefused(error.body) from error


def pinned(resolved: Resolved, address: str, timeout: float) -> HttpClient:
    """An HTTP client that connects to `address` alone, whatever the name resolves to by then."""
    return (
        ClientBuilder()
        .resolve(resolved.host, address, resolved.port)
        .follow_redirects(False)
        .no_proxy()
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timedelta(seconds=timeout))
        .pool_max_idle_per_host(POOL_SIZE)
        .user_agent("orchestrator")
        .build()
    )


def named(specs: Sequence[oip.TensorSpec], name: str | None, kind: str) -> oip.TensorSpec:
    """The tensor called `name`, or the first; a server without metadata is believed to have it."""
    if not specs:
        return oip.TensorSpec(name or "")
    if name is None:
        return specs[0]
    for spec in specs:
        if spec.name == name:
            return spec
    raise EndpointRefused(f"the model has no {kind} {name!r}, only {', '.join(spec.name for spec in specs)}")


def header_length(response: Response) -> int | None:
    """The length of the JSON part, where the answer has binary tensors behind it."""
    value = header(response, oip.CONTENT_LENGTH_HEADER, "not text")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > LONGEST_LENGTH:
        raise oip.OipError(f"{oip.CONTENT_LENGTH_HEADER} is {value!r:.40}")
    return int(value)


def header(response: Response, name: str, unreadable: str | None = None) -> str | None:
    """The value of a header, None where there is none, and `unreadable` where it is no text."""
    try:
        return response.get_header(name)
    except ValueError:
        return unreadable
