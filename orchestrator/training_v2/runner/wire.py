"""What a trainer and its supervisor say to each other, over a Unix stream socket.

A message is a length in four bytes and that much JSON: its name, then its fields. A connection that carries metrics
and progress has no answers but to `Flush`; every other request has one. Files cross as open descriptors, so that each
side opens only what it may open itself, and nobody follows a path of the other's.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import NamedTuple

from orchestrator.training_v2.exceptions import (
    CheckpointDoesNotExistError,
    RunnerError,
    StaleLaunch,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.measured import NewMetric

#: The name of the socket in a run's folder.
SOCKET = "socket"
#: Bytes; whatever claims to be longer is none of ours.
LONGEST = 16 << 20
#: Metrics in one message: with the longest tags in their longest spelling they fit.
METRICS = 1000

_LENGTH = struct.Struct(">I")


class Progress(NamedTuple):
    """How far an operation has come."""

    operation: str
    value: float
    final_value: float
    units: str


class Metrics(NamedTuple):
    """Keep these, too; no answer."""

    metrics: list[NewMetric]


class CurrentProgress(NamedTuple):
    """This is the progress now; no answer."""

    progress: list[Progress]


class Flush(NamedTuple):
    """Say when everything that came over this connection is stored; `Done`."""


class Begin(NamedTuple):
    """A checkpoint is being written; `Begun`."""

    global_step: int


class Keep(NamedTuple):
    """Store a file of it, from the descriptor that comes along; `Done`."""

    checkpoint_id: str
    path: str


class Complete(NamedTuple):
    """It is whole; `Done` when everyone can see that."""

    checkpoint_id: str


class Discard(NamedTuple):
    """Forget it; `Done`."""

    checkpoint_id: str


class Find(NamedTuple):
    """What is in a complete checkpoint, by default the run's latest; `Found`."""

    checkpoint_id: str | None


class Fill(NamedTuple):
    """Write the file with this number in `Found.paths` to the descriptor that comes along; `Done`."""

    checkpoint_id: str
    number: int


class Done(NamedTuple):
    """What was asked for has been done."""


class Begun(NamedTuple):
    """A checkpoint that is incomplete."""

    checkpoint_id: str


class Found(NamedTuple):
    """A checkpoint that is complete."""

    checkpoint_id: str
    global_step: int
    paths: list[str]


class Refused(NamedTuple):
    """What was asked for was not done: the name of an error, and what it says or is about."""

    error: str
    about: str


Request = Metrics | CurrentProgress | Flush | Begin | Keep | Complete | Discard | Find | Fill
Answer = Done | Begun | Found | Refused
Message = Request | Answer


class WireError(RunnerError):
    """What arrived is no message."""


def encode(message: Message) -> bytes:
    """The message as it goes over the socket."""
    body = json.dumps([type(message).__name__, *message], separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:  # noqa: C901, PLR0911, PLR0912  one line for each message is the plainest form
    """The message of a body.

    Raises:
        WireError: it is none.
    """
    try:
        said = json.loads(body)
        match said:
            case ["Metrics", list(rows)]:
                return Metrics([_metric(row) for row in rows])
            case ["CurrentProgress", list(rows)]:
                return CurrentProgress([_progress(row) for row in rows])
            case ["Flush"]:
                return Flush()
            case ["Begin", int(step)]:
                return Begin(step)
            case ["Keep", str(checkpoint_id), str(path)]:
                return Keep(checkpoint_id, path)
            case ["Complete", str(checkpoint_id)]:
                return Complete(checkpoint_id)
            case ["Discard", str(checkpoint_id)]:
                return Discard(checkpoint_id)
            case ["Find", str() | None as checkpoint_id]:
                return Find(checkpoint_id)
            case ["Fill", str(checkpoint_id), int(number)]:
                return Fill(checkpoint_id, number)
            case ["Done"]:
                return Done()
            case ["Begun", str(checkpoint_id)]:
                return Begun(checkpoint_id)
            case ["Found", str(checkpoint_id), int(step), list(paths)]:
                return Found(checkpoint_id, step, [_text(path) for path in paths])
            case ["Refused", str(error), str(about)]:
                return Refused(error, about)
    except (ValueError, RecursionError) as error:
        raise WireError(f"what arrived is no message: {error}") from None
    raise WireError(f"what arrived is no message: {body[:80]!r}")


def send(connection: socket.socket, message: Message, descriptor: int | None = None) -> None:
    """Send a message, with an open file if there is one to go along."""
    data = encode(message)
    if descriptor is not None:
        data = data[socket.send_fds(connection, [data], [descriptor]) :]
    # Nothing at all would be an error as soon as the other end, which has everything, has answered and gone.
    if data:
        connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Message, int | None] | None:
    """The next message, and the descriptor that came along, which is the caller's to close; None at the end.

    Raises:
        WireError: what arrived is no message.
    """
    head, descriptor = _head(connection)
    try:
        if len(head) < _LENGTH.size:
            body = None
        elif (length := _LENGTH.unpack(head)[0]) > LONGEST:
            raise WireError(f"what arrived is no message: it claims to have {length} bytes")
        else:
            body = _exactly(connection, length)
        if body is not None:
            message, kept, descriptor = decode(body), descriptor, None
            return message, kept
        return None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def refusal(error: Exception) -> Refused:
    """How an error is told to the trainer."""
    about = error.id if isinstance(error, CheckpointDoesNotExistError) else str(error)
    return Refused(type(error).__name__, about)


def error_of(refused: Refused, run_id: str, launch: int) -> Exception:
    """The error that was told."""
    match refused.error:
        case "StaleLaunch":
            return StaleLaunch(run_id, launch)
        case "CheckpointDoesNotExistError":
            return CheckpointDoesNotExistError(refused.about)
        case "ValidationError":
            return ValidationError(refused.about)
        case "TrainingConflict":
            return TrainingConflict(refused.about)
        case _:
            return RunnerError(f"{refused.error}: {refused.about}")


def _head(connection: socket.socket) -> tuple[bytes, int | None]:
    """The length of the next message; less than that at the end of the connection."""
    head, found = b"", None
    while len(head) < _LENGTH.size:
        part, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size - len(head), 1)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            if found is not None:
                os.close(found)
            found = descriptor
        if not part:
            break
        head += part
    return head, found


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    """So many bytes; None if the connection ends before."""
    body = bytearray(length)
    view, filled = memoryview(body), 0
    while filled < length:
        count = connection.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return bytes(body)


def _metric(row: object) -> NewMetric:
    match row:
        case [int(step), str(tag), int() | float() | None as value]:
            return NewMetric(step, tag, value)
    raise ValueError(f"{row!r:.80} is no metric")


def _progress(row: object) -> Progress:
    match row:
        case [str(operation), int() | float() as value, int() | float() as final_value, str(units)]:
            return Progress(operation, value, final_value, units)
    raise ValueError(f"{row!r:.80} is no progress")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text")  # noqa: TRY004  becomes a WireError as the others do
    return value
