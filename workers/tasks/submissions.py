"""Submissions from any Celery producer: `orchestrator.submit` on the queue `submissions`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Reject
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.bulk_inference.submit import submit_message
from orchestrator.database import transact
from orchestrator.errors import ApiException, InvalidRequest
from orchestrator.inference_store.exports.submit import submit_message as submit_export
from orchestrator.inference_store.retention.submit import submit_message as submit_retention
from orchestrator.ledger.submissions import EXCERPT_LENGTH, reject
from orchestrator.queues import app
from orchestrator.training_v2.submit import submit_message as submit_run

log = structlog.get_logger(__name__)

#: What may be submitted: each takes the message's `spec` and its options and returns a job's id.
KINDS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
    "bulk_inference": submit_message,
    "export": submit_export,
    "retention": submit_retention,
    "training": submit_run,
}

OPTIONS = ("request_id", "failure_threshold", "priority")

#: Characters of a message's id that are kept; a longer one is no id that anybody made on purpose.
MESSAGE_ID_LENGTH = 255

#: Seconds before a message that met no database is handed back: it comes again at once.
PAUSE = 1.0


@app.task(name="orchestrator.submit", bind=True, typing=False)
def submit(self: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
    """Submit the job that the message describes, as its one argument or as keywords.

    `{"kind": "bulk_inference", "spec": {…}, "request_id": "…"}`; also `failure_threshold` and
    `priority`. A message that cannot be understood is recorded with the reason, and is gone.
    """
    try:
        accept(self.request.id, args, kwargs)
    except (InterfaceError, OperationalError, PoolTimeout, ProgrammingError) as error:
        # Nothing was written and the sender has moved on, so the message is all there is.
        log.warning("submission_deferred", message=self.request.id, error=str(error))
        time.sleep(PAUSE)
        raise Reject("the database is away, or has no tables", requeue=True) from error


def accept(message_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Submit a message's job and return its id, or record why not and return None."""
    message: Any = args[0] if len(args) == 1 and not kwargs else kwargs if not args else [*args, kwargs]
    try:
        # Without a request id a message delivered twice would be two jobs; its own id prevents that.
        return _submit(message, default_request_id=message_id)
    except ApiException as error:
        refuse(message_id, message, error.body)
    except (DataError, OverflowError, UnicodeEncodeError) as error:
        refuse(message_id, message, f"a value is none that a database stores: {getattr(error, 'orig', error)}")
    return None


def refuse(message_id: str, message: Any, reason: str) -> None:
    """Record that a message was refused, and why."""
    request_id = message.get("request_id") if isinstance(message, Mapping) else None
    log.warning("submission_rejected", message=message_id, reason=reason)
    transact(
        reject,
        message_id=message_id[:MESSAGE_ID_LENGTH],
        request_id=request_id if isinstance(request_id, str) else None,
        reason=reason,
        excerpt=repr(message)[:EXCERPT_LENGTH],
    )


def _submit(message: Any, default_request_id: str) -> str:
    if not isinstance(message, Mapping):
        raise InvalidRequest('The message must be one object: {"kind": …, "spec": {…}, "request_id": …}')
    unknown = set(message) - {"kind", "spec", *OPTIONS}
    if unknown:
        raise InvalidRequest(f"Unknown fields: {', '.join(sorted(map(repr, unknown)))}")
    kind, spec = message.get("kind"), message.get("spec")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidRequest(f"kind: {kind!r} is not one of {', '.join(sorted(KINDS))}")
    if not isinstance(spec, Mapping):
        raise InvalidRequest(f"spec: an object is needed, not {type(spec).__name__}")
    options = {name: message[name] for name in OPTIONS if message.get(name) is not None}
    return KINDS[kind](spec, {"request_id": default_request_id, **options})
