"""Serves the digits' classifier over the Open Inference Protocol: `python -m examples.digits.server --help`."""

from __future__ import annotations

import argparse
import json
import socket
from http import HTTPStatus
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.digits import wire
from examples.digits.images import decode

MODEL = "digits"
VERSION = "1"
#: Ten thousand digits fit well; more in one request is a mistake.
MAX_BODY = 16 * 1024 * 1024


class Digits:
    """The endpoints of one loaded classifier."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    async def server_metadata(self, _: Request) -> Response:
        """GET /v2: who serves, and with which extensions."""
        return JSONResponse({"name": "digits-example", "version": VERSION, "extensions": ["binary_tensor_data"]})

    async def healthy(self, _: Request) -> Response:
        """GET /v2/health/live and /ready: the classifier is loaded before the first request comes."""
        return JSONResponse({})

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/digits/ready."""
        check_model(request)
        return JSONResponse({})

    async def model_metadata(self, request: Request) -> Response:
        """GET /v2/models/digits: the tensors; -1 stands for the number of images."""
        check_model(request)
        return JSONResponse(
            {
                "name": MODEL,
                "versions": [VERSION],
                "platform": "scikit-learn",
                "inputs": [{"name": wire.INPUT, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": wire.OUTPUT, "datatype": "FP32", "shape": [-1, len(self.classifier.classes_)]}],
            }
        )

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/digits/infer: a row of ten probabilities for each image."""
        check_model(request)
        try:
            message = wire.parse(await body_of(request), request.headers.get(wire.JSON_LENGTH))
            probabilities = await run_in_threadpool(self.probabilities, message.images)
        except wire.BadRequest as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        body, json_length = wire.answer(message, probabilities, {"model_name": MODEL, "model_version": VERSION})
        if json_length is None:
            return Response(body, media_type="application/json")
        headers = {wire.JSON_LENGTH: str(json_length)}
        return Response(body, media_type="application/octet-stream", headers=headers)

    def probabilities(self, images: list[bytes]) -> NDArray[np.float32]:
        """Classify PNG files; raises `BadRequest` with the index of the first that is not one."""
        pixels = []
        for index, image in enumerate(images):
            try:
                pixels.append(decode(image))
            except ValueError as error:
                raise wire.BadRequest(f"element {index}: {error}") from error
        return np.asarray(self.classifier.predict_proba(np.stack(pixels)), dtype=np.float32)


def check_model(request: Request) -> None:
    """Refuse any other model and version with 404."""
    name, version = request.path_params["model"], request.path_params.get("version", VERSION)
    if (name, version) != (MODEL, VERSION):
        raise HTTPException(HTTPStatus.NOT_FOUND, f"unknown model {name!r} version {version!r}")


async def body_of(request: Request) -> bytes:
    """The request's body, refused with 413 as soon as it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {MAX_BODY} bytes")
    return bytes(body)


async def refuse(_: Request, error: Exception) -> Response:
    """Any refusal as the protocol wants it: a status, and the reason under `error`."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def broken(*_: object) -> Response:
    """Our own mistake; the traceback goes to the log."""
    return JSONResponse({"error": "the server failed; its log says why"}, status_code=500)


def application(classifier: Any) -> Starlette:
    """The ASGI application that serves `classifier`."""
    digits = Digits(classifier)
    routes = [
        Route("/v2", digits.server_metadata),
        Route("/v2/health/live", digits.healthy),
        Route("/v2/health/ready", digits.healthy),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(model, digits.model_metadata),
            Route(f"{model}/ready", digits.model_ready),
            Route(f"{model}/infer", digits.infer, methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse, Exception: broken})


class AnnouncingServer(uvicorn.Server):
    """Prints where it listens once it does, as a line of JSON: with port 0 nobody could know."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(json.dumps({"host": host, "port": port, "url": f"http://{host}:{port}"}), flush=True)


def main() -> None:
    """Load the classifier and serve until told to stop."""
    parser = argparse.ArgumentParser(description="Serve the digits' classifier over the Open Inference Protocol.")
    parser.add_argument("--model", type=Path, required=True, help="the file that examples.digits.train wrote")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="the port; 0 takes a free one and prints it")
    arguments = parser.parse_args()
    app = application(joblib.load(arguments.model))
    # Standard output carries the address alone; requests are not worth a line each.
    config = uvicorn.Config(app, arguments.host, arguments.port, log_level="warning", access_log=False)
    AnnouncingServer(config).run()


if __name__ == "__main__":
    main()
