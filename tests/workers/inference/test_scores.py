"""The swift way to read scores: it says what the general way says, or leaves the answer to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.registry.models import Endpoint, InferenceAction, InputCodec, OutputCodec, TaskType
from workers.inference import codecs, oip
from workers.inference.scores import Scores

ENDPOINT = Endpoint(
    url="http://127.0.0.1:9",
    model_name="model",
    input_codec=InputCodec.TEXT,
    output_codec=OutputCodec.CLASSIFICATION,
    labels=["a", 'b"', "ü"],
)
ACTIONS = [InferenceAction.PREDICT_PROBA, InferenceAction.PREDICT]


def answer(data: Any, shape: list[int], **other: Any) -> bytes:
    return orjson.dumps({"outputs": [{"name": "scores", "datatype": "FP64", "shape": shape, "data": data, **other}]})


def generally(body: bytes, count: int, action: InferenceAction) -> list[str]:
    decode = codecs.decoder(ENDPOINT, TaskType.IMAGE_CLASSIFICATION, action, "scores")
    return decode(oip.decode(body), count)


@pytest.mark.parametrize("action", ACTIONS)
@given(rows=st.lists(st.tuples(*[st.floats(-1e30, 1e30) | st.integers(-5, 5)] * 3), min_size=1, max_size=6))
def test_it_reads_what_the_general_way_reads(action: InferenceAction, rows: list[tuple[float, ...]]) -> None:
    body = answer([score for row in rows for score in row], [len(rows), 3])
    swift = Scores(ENDPOINT, action, "scores").read(body, len(rows))
    assert swift is not None
    expected = generally(body, len(rows), action)
    assert [orjson.loads(text) for text in swift] == [orjson.loads(text) for text in expected]


@given(scores=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_a_score_that_a_server_wrote_as_a_float_of_32_bits_is_stored_as_such(scores: list[float]) -> None:
    """Most servers write the shortest text of the 32 bits: the same number is stored either way."""
    data = orjson.Fragment(orjson.dumps(np.array(scores, np.float32), option=orjson.OPT_SERIALIZE_NUMPY))
    body = answer(data, [1, 3], datatype="FP32")
    (swift,) = Scores(ENDPOINT, ACTIONS[0], "scores").read(body, 1) or []
    assert orjson.loads(swift) == orjson.loads(generally(body, 1, ACTIONS[0])[0])


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[]",
        b'{"outputs": {}}',
        b'{"outputs": []}',
        answer([1.0, 2.0, 3.0], [1, 3], name="other"),
        answer([1.0, 2.0, 3.0], [1, 3], datatype="INT8"),
        answer([1.0, 2.0, 3.0], [3]),
        answer([[1.0, 2.0, 3.0]], [1, 3]),
        answer([1.0, 2.0], [1, 3]),
        answer([1.0, 2.0, 3.0, 4.0], [1, 4]),
        answer([1.0, True, 3.0], [1, 3]),
        answer([1.0, None, 3.0], [1, 3]),
        answer([1.0, "2", 3.0], [1, 3]),
        answer([1.0, 3.5e38, 3.0], [1, 3]),
        answer([1.0, -3.5e38, 3.0], [1, 3]),
    ],
)
def test_anything_unusual_is_left_to_the_general_way(body: bytes) -> None:
    assert Scores(ENDPOINT, ACTIONS[0], "scores").read(body, 1) is None


def test_an_endpoint_of_another_kind_or_without_labels_is_left_to_the_general_way() -> None:
    body = answer([1.0, 2.0, 3.0], [1, 3])
    for change in ({"labels": None}, {"output_codec": OutputCodec.EMBEDDING}, {"labels": ["a", "b", "\0"]}):
        assert Scores(ENDPOINT.model_copy(update=change), ACTIONS[0], "scores").read(body, 1) is None
