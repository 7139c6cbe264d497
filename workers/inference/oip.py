"""The wire format of the Open Inference Protocol, version 2: bytes to tensors and back, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

#: The header that separates JSON from tensors in a binary body, in both directions.
CONTENT_LENGTH_HEADER: Final = "Inference-Header-Content-Length"
#: The name under which a server announces that it takes and gives binary tensors.
BINARY_EXTENSION: Final = "binary_tensor_data"
BYTES: Final = "BYTES"

#: NumPy's type for each datatype of the protocol but BYTES; the wire is little-endian.
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
DATATYPES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}

LENGTH = struct.Struct("<I")


class OipError(ValueError):
    """The bytes do not follow the protocol, or contradict themselves."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: an array of `shape`, or for BYTES its elements in row-major order."""

    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes]
    #: The elements hold nothing that JSON would escape, such as base64: they are written as they are.
    verbatim: bool = False


class TensorSpec(NamedTuple):
    """What a server's metadata says of a tensor; a size of -1 is free."""

    name: str
    datatype: str | None = None
    shape: tuple[int, ...] | None = None


class Metadata(NamedTuple):
    """The tensors that a model takes and gives."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


class RequestTemplate:
    """Writes infer requests that differ in one tensor only; whatever repeats is encoded once."""

    def __init__(
        self,
        input_name: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        input_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        name = orjson.dumps(input_name)
        hints = dict(input_parameters or {})
        extra = b',"parameters":' + orjson.dumps(hints) if hints else b""
        self.json_head = b'{"parameters":%b,"inputs":[{"name":%b%b,"datatype":"' % (
            orjson.dumps(dict(parameters or {})),
            name,
            extra,
        )
        self.binary_head = b'{"parameters":%b,"inputs":[{"name":%b,"datatype":"' % (
            orjson.dumps({**(parameters or {}), "binary_data_output": True}),
            name,
        )
        self.binary_hints = orjson.dumps(hints)[1:-1] + b"," if hints else b""

    def json(self, tensor: Tensor) -> bytes:
        """The request as JSON alone.

        Raises:
            OipError: a value has no form in JSON (NaN, infinity, BYTES that are not UTF-8).
        """
        return b'%b%b","shape":%b,"data":%b}]}' % (
            self.json_head,
            tensor.datatype.encode(),
            orjson.dumps(tensor.shape),
            json_data(tensor),
        )

    def binary(self, tensor: Tensor) -> tuple[bytes, int]:
        """The request with its tensor in binary, and the length of the JSON in front of it."""
        payload = binary_data(tensor)
        header = b'%b%b","shape":%b,"parameters":{%b"binary_data_size":%d}}]}' % (
            self.binary_head,
            tensor.datatype.encode(),
            orjson.dumps(tensor.shape),
            self.binary_hints,
            len(payload),
        )
        return header + payload, len(header)


def json_data(tensor: Tensor) -> bytes:
    """The elements of a tensor as one flat JSON list."""
    if isinstance(tensor.data, list):
        if tensor.verbatim:
            return b'["%b"]' % b'","'.join(tensor.data) if tensor.data else b"[]"
        try:
            return orjson.dumps([element.decode() for element in tensor.data])
        except UnicodeDecodeError as error:
            raise OipError(f"BYTES that are not UTF-8 have no form in JSON: {error.reason}") from error
    if tensor.data.dtype.kind == "f" and not np.isfinite(tensor.data).all():
        raise OipError("NaN and infinity have no form in JSON")
    return orjson.dumps(np.ascontiguousarray(tensor.data).reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)


def binary_data(tensor: Tensor) -> bytes:
    """The elements of a tensor little-endian, or each behind its length for BYTES."""
    if isinstance(tensor.data, list):
        return b"".join(chain.from_iterable((LENGTH.pack(len(element)), element) for element in tensor.data))
    return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def decode(body: bytes, header_length: int | None = None, *, member: str = "outputs") -> dict[str, Tensor]:
    """The named tensors of a response (or, by `member`, of a request), in the order they were sent.

    `header_length` is the value of `CONTENT_LENGTH_HEADER`, None where the body is JSON alone.

    Raises:
        OipError: not the protocol, or data that contradicts its own shape or datatype.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise OipError(f"a JSON part of {header_length} bytes does not fit into a body of {len(body)}")
    entries = member_of(parse_object(body if header_length is None else body[:header_length]), member)
    tail = BinaryTail(body, len(body) if header_length is None else header_length)
    tensors = dict(decode_tensor(entry, tail) for entry in entries)
    if len(tensors) != len(entries):
        raise OipError(f"two of the {member} have the same name")
    tail.expect_end()
    return tensors


def decode_metadata(body: bytes) -> Metadata:
    """Read a model's metadata; tensors without a name are left out, for there is no way to ask for them."""
    document = parse_object(body)
    return Metadata(list(specs(document.get("inputs"))), list(specs(document.get("outputs"))))


def specs(entries: Any) -> Iterator[TensorSpec]:
    """The tensors of one list of a model's metadata."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            datatype, shape = entry.get("datatype"), entry.get("shape")
            yield TensorSpec(
                entry["name"],
                datatype if isinstance(datatype, str) else None,
                tuple(shape) if isinstance(shape, list) and all(type(size) is int for size in shape) else None,
            )


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse `body` as a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise OipError(f"not JSON: {error.msg} at {error.pos}") from error
    if not isinstance(document, dict):
        raise OipError("not a JSON object")
    return document


def member_of(document: dict[str, Any], member: str) -> list[Any]:
    """The list of tensors under `member`."""
    entries = document.get(member)
    if not isinstance(entries, list):
        raise OipError(f"no list of {member}")
    return entries


class BinaryTail:
    """The tensors behind the JSON part, read in order and to the last byte."""

    def __init__(self, body: bytes, start: int) -> None:
        self.body = body
        self.position = start

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        end = self.position + size
        if end > len(self.body):
            raise OipError(f"a tensor of {size} bytes is cut off after {len(self.body) - self.position}")
        view = memoryview(self.body)[self.position : end]
        self.position = end
        return view

    def expect_end(self) -> None:
        """Refuse bytes that no tensor claims."""
        if self.position != len(self.body):
            raise OipError(f"{len(self.body) - self.position} bytes belong to no tensor")


def decode_tensor(entry: Any, tail: BinaryTail) -> tuple[str, Tensor]:
    """One tensor with its name, from its JSON and where it is binary from `tail`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise OipError("a tensor has no name")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in DTYPES):
        raise OipError(f"tensor {name!r} has the unknown datatype {datatype!r:.40}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise OipError(f"tensor {name!r} has no valid shape")
    try:
        data = tensor_data(entry, datatype, tuple(shape), tail)
    except ValueError as error:  # NumPy's too: it has no shape of 65 sizes, and none that is too large beside a 0
        raise OipError(f"tensor {name!r}: {error}") from error
    return name, Tensor(datatype, tuple(shape), data)


def tensor_data(
    entry: dict[str, Any], datatype: str, shape: tuple[int, ...], tail: BinaryTail
) -> NDArray[Any] | list[bytes]:
    """The elements of a tensor, wherever they are."""
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if type(size) is not int or size < 0:
            raise OipError(f"binary_data_size is {size!r:.40}")
        raw = tail.take(size)
        return elements_from_binary(raw, shape) if datatype == BYTES else array_from_binary(raw, datatype, shape)
    data = entry.get("data")
    if not isinstance(data, list):
        raise OipError("data is missing")
    return elements_from_json(data, shape) if datatype == BYTES else array_from_json(data, datatype, shape)


def array_from_binary(raw: memoryview, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A read-only view on the bytes of the body."""
    dtype = DTYPES[datatype]
    if len(raw) != prod(shape) * dtype.itemsize:
        raise OipError(f"{len(raw)} bytes are not {datatype} of shape {list(shape)}")
    if datatype == "BOOL" and np.any(np.frombuffer(raw, np.uint8) > 1):
        raise OipError("a BOOL is neither 0 nor 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def elements_from_binary(raw: memoryview, shape: tuple[int, ...]) -> list[bytes]:
    """BYTES elements, each behind its length in four bytes."""
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + LENGTH.size
        if start > len(raw):
            raise OipError("the length of a BYTES element is cut off")
        (length,) = LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise OipError("a BYTES element is cut off")
        elements.append(bytes(raw[start:position]))
    expect_count(len(elements), shape)
    return elements


def array_from_json(data: list[Any], datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array from a list, nested as `shape` says or flat."""
    try:
        array = exact_array(data, DTYPES[datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise OipError(f"data does not hold {datatype} values only") from error
    if array.shape == shape:
        return array
    # Nested lists end where a size is 0, so the sizes after it cannot be seen.
    if array.ndim != 1 and array.size > 0:
        raise OipError(f"data of shape {list(array.shape)} is not of shape {list(shape)}")
    expect_count(array.size, shape)
    return array.reshape(shape)


def exact_array(data: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of `dtype` with exactly the values of `data`: no text parsed, no fraction dropped, no wrapping."""
    found = np.array(data)
    if found.size == 0:
        return found.astype(dtype)
    if dtype.kind == "f" and found.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # becomes infinity, which the codecs refuse
            return found.astype(dtype)
    if dtype.kind == "b" and found.dtype.kind in "biu" and np.isin(found, (0, 1)).all():
        return found.astype(dtype)
    if dtype.kind in "iu" and found.dtype.kind in "iuf":
        # NumPy makes floats of integers beyond 63 bits; as objects they keep their value.
        exact = found if found.dtype.kind != "f" else np.array(data, dtype=object)
        if exact.dtype != object or all(type(value) is int for value in exact.flat):
            limits = np.iinfo(dtype)
            if limits.min <= int(exact.min()) and int(exact.max()) <= limits.max:
                return exact.astype(dtype)
    raise ValueError("values of another type")


def elements_from_json(data: list[Any], shape: tuple[int, ...]) -> list[bytes]:
    """BYTES elements from a list, nested as `shape` says or flat; anything but text is kept as its JSON."""
    elements = data
    for size in shape[1:]:
        if not all(isinstance(inner, list) and len(inner) == size for inner in elements):
            break
        elements = list(chain.from_iterable(elements))
    expect_count(len(elements), shape)
    return [element.encode() if isinstance(element, str) else orjson.dumps(element) for element in elements]


def expect_count(count: int, shape: tuple[int, ...]) -> None:
    """Refuse a number of elements that `shape` does not have."""
    if count != prod(shape):
        raise OipError(f"{count} elements are not of shape {list(shape)}")
