"""The wire format: what is written can be read, and what contradicts itself is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from workers.inference.oip import BYTES, DTYPES, OipError, RequestTemplate, Tensor, decode, decode_metadata

TEMPLATE = RequestTemplate("x", parameters={"action": "predict"}, input_parameters={"content_type": "np"})

shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def numeric(draw: st.DrawFn, *, finite: bool) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    options: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if finite else {}
    dtype = DTYPES[datatype]
    elements = npst.from_dtype(dtype, **options) if dtype.kind == "f" else npst.from_dtype(dtype)
    array = draw(npst.arrays(dtype, draw(shapes), elements=elements))
    return Tensor(datatype, array.shape, array)


@st.composite
def elements(draw: st.DrawFn, *, text: bool) -> Tensor:
    shape = draw(shapes)
    element = st.text().map(str.encode) if text else st.binary()
    count = int(np.prod(shape))
    return Tensor(BYTES, shape, draw(st.lists(element, min_size=count, max_size=count)))


def same(sent: Tensor, got: Tensor) -> bool:
    if (sent.datatype, sent.shape) != (got.datatype, got.shape):
        return False
    if isinstance(sent.data, list) or isinstance(got.data, list):
        return bool(sent.data == got.data)
    return got.data.dtype == sent.data.dtype and sent.data.tobytes() == got.data.tobytes()


def response(*outputs: dict[str, Any]) -> bytes:
    return orjson.dumps({"model_name": "m", "outputs": list(outputs)})


@given(numeric(finite=True) | elements(text=True))
def test_a_tensor_written_as_json_is_read_back_unchanged(tensor: Tensor) -> None:
    assert same(tensor, decode(TEMPLATE.json(tensor), member="inputs")["x"])


@given(numeric(finite=False) | elements(text=False))
def test_a_tensor_written_in_binary_is_read_back_unchanged(tensor: Tensor) -> None:
    body, length = TEMPLATE.binary(tensor)
    assert same(tensor, decode(body, length, member="inputs")["x"])


@given(numeric(finite=True))
def test_nested_and_flat_data_mean_the_same(tensor: Tensor) -> None:
    assert not isinstance(tensor.data, list)
    output = {"name": "y", "datatype": tensor.datatype, "shape": list(tensor.shape)}
    nested = decode(response(output | {"data": tensor.data.tolist()}))["y"]
    flat = decode(response(output | {"data": tensor.data.reshape(-1).tolist()}))["y"]
    assert same(nested, flat)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_whatever_a_server_sends_is_read_or_refused_as_a_protocol_error(body: bytes, length: int | None) -> None:
    try:
        tensors = decode(body, length)
    except OipError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())


def test_a_request_carries_its_parameters_in_both_forms() -> None:
    tensor = Tensor(BYTES, (1,), [b"aGk="], verbatim=True)
    plain = orjson.loads(TEMPLATE.json(tensor))
    body, length = TEMPLATE.binary(tensor)
    binary = orjson.loads(body[:length])
    assert plain == {
        "parameters": {"action": "predict"},
        "inputs": [
            {"name": "x", "parameters": {"content_type": "np"}, "datatype": "BYTES", "shape": [1], "data": ["aGk="]}
        ],
    }
    assert binary["parameters"] == {"action": "predict", "binary_data_output": True}
    assert binary["inputs"][0]["parameters"] == {"content_type": "np", "binary_data_size": 8}
    assert body[length:] == struct.pack("<I", 4) + b"aGk="


def test_several_binary_tensors_are_taken_in_their_order() -> None:
    first, second = np.array([1, 2], "<i4"), np.array([[0.5]], "<f8")
    header = response(
        {"name": "a", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "j", "datatype": "BOOL", "shape": [1], "data": [True]},
        {"name": "b", "datatype": "FP64", "shape": [1, 1], "parameters": {"binary_data_size": 8}},
    )
    outputs = decode(header + first.tobytes() + second.tobytes(), len(header))
    assert [list(np.asarray(tensor.data).flat) for tensor in outputs.values()] == [[1, 2], [True], [0.5]]


def test_objects_instead_of_text_in_a_bytes_tensor_are_kept_as_json() -> None:
    found = [{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}]
    outputs = decode(response({"name": "y", "datatype": "BYTES", "shape": [1], "data": [found]}))
    assert outputs["y"].data == [orjson.dumps(found)]


@pytest.mark.parametrize(
    "output, reason",
    [
        ({"datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3]}, "3 elements are not of shape"),
        ({"datatype": "FP32", "shape": [2, 2], "data": [[1, 2, 3, 4]]}, "is not of shape"),
        ({"datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3]]}, "FP32 values only"),
        ({"datatype": "FP32", "shape": [1], "data": ["1.5"]}, "FP32 values only"),
        ({"datatype": "FP32", "shape": [1], "data": [None]}, "FP32 values only"),
        ({"datatype": "INT32", "shape": [1], "data": [1.5]}, "INT32 values only"),
        ({"datatype": "UINT8", "shape": [1], "data": [256]}, "UINT8 values only"),
        ({"datatype": "UINT8", "shape": [1], "data": [-1]}, "UINT8 values only"),
        ({"datatype": "BOOL", "shape": [1], "data": [2]}, "BOOL values only"),
        ({"datatype": "BYTES", "shape": [2], "data": ["a"]}, "1 elements are not of shape"),
        ({"datatype": "FP32", "shape": [-1], "data": [1]}, "no valid shape"),
        ({"datatype": "FP32", "data": [1]}, "no valid shape"),
        ({"datatype": "FP8", "shape": [1], "data": [1]}, "unknown datatype"),
        ({"datatype": "FP32", "shape": [1]}, "data is missing"),
        ({"datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}, "cut off"),
        ({"datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}, "binary_data_size"),
        ({"datatype": "FP32", "shape": [1] * 65, "data": [1]}, "'y': "),
        ({"datatype": "FP32", "shape": [0, 2**62], "data": []}, "'y': "),
    ],
)
def test_an_output_that_contradicts_itself_is_refused(output: dict[str, Any], reason: str) -> None:
    with pytest.raises(OipError, match=reason):
        decode(response({"name": "y", **output}))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"outputs":1}', b'{"outputs":[1]}', b'{"outputs":[NaN]}'])
def test_a_body_that_is_no_response_is_refused(body: bytes) -> None:
    with pytest.raises(OipError):
        decode(body)


def test_bytes_behind_the_last_tensor_are_refused() -> None:
    header = response({"name": "y", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}})
    with pytest.raises(OipError, match="1 bytes belong to no tensor"):
        decode(header + b"\x01\x02", len(header))


def test_a_bytes_element_longer_than_its_tensor_is_refused() -> None:
    header = response({"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}})
    with pytest.raises(OipError, match="cut off"):
        decode(header + struct.pack("<I", 9) + b"ab", len(header))


def test_a_number_that_json_cannot_hold_is_refused_before_it_is_sent() -> None:
    with pytest.raises(OipError, match="NaN"):
        TEMPLATE.json(Tensor("FP32", (1,), np.array([np.nan], "<f4")))


def test_metadata_without_shapes_still_gives_names() -> None:
    metadata = decode_metadata(b'{"inputs":[{"name":"a"},{"shape":[1]},7],"outputs":null}')
    assert [spec.name for spec in metadata.inputs] == ["a"]
    assert metadata.outputs == []
