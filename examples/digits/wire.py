"""The Open Inference Protocol's messages, as far as a model with one BYTES input and one FP32 output needs them."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.digits.images import PNG_SIGNATURE

INPUT = "image"
OUTPUT = "probabilities"
#: Says how many bytes of a body are JSON; tensors follow.
JSON_LENGTH = "Inference-Header-Content-Length"


class BadRequest(ValueError):
    """The client's mistake, said in one line."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks for."""

    id: str | None
    #: PNG files, one an item.
    images: list[bytes]
    #: Whether the probabilities are wanted as bytes rather than as JSON.
    binary: bool


def parse(body: bytes, json_length: str | None) -> InferRequest:
    """Read a request; `json_length` is the header of the binary tensor extension, where it was sent.

    Raises:
        BadRequest: the message breaks the protocol or asks for tensors that this model lacks.
    """
    header, tensors = split(body, json_length)
    tensor = only_input(header)
    count = element_count(tensor)
    size = mapping(tensor, "parameters").get("binary_data_size")
    if size is None:
        if tensors:
            raise BadRequest("there are bytes after the JSON, but the input has no binary_data_size")
        elements = json_elements(tensor.get("data"))
    elif size != len(tensors):
        raise BadRequest(f"binary_data_size is {size}, but {len(tensors)} bytes follow the JSON")
    else:
        elements = binary_elements(tensors)
    if len(elements) != count:
        raise BadRequest(f"the shape says {count} elements, the data holds {len(elements)}")
    request_id = header.get("id")
    return InferRequest(
        id=request_id if isinstance(request_id, str) else None,
        images=[png_of(element, index) for index, element in enumerate(elements)],
        binary=wants_binary(header),
    )


def split(body: bytes, json_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part, and the bytes behind it."""
    if json_length is not None and not re.fullmatch("[0-9]{1,10}", json_length):
        raise BadRequest(f"{JSON_LENGTH} must be a number, not {json_length!r}")
    length = len(body) if json_length is None else int(json_length)
    if length > len(body):
        raise BadRequest(f"{JSON_LENGTH} is {length}, but the body has {len(body)} bytes")
    try:
        header = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not JSON") from error
    if not isinstance(header, dict):
        raise BadRequest("the request must be a JSON object")
    return header, body[length:]


def only_input(header: dict[str, Any]) -> dict[str, Any]:
    """The one input tensor, of the right name and datatype."""
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"expected exactly one input, {INPUT!r}")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise BadRequest(f"unknown input {tensor.get('name')!r}: the model's input is {INPUT!r}")
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"{INPUT!r} is of datatype BYTES, not {tensor.get('datatype')!r}")
    return tensor


def element_count(tensor: dict[str, Any]) -> int:
    """How many images the shape announces: [N], or [N, 1] as some clients write it."""
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        raise BadRequest("the shape must be a list of positive integers")
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        return int(shape[0])
    raise BadRequest(f"{INPUT!r} has the shape [N], not {shape}")


def mapping(owner: dict[str, Any], name: str) -> dict[str, Any]:
    """An optional JSON object."""
    value = owner.get(name) or {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object")
    return value


def json_elements(data: Any) -> list[bytes]:
    """The elements of a BYTES tensor in JSON, flat or one to a row."""
    if not isinstance(data, list):
        raise BadRequest("the input has no data")
    flat = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
    if not all(isinstance(item, str) for item in flat):
        raise BadRequest("elements of a BYTES tensor are strings")
    # A lone surrogate is no text; it survives here, and is refused as no base64.
    return [item.encode(errors="surrogatepass") for item in flat]


def binary_elements(tensor: bytes) -> list[bytes]:
    """The elements of a BYTES tensor in bytes: each after its length, in four bytes, little-endian."""
    elements, position = [], 0
    while position < len(tensor):
        start = position + 4
        position = start + int.from_bytes(tensor[position:start], "little")
        if position > len(tensor) or start > len(tensor):
            raise BadRequest("the last element is cut off")
        elements.append(tensor[start:position])
    return elements


def png_of(element: bytes, index: int) -> bytes:
    """The PNG file in an element: base64, or as it is, which only the binary extension can carry."""
    if element.startswith(PNG_SIGNATURE):
        return element
    try:
        return base64.b64decode(element, validate=True)
    except binascii.Error as error:
        raise BadRequest(f"element {index} is not base64") from error


def wants_binary(header: dict[str, Any]) -> bool:
    """Whether the request wants bytes: said of all outputs, or of this one, which rules."""
    binary = bool(mapping(header, "parameters").get("binary_data_output", False))
    outputs = header.get("outputs") or []
    if not isinstance(outputs, list):
        raise BadRequest("outputs must be a list")
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") != OUTPUT:
            raise BadRequest(f"unknown output: the model's output is {OUTPUT!r}")
        binary = bool(mapping(output, "parameters").get("binary_data", binary))
    return binary


def answer(
    request: InferRequest, probabilities: NDArray[np.float32], model: dict[str, str]
) -> tuple[bytes, int | None]:
    """The body of the response, and the length of its JSON where bytes follow."""
    tensor: dict[str, Any] = {"name": OUTPUT, "shape": list(probabilities.shape), "datatype": "FP32"}
    header = {**model, **({"id": request.id} if request.id is not None else {}), "outputs": [tensor]}
    if not request.binary:
        tensor["data"] = probabilities.ravel().tolist()
        return json.dumps(header).encode(), None
    raw = probabilities.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    text = json.dumps(header).encode()
    return text + raw, len(text)
