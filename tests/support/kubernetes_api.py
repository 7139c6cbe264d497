"""A make-believe cluster behind HTTP, so that the official client talks to it as to any other."""

from __future__ import annotations

import copy
import json
import re
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.kubernetes_cluster import Cluster, Object, Refusal, trainer_state
from tests.support.processes import ROOT

PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<space>[^/]+)/(?P<kind>jobs|pods)(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
#: The roles in `deploy/` of those whose tokens are known.
ROLES = {"worker": "orchestrator-worker", "pod": "orchestrator-training"}
#: Bytes of an object that etcd takes.
LARGEST = 1_500_000


@dataclass(frozen=True)
class Fault:
    """What becomes of a call instead: an answer, or none after so many seconds; `after`: it is served all the same.

    `page`: what something before the API answers in its place.
    """

    status: int = 0
    delay: float = 0.0
    after: bool = False
    page: bytes | None = None


@cache
def allowed(role: str) -> frozenset[tuple[str, str]]:
    """The verbs and resources that a role in `deploy/` allows."""
    found = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "training.yaml").read_text())
    (rules,) = (each["rules"] for each in found if each["kind"] == "Role" and each["metadata"]["name"] == role)
    return frozenset((verb, what) for rule in rules for what in rule["resources"] for verb in rule["verbs"])


class KubernetesApi:
    """Serves while the block runs: `with KubernetesApi() as api:`."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        #: What becomes of the next calls.
        self.faults: deque[Fault] = deque()
        #: So many logs break off, each a line early.
        self.broken_logs = 0
        #: Who called, and the verb and resource that a role must allow.
        self.calls: list[tuple[str, str, str]] = []
        self.open: set[socket.socket] = set()
        self.is_open = True
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.api = self
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False
        with self.cluster.changed:
            self.cluster.changed.notify_all()
        self.server.shutdown()
        for connection in list(self.open):
            with suppress(OSError):  # it may have been closed since
                connection.shutdown(socket.SHUT_RDWR)
        self.server.server_close()
        self.thread.join(10)

    def config(self, path: Path, who: str = "worker") -> Path:
        """A kubeconfig file for somebody with his own token."""
        url = f"http://127.0.0.1:{self.server.server_port}"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {"token": who}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return path


class Server(ThreadingHTTPServer):
    """Waits for its connections' threads when it is closed."""

    daemon_threads = False
    api: KubernetesApi


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.api.open.add(self.connection)

    def finish(self) -> None:
        self.server.api.open.discard(self.connection)
        super().finish()

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api = self.server.api
        fault = api.faults.popleft() if api.faults else Fault()
        try:
            answer = self.answer(body) if fault.after or fault == Fault() else None
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if fault.delay:
            time.sleep(fault.delay)
            self.close_connection = True
        elif fault.page is not None:
            self.send_data(fault.status, "text/html", fault.page)
        elif fault.status:
            self.refuse(Refusal(fault.status, "Fault", "as the test says"))
        elif answer is not None:
            self.send(200, answer)

    do_GET = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815  names that the base class calls

    def answer(self, body: bytes) -> Object | None:
        url = urlsplit(self.path)
        found = PATH.fullmatch(url.path)
        if found is None:
            raise Refusal(404, "NotFound", f"no such path: {url.path}")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.note(found, self.command)
        if found["log"]:
            self.send_log(found["name"], query)
            return None
        api, kind, name = self.server.api.cluster, found["kind"], found["name"]
        said: Object = json.loads(body) if body else {}
        if self.command == "POST":
            if found["space"] != api.namespace:
                raise Refusal(404, "NotFound", f'namespaces "{found["space"]}" not found')
            if len(body) > LARGEST:
                raise Refusal(413, "RequestEntityTooLarge", "etcdserver: request is too large")
            return api.create_job(said)
        if self.command == "PATCH":
            if self.headers["Content-Type"] != "application/merge-patch+json":
                raise Refusal(415, "UnsupportedMediaType", f"not {self.headers['Content-Type']}")
            return api.suspend_job(name, said)
        if self.command == "DELETE":
            api.delete_job(name) if kind == "jobs" else api.delete_pod(name, said)
            return {"kind": "Status", "status": "Success"}
        objects = api.jobs if kind == "jobs" else api.pods
        if name:
            with api.changed:
                return copy.deepcopy(api.find(objects, kind, name))
        page, following = api.select(
            objects, query.get("labelSelector", ""), int(query.get("limit", 10**9)), int(query.get("continue", 0))
        )
        return {"kind": "List", "metadata": {"continue": following}, "items": page}

    def note(self, found: re.Match[str], method: str) -> None:
        """Who is it, what does he do, and may he?"""
        scheme, _, who = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or who not in ROLES:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        verb, resource = VERBS.get(method, "get" if found["name"] else "list"), found["kind"] + (found["log"] or "")
        self.server.api.calls.append((who, verb, resource))
        if (verb, resource) not in allowed(ROLES[who]):
            raise Refusal(403, "Forbidden", f"{resource} is forbidden: {who} cannot {verb} it")

    def refuse(self, refusal: Refusal) -> None:
        status = {"kind": "Status", "status": "Failure", "reason": refusal.reason, "message": refusal.message}
        self.send(refusal.status, {**status, "code": refusal.status})

    def send(self, status: int, answer: Object) -> None:
        self.send_data(status, "application/json", json.dumps(answer).encode())

    def send_data(self, status: int, content_type: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_log(self, name: str, query: dict[str, str]) -> None:
        """The trainer's log as it grows, until the trainer has ended."""
        cluster, sent = self.server.api.cluster, 0
        with cluster.changed:
            pod = cluster.find(cluster.pods, "pods", name)
            if trainer_state(pod).keys() <= {"waiting"}:
                raise Refusal(400, "BadRequest", f'container "trainer" in pod "{name}" is waiting to start')
        assert query["container"] == "trainer"
        assert query["timestamps"] == query["follow"] == "true"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            with cluster.changed:
                lines = cluster.logs[name][sent:]
                ended = "terminated" in trainer_state(pod) or not self.server.api.is_open
                if not lines and not ended:
                    cluster.changed.wait(1)
            if lines and self.server.api.broken_logs:
                self.server.api.broken_logs -= 1
                lines, self.close_connection = lines[:-1], True
            for line in lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            sent += len(lines)
            if self.close_connection:
                return
            if ended and not lines:
                self.wfile.write(b"0\r\n\r\n")
                return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
        """Say nothing."""
