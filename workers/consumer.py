"""The worker's consumer, which survives any message, and keeps a record of submissions that no task can read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery import bootsteps
from celery.exceptions import InvalidTaskError
from celery.worker import consumer
from kombu import Message
from kombu.exceptions import ContentDisallowed, DecodeError
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.database import transact
from orchestrator.ledger.submissions import reject
from orchestrator.queues import QueueName

log = structlog.get_logger(__name__)

#: Seconds between two signs that the event loop goes round.
ROUND = 1.0


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery ships no types
    """Celery's own, told by the setting `worker_consumer`.

    A message that cannot become a task is gone either way; one from the queue `submissions` had a
    sender who waits for a job, and is kept as a rejection that says why.
    """

    #: Called by the event loop every `ROUND` seconds, as long as it goes round with a broker connection.
    on_round: Callable[[], None] = staticmethod(lambda: None)

    def register_with_event_loop(self, hub: Any) -> None:
        """Celery's own, at each connection anew; the loop forgets its timers when it loses one."""
        super().register_with_event_loop(hub)
        self.on_round()
        hub.call_repeatedly(ROUND, self.go_round)

    def go_round(self) -> None:
        """Whatever `on_round` is by now: the timer begins before the worker is ready."""
        self.on_round()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        """Celery's handler for each message, behind a check of its form."""
        receive = super().create_task_handler(*args, **kwargs)
        connection = self.connection

        def on_task_received(message: Message) -> None:
            # Of this message alone, which Celery hands on with its task.
            own: Any = message
            own.ack_log_error = partial(self.settle, connection, message.ack)
            own.reject_log_error = partial(self.settle, connection, message.reject)
            try:
                check_form(message)
                receive(message)
            except DecodeError as error:
                self.on_decode_error(message, error)
            except (InvalidTaskError, ContentDisallowed) as error:
                self.on_invalid_task(None, message, error)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                # A header that Celery did not expect: raised further, it would end the worker, and then
                # the next one that is given the message.
                if message.acknowledged:
                    raise
                self.on_invalid_task(None, message, InvalidTaskError(f"a header is malformed: {error!r}"))

        return on_task_received

    def settle(self, connection: Any, act: Callable[..., None], _: Any, errors: Any, *args: Any, **kwargs: Any) -> None:
        """Acknowledge or reject a message that came over this connection; when that fails, connect again.

        Celery's own logs the error and goes on. The message then keeps its place among those at hand, and a
        worker whose places are all kept takes no other message, for ever.
        """
        try:
            act(*args, **kwargs)
        except errors as error:
            if self.connection is connection and self.blueprint.state == bootsteps.RUN:
                raise
            log.warning("message_not_settled", error=str(error))

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """The body is not what its content type says."""
        remember(message, f"the body cannot be decoded: {exc}")
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        """The message names no task."""
        remember(message, "the message names no task: send it with Celery's send_task")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        """The message names a task that no worker has."""
        remember(message, f"there is no task {exc}: send orchestrator.submit")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        """The message is no task message, or of a kind that is not accepted."""
        remember(message, str(exc))
        super().on_invalid_task(body, message, exc)


def check_form(message: Message) -> None:
    """Refuse what Celery would stumble over later: in a child, out of our sight, or in the loop of the worker itself.

    Raises:
        InvalidTaskError: the body is not `[args, kwargs, embed]`, or the message has no id.
        DecodeError, ContentDisallowed: the body cannot be read, or must not be.
    """
    headers, body = message.headers or {}, message.payload
    match body:
        case [list(), dict(), dict() | None] if "task" in headers:
            identified = headers
        case {"task": str(), **rest} if isinstance(rest.get("args", []), list | tuple):
            identified = body
        case _ if "task" in headers:
            raise InvalidTaskError("the body is not [args, kwargs, embed]")
        case _:
            return  # no task message at all, which Celery finds by itself
    if not isinstance(identified.get("id"), str):
        raise InvalidTaskError("the message has no id")


def remember(message: Message, reason: str) -> None:
    """Keep a rejection, if the message was a submission; when that fails, the log is all that is left of it."""
    if (message.delivery_info or {}).get("routing_key") != QueueName.SUBMISSIONS:
        return
    headers = message.headers or {}
    message_id = headers.get("id") or (message.properties or {}).get("correlation_id")
    try:
        transact(
            reject,
            message_id=message_id[:255] if isinstance(message_id, str) else None,
            request_id=None,
            reason=reason,
            excerpt=repr(message.body),
        )
    except SQLAlchemyError as error:
        log.exception("rejection_not_kept", message=message_id, reason=reason, error=str(error))
