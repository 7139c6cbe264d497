"""The HTTP face of a worker or of beat: `/metrics` for Prometheus, `/livez` for whoever restarts what is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson
import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from orchestrator.settings import settings
from workers.telemetry.vitals import Verdict, describe

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = structlog.get_logger(__name__)


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request; a reader that hangs holds up nobody and keeps no process alive."""

    daemon_threads = True


class Handler(WSGIRequestHandler):
    """Quiet, and patient for some seconds only."""

    timeout = 10

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: a probe comes every few seconds."""


class Face:
    """The two pages."""

    def __init__(self, name: str, registry: CollectorRegistry, judge: Callable[[], Verdict]) -> None:
        self.name = name
        self.judge = judge
        self.metrics = make_wsgi_app(registry)

    def __call__(self, environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                pages: Iterable[bytes] = self.metrics(environ, respond)
                return pages
            case "/livez":
                verdict = self.judge()
                status = HTTPStatus.OK if verdict.healthy else HTTPStatus.SERVICE_UNAVAILABLE
                body = orjson.dumps(describe(verdict, self.name), option=orjson.OPT_INDENT_2) + b"\n"
                return answer(respond, status, "application/json", body)
            case _:
                return answer(respond, HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics and /livez\n")


def answer(respond: StartResponse, status: HTTPStatus, kind: str, body: bytes) -> list[bytes]:
    """One whole answer."""
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    respond(f"{status.value} {status.phrase}", headers)
    return [body]


def serve(name: str, registry: CollectorRegistry, judge: Callable[[], Verdict]) -> str:
    """Serve on the configured port from a thread of its own; returns `host:port`, or "" where it is off.

    A port that is taken is logged and nothing else: no job waits for its metrics.
    """
    config = settings()
    if not config.metrics_port:
        return ""
    try:
        server = make_server(
            config.metrics_address, config.metrics_port, Face(name, registry, judge), Server, handler_class=Handler
        )
    except OSError as error:
        log.error("metrics_not_served", address=config.metrics_address, port=config.metrics_port, error=str(error))
        return ""
    threading.Thread(target=server.serve_forever, daemon=True, name="metrics").start()
    address = f"{config.metrics_address}:{config.metrics_port}"
    log.info("metrics_served", url=f"http://{address}/metrics")
    return address
