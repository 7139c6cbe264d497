"""What a status or a broken connection means, and what is kept of the message."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import clock
from workers.inference.failures import (
    MESSAGE_LENGTH,
    RETRY_AFTER_CAP,
    FailureClass,
    Overloaded,
    Transient,
    classify_response,
    retry_after_seconds,
    sanitised,
)


@pytest.mark.parametrize(
    "status, body, expected",
    [
        (500, b"", FailureClass.TRANSIENT),
        (502, b"<html>", FailureClass.TRANSIENT),
        (504, b"", FailureClass.TRANSIENT),
        (408, b"", FailureClass.TRANSIENT),
        (429, b"", FailureClass.OVERLOAD),
        (503, b"", FailureClass.OVERLOAD),
        (401, b"", FailureClass.ENDPOINT),
        (403, b"", FailureClass.ENDPOINT),
        (404, b'{"error":"unknown model"}', FailureClass.ENDPOINT),
        (302, b"", FailureClass.ENDPOINT),
        (400, b'{"error":"Request for unknown model: \'x\' is not found"}', FailureClass.ENDPOINT),
        (400, b'{"error":"cannot decode image"}', FailureClass.ITEM),
        (413, b"", FailureClass.ITEM),
        (422, b"", FailureClass.ITEM),
    ],
)
def test_each_status_has_its_class(status: int, body: bytes, expected: FailureClass) -> None:
    failure = classify_response(status, body)
    assert failure.failure_class is expected
    assert failure.status == status


def test_a_timeout_status_counts_as_a_timeout_and_a_crash_does_not() -> None:
    timeout, crash = classify_response(504, b""), classify_response(500, b"")
    assert isinstance(timeout, Transient)
    assert timeout.timed_out
    assert isinstance(crash, Transient)
    assert not crash.timed_out


def test_retry_after_is_read_in_seconds_and_as_a_date_and_is_capped() -> None:
    soon = format_datetime(clock.now() + timedelta(seconds=20), usegmt=True)
    past = format_datetime(clock.now() - timedelta(hours=1), usegmt=True)
    failure = classify_response(503, b"", "7")
    assert isinstance(failure, Overloaded)
    assert failure.retry_after == 7
    assert retry_after_seconds("86400") == RETRY_AFTER_CAP
    assert 0 < (retry_after_seconds(soon) or 0) <= 20
    assert retry_after_seconds(past) == 0
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("-5") is None
    assert retry_after_seconds(None) is None


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 99999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2015 99999999999999999999:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 +99999999999999",
    ],
)
def test_a_retry_after_that_is_no_date_says_nothing(value: str) -> None:
    assert retry_after_seconds(value) is None


@given(st.text(max_size=2000))
def test_a_message_is_one_bounded_line_that_a_database_stores(text: str) -> None:
    message = sanitised(text)
    assert len(message) <= MESSAGE_LENGTH
    assert message.isprintable() or not any(ord(char) < 32 or char == "\x7f" for char in message)
    assert "\x00" not in message
    message.encode()


def test_a_payload_that_comes_back_in_an_error_is_not_kept() -> None:
    payload = "QUJD" * 100
    message = classify_response(400, f'{{"error":"bad input {payload} at row 3"}}'.encode()).message
    assert message == "HTTP 400: bad input QUJDQUJDQUJDQUJD… at row 3"
