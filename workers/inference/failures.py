"""How a request to a model server fails: a closed set of errors, and the rules that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import ClassVar

import orjson
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError

from orchestrator import clock
from orchestrator.errors import OrchestratorError

#: Characters of a message that are kept.
MESSAGE_LENGTH = 500
#: The longest wait a server may ask for, in seconds; beyond it the unit is better postponed.
RETRY_AFTER_CAP = 30.0

TIMEOUT_STATUSES = frozenset({408, 504})
OVERLOAD_STATUSES = frozenset({429, 503})
ENDPOINT_STATUSES = frozenset({401, 403, 404})
#: Triton says 400 where others say 404.
UNKNOWN_MODEL = re.compile(r"request for unknown model\b", re.IGNORECASE)
#: A run without spaces this long is no prose: most likely the payload, sent back.
ECHO = re.compile(r"\S{80,}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class FailureClass(StrEnum):
    """What a failure says, and about whom."""

    TRANSIENT = "transient"  #: about this request: the same again may succeed
    OVERLOAD = "overload"  #: about the server's load: fewer at a time will succeed
    UNREACHABLE = "unreachable"  #: about the server: nobody answers
    ITEM = "item"  #: about the batch or an item in it
    ENDPOINT = "endpoint"  #: about the registration: no request will ever succeed


class InferenceFailure(OrchestratorError):
    """A request to a model server failed; `status` is its HTTP status, where there was an answer."""

    failure_class: ClassVar[FailureClass]

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.message = sanitised(message)
        self.status = status
        super().__init__(self.message)


class Transient(InferenceFailure):
    """A reset, a timeout or a 5xx: the same request may succeed."""

    failure_class = FailureClass.TRANSIENT

    def __init__(self, message: str, *, status: int | None = None, timed_out: bool = False) -> None:
        super().__init__(message, status=status)
        self.timed_out = timed_out


class Overloaded(InferenceFailure):
    """The server asks for fewer requests; `retry_after` is in seconds."""

    failure_class = FailureClass.OVERLOAD

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class Unreachable(InferenceFailure):
    """Nobody answers, or the server says that it is not ready: no item is to blame."""

    failure_class = FailureClass.UNREACHABLE


class Busy(Unreachable):
    """The server answers, try after try, that it has too much to do: it is asked by too many."""


class EndpointRefused(InferenceFailure):
    """The endpoint will refuse every request alike: credentials, address, model or tensors are wrong."""

    failure_class = FailureClass.ENDPOINT


class ItemRefused(InferenceFailure):
    """The batch cannot be inferred; `culprits` are the positions in it that are known to be at fault."""

    failure_class = FailureClass.ITEM

    def __init__(self, message: str, *, status: int | None = None, culprits: Iterable[int] = ()) -> None:
        super().__init__(message, status=status)
        self.culprits = frozenset(culprits)


class BadAnswer(ItemRefused):
    """The server said 200 and answered with something that cannot be stored."""


def classify_response(status: int, body: bytes, retry_after: str | None = None) -> InferenceFailure:
    """What an answer other than 2xx means."""
    message = f"HTTP {status}: {error_text(body)}"
    if status in OVERLOAD_STATUSES:
        return Overloaded(message, status=status, retry_after=retry_after_seconds(retry_after))
    if status in TIMEOUT_STATUSES or status >= 500:
        return Transient(message, status=status, timed_out=status in TIMEOUT_STATUSES)
    if status in ENDPOINT_STATUSES or UNKNOWN_MODEL.search(message):
        return EndpointRefused(message, status=status)
    if 300 <= status < 400:
        return EndpointRefused(f"HTTP {status}: redirects are not followed", status=status)
    return ItemRefused(message, status=status)


def classify_error(error: PyreqwestError) -> InferenceFailure:
    """What it means that there was no answer.

    The causes decide, not the type: the client calls a reset a connect error, too.
    """
    details = error.details if isinstance(error, DetailedPyreqwestError) else {"causes": None}
    causes = [cause["message"] for cause in details["causes"] or []]
    # The outermost cause names the URL, which helps nobody who reads the row of a failed item.
    reason = ": ".join(causes[1:]) or str(error.message)
    if isinstance(error, BuilderError):
        return EndpointRefused(f"the request cannot be built: {reason}")
    if any("(Connect)" in cause for cause in causes):
        return Unreachable(f"cannot connect: {reason}")
    if isinstance(error, TimeoutError):
        return Transient(f"timed out: {reason}", timed_out=True)
    return Transient(f"the connection broke: {reason}")


def retry_after_seconds(value: str | None) -> float | None:
    """A Retry-After header, in seconds or as an HTTP date, as seconds from now up to `RETRY_AFTER_CAP`."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_CAP)
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None  # the latter for numbers that are no year and no hour
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return min(max((instant - clock.now()).total_seconds(), 0.0), RETRY_AFTER_CAP)


def error_text(body: bytes) -> str:
    """What the server says went wrong: the protocol's `error` member, else the body as text."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        text = document.get("error") or document.get("detail")
        if isinstance(text, str):
            return text
    return body[: 4 * MESSAGE_LENGTH].decode(errors="replace") or "no reason given"


def sanitised(message: str) -> str:
    """One bounded line that any database stores, without what looks like a payload."""
    line = UNPRINTABLE.sub(" ", message[: 8 * MESSAGE_LENGTH])
    line = ECHO.sub(lambda run: f"{run[0][:16]}…", line).strip()
    return line if len(line) <= MESSAGE_LENGTH else f"{line[: MESSAGE_LENGTH - 1]}…"
