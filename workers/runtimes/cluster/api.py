"""The Kubernetes API as training needs it: a handful of calls of the official client, each with a time limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.settings import settings

if TYPE_CHECKING:
    from kubernetes.client import BatchV1Api, CoreV1Api
    from urllib3 import BaseHTTPResponse

#: An object of the API, as JSON has it: nothing is made of its many fields that nobody asks for.
Object = Mapping[str, Any]

#: Seconds for a connection, and for an answer.
TIMEOUT = (3.0, 10.0)
#: Seconds without a line after which a log that is followed is asked for again: its connection may be dead.
QUIET = 60.0
#: Seconds of a log that are asked for twice: its clock and ours may differ.
LAP = 10
#: Bytes of a log that are read at a time, at most.
PIECE = 1 << 16
#: Objects of one answer.
PAGE = 500


class Rejected(OrchestratorError):
    """The API itself understood the request, and refused it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Listed(NamedTuple):
    """Objects, and what time it was at the API when it listed them."""

    items: list[Object]
    now: datetime


class ClusterApi:
    """One namespace of the cluster that the settings name. Threads may share it.

    Every method raises `Unavailable` when the API cannot be reached, does not answer in time, or answers
    with 401, 403, 429 or a failure of its own, or when something before it answers in its place, such as a
    page to log in at: all these somebody mends, or they pass.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def jobs(self, selector: str) -> Listed:
        """Jobs with these labels."""
        return self._list(self._batch.list_namespaced_job, selector)

    def pods(self, selector: str) -> Listed:
        """Pods with these labels."""
        return self._list(self._core.list_namespaced_pod, selector)

    def job(self, name: str) -> Object | None:
        """The job of this name, if there is one."""
        return self._get(self._batch.read_namespaced_job, name)[0]

    def pod(self, name: str) -> Object | None:
        """The pod of this name, if there is one."""
        return self.timed_pod(name)[0]

    def timed_pod(self, name: str) -> tuple[Object | None, datetime]:
        """The same, and what time it was at the API."""
        return self._get(self._core.read_namespaced_pod, name)

    def create_job(self, body: Object) -> None:
        """Create a job.

        Raises:
            Rejected: 409 if one has its name, 400, 413 or 422 if it will never be taken.
        """
        self._call(self._batch.create_namespaced_job, body=body)

    def suspend_job(self, name: str) -> None:
        """Let no further pod of the job begin.

        Raises:
            Rejected: 404 if there is no such job.
        """
        self._call(
            self._batch.patch_namespaced_job,
            name=name,
            body={"spec": {"suspend": True}},
            _content_type="application/merge-patch+json",
        )

    def delete_job(self, name: str) -> None:
        """Delete a job and its pods; one that is gone is no error."""
        self._delete(self._batch.delete_namespaced_job, name, {"propagationPolicy": "Background"})

    def delete_pod(self, name: str, uid: str, grace: int) -> None:
        """Let this pod, and no later one of its name, end within so many seconds; one that is gone is no error."""
        self._delete(
            self._core.delete_namespaced_pod, name, {"gracePeriodSeconds": grace, "preconditions": {"uid": uid}}
        )

    @contextmanager
    def log(self, pod: str, container: str, since: datetime | None) -> Iterator[Iterator[bytes]]:
        """A container's log in pieces as they come, each line behind its time, until it or the connection has ended.

        Raises:
            Rejected: 400 while the container waits to be started, 404 if there is no such pod.
        """
        recent = (
            {} if since is None else {"since_seconds": max(1, int((datetime.now(UTC) - since).total_seconds()) + LAP)}
        )
        response = self._ask(
            self._core.read_namespaced_pod_log,
            name=pod,
            container=container,
            follow=True,
            timestamps=True,
            _request_timeout=(TIMEOUT[0], QUIET),
            **recent,
        )
        try:
            yield _pieces(response)
        finally:
            response.close()

    def _list(self, method: Callable[..., Any], selector: str) -> Listed:
        items: list[Object] = []
        options: dict[str, Any] = {"label_selector": selector, "limit": PAGE}
        while True:
            try:
                response = self._ask(method, **options)
            except Rejected as rejected:
                raise Unavailable(f"the Kubernetes API refused to list {selector}: {rejected.message}") from rejected
            page = _read(response)
            items += page["items"]
            following = page["metadata"].get("continue")
            if not following:
                return Listed(items, _date(response))
            options["_continue"] = following

    def _get(self, method: Callable[..., Any], name: str) -> tuple[Object | None, datetime]:
        try:
            response = self._ask(method, name=name)
            return _read(response), _date(response)
        except Rejected as rejected:
            if rejected.status == 404:
                return None, datetime.now(UTC)
            raise Unavailable(f"the Kubernetes API refused to show {name}: {rejected.message}") from rejected

    def _delete(self, method: Callable[..., Any], name: str, options: Object) -> None:
        try:
            self._call(method, name=name, body=options)
        except Rejected as rejected:
            # 409: another object has the name by now.
            if rejected.status not in (404, 409):
                raise Unavailable(f"the Kubernetes API refused to delete {name}: {rejected.message}") from rejected

    def _call(self, method: Callable[..., Any], **options: Any) -> Object:
        return _read(self._ask(method, **options))

    def _ask(self, method: Callable[..., Any], **options: Any) -> BaseHTTPResponse:
        """The answer to a call, whose body has not been read."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        options = {"namespace": self.namespace, "_request_timeout": TIMEOUT, "_preload_content": False, **options}
        try:
            response: BaseHTTPResponse = method(**options)
        except ApiException as error:
            status, refusal = int(error.status or 0), _refusal(error.body or "")
            if refusal is None or status in (401, 403, 408, 410, 429) or status >= 500:
                message = str(error.body or error.reason)[:500] if refusal is None else refusal
                raise Unavailable(f"the Kubernetes API answered {status}: {message}") from error
            raise Rejected(status, refusal) from error
        except (HTTPError, OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"the Kubernetes API does not answer: {error}") from error
        return response

    @cached_property
    def _batch(self) -> BatchV1Api:
        from kubernetes.client import BatchV1Api

        return BatchV1Api(self._client)

    @cached_property
    def _core(self) -> CoreV1Api:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._client)

    @cached_property
    def _client(self) -> Any:
        return connect()

    def close(self) -> None:
        """Close the connections that are kept open."""
        if "_client" in self.__dict__:
            self._client.close()


def connect() -> Any:
    """A client for the cluster that the settings name, else the one around this pod, else kubectl's.

    Raises:
        Unavailable: no cluster is named anywhere, or the extra is not installed.
    """
    if find_spec("kubernetes") is None:
        raise Unavailable("the Kubernetes client is not installed: `pip install 'orchestrator[kubernetes]'`")
    from kubernetes import client, config

    configuration = client.Configuration()
    named, context = settings().kubernetes_config, settings().kubernetes_context or None
    try:
        if named is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(
                None if named is None else str(named), context, client_configuration=configuration, persist_config=False
            )
    except config.ConfigException as error:
        raise Unavailable(f"no Kubernetes cluster: {error}; see ORCHESTRATOR_KUBERNETES_CONFIG") from error
    # Whoever asked asks again, later and with all else in mind.
    configuration.retries = False
    return client.ApiClient(configuration)


def _read(response: BaseHTTPResponse) -> Object:
    from urllib3.exceptions import HTTPError

    try:
        found = orjson.loads(response.data)
    except (HTTPError, OSError, ValueError) as error:
        raise Unavailable(f"the Kubernetes API broke off: {error}") from error
    if not isinstance(found, dict) or "kind" not in found:
        raise Unavailable("something else answers where the Kubernetes API should be")
    return found


def _pieces(response: BaseHTTPResponse) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        # Never by lines: of a trainer that prints without any, one would not end.
        yield from response.stream(PIECE)
    except (HTTPError, OSError) as error:
        raise Unavailable(f"the Kubernetes API broke off: {error}") from error


def _date(response: BaseHTTPResponse) -> datetime:
    """The API's clock, to the second; ours, if it does not tell."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _refusal(body: str | bytes) -> str | None:
    """What the API says; None if this is no Status object, which something between here and the API wrote."""
    try:
        said = orjson.loads(body)
    except ValueError:
        return None
    return str(said.get("message", "")) if isinstance(said, dict) and said.get("kind") == "Status" else None
