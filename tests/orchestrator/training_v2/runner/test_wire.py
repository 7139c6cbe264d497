"""The wire: every message arrives as it was sent, and whatever else arrives is refused."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training_v2.exceptions import (
    CheckpointDoesNotExistError,
    RunnerError,
    StaleLaunch,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.measured import LARGEST_STEP, LONGEST_TAG, NewMetric
from orchestrator.training_v2.runner import wire
from orchestrator.training_v2.runner.measuring import BARS, LONGEST_OPERATION, LONGEST_UNITS

Pair = tuple[socket.socket, socket.socket]

TEXTS = st.text(st.characters(), max_size=20)  # with lone surrogates, which file names may have
STEPS = st.integers(0, LARGEST_STEP)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.builds(NewMetric, STEPS, TEXTS, st.none() | st.floats(allow_nan=False))
MESSAGES = st.one_of(
    st.builds(wire.Metrics, st.lists(METRICS, max_size=5)),
    st.builds(wire.CurrentProgress, st.lists(st.builds(wire.Progress, TEXTS, FINITE, FINITE, TEXTS), max_size=3)),
    st.just(wire.Flush()),
    st.builds(wire.Begin, STEPS),
    st.builds(wire.Keep, TEXTS, TEXTS),
    st.builds(wire.Complete, TEXTS),
    st.builds(wire.Discard, TEXTS),
    st.builds(wire.Find, st.none() | TEXTS),
    st.builds(wire.Fill, TEXTS, st.integers()),
    st.just(wire.Done()),
    st.builds(wire.Begun, TEXTS),
    st.builds(wire.Found, TEXTS, STEPS, st.lists(TEXTS, max_size=3)),
    st.builds(wire.Refused, TEXTS, TEXTS),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@given(MESSAGES)
def test_a_message_is_decoded_as_it_was_encoded(message: wire.Message) -> None:
    decoded = wire.decode(wire.encode(message)[4:])
    assert (type(decoded), decoded) == (type(message), message)


def test_values_that_are_not_finite_arrive() -> None:
    sent = wire.Metrics([NewMetric(1, "x", math.nan), NewMetric(1, "x", -math.inf), NewMetric(1, "x", None)])
    arrived = wire.decode(wire.encode(sent)[4:])
    assert isinstance(arrived, wire.Metrics)
    assert repr(arrived) == repr(sent)


def check_refused(body: bytes) -> None:
    """What is decoded nevertheless must be a message."""
    try:
        decoded = wire.decode(body)
    except wire.WireError:
        return
    assert repr(wire.decode(wire.encode(decoded)[4:])) == repr(decoded)


@given(st.binary() | JSON.map(lambda said: json.dumps(said).encode()))
def test_whatever_is_no_message_is_refused(body: bytes) -> None:
    check_refused(body)


@given(st.sampled_from(["Metrics", "CurrentProgress", "Begin", "Keep", "Find", "Fill", "Found", "Refused"]), JSON, JSON)
def test_a_message_with_wrong_fields_is_refused(name: str, one: object, other: object) -> None:
    for fields in ([one], [other, one], [[one, other]], [[[one, other, one]]]):
        check_refused(json.dumps([name, *fields]).encode())


@pytest.mark.parametrize("body", [b"[" * 100_000, b'["Metrics",' * 2000, b'["Begin", ' + b"9" * 10_000 + b"]"])
def test_bodies_that_break_a_parser_are_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(body)


@given(st.lists(MESSAGES, max_size=8))
def test_messages_arrive_one_after_another(messages: list[wire.Message]) -> None:
    one, other = socket.socketpair()
    with other:
        with one:
            for message in messages:
                wire.send(one, message)
        assert [wire.receive(other) for _ in messages] == [(message, None) for message in messages]
        assert wire.receive(other) is None


def test_the_largest_batch_fits() -> None:
    metrics = [NewMetric(LARGEST_STEP, "\U0001f642" * LONGEST_TAG, -1.2345678901234567e-300)] * wire.METRICS
    assert len(wire.encode(wire.Metrics(metrics))) < wire.LONGEST


def test_the_longest_progress_fits() -> None:
    bar = wire.Progress("\N{GRINNING FACE}" * LONGEST_OPERATION, -1e-300, -1e-300, "\N{GRINNING FACE}" * LONGEST_UNITS)
    assert len(wire.encode(wire.CurrentProgress([bar] * BARS))) < wire.LONGEST


def test_a_message_that_claims_to_be_huge_is_refused(pair: Pair) -> None:
    pair[0].sendall(struct.pack(">I", wire.LONGEST + 1))
    with pytest.raises(wire.WireError, match="claims to have"):
        wire.receive(pair[1])


@pytest.mark.parametrize("left", [0, 1, 3, 4, 9])
def test_a_message_that_breaks_off_is_none(pair: Pair, left: int) -> None:
    pair[0].sendall(wire.encode(wire.Begin(7))[:left])
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_an_open_file_comes_along(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    with (tmp_path / "weights").open("rb") as file:
        wire.send(pair[0], wire.Keep("id", "weights"), file.fileno())
        wire.send(pair[0], wire.Flush())
    received = wire.receive(pair[1])
    assert received is not None
    message, descriptor = received
    assert message == wire.Keep("id", "weights")
    assert descriptor is not None
    assert not os.get_inheritable(descriptor)
    with os.fdopen(descriptor, "rb") as arrived:
        assert arrived.read() == b"weights"
    assert wire.receive(pair[1]) == (wire.Flush(), None)


def test_files_that_come_with_rubbish_are_closed(pair: Pair) -> None:
    reads, writes = os.pipe()
    socket.send_fds(pair[0], [struct.pack(">I", 3) + b"???"], [writes])
    os.close(writes)
    with pytest.raises(wire.WireError):
        wire.receive(pair[1])
    assert os.read(reads, 1) == b""
    os.close(reads)


@pytest.mark.parametrize(
    "error",
    [
        ValidationError("tag 'x' is wrong"),
        TrainingConflict("it is incomplete"),
        CheckpointDoesNotExistError("some id"),
        StaleLaunch("run", 3),
    ],
)
def test_an_error_is_told_as_what_it_is(error: Exception) -> None:
    told = wire.error_of(wire.refusal(error), "run", 3)
    assert (type(told), str(told)) == (type(error), str(error))


def test_any_other_error_is_told_by_its_name() -> None:
    told = wire.error_of(wire.refusal(ZeroDivisionError("division by zero")), "run", 3)
    assert type(told) is RunnerError
    assert str(told) == "ZeroDivisionError: division by zero"
