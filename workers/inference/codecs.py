"""What tensors mean: the bytes of datums become an input tensor, output tensors become stored inferences."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, prod
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from pybase64 import b64encode

from orchestrator.registry.models import Endpoint, InferenceAction, InputCodec, OutputCodec, TaskType
from workers.inference.failures import BadAnswer, EndpointRefused, ItemRefused
from workers.inference.oip import BYTES, DATATYPES, DTYPES, Tensor, TensorSpec, exact_array

Encoder = Callable[[Sequence[bytes]], Tensor]
#: Takes the outputs and the number of datums; gives one JSON text a datum.
Decoder = Callable[[Mapping[str, Tensor], int], list[str]]

#: What an input's `parameters` say, for servers that decode by content type.
HINTS: Final[Mapping[InputCodec, dict[str, str]]] = {
    InputCodec.IMAGE_BASE64: {"content_type": "base64"},
    InputCodec.TEXT: {"content_type": "str"},
}
#: The tasks whose answers each output codec can store.
TASKS: Final[Mapping[OutputCodec, frozenset[TaskType]]] = {
    OutputCodec.CLASSIFICATION: frozenset({TaskType.IMAGE_CLASSIFICATION}),
    OutputCodec.EMBEDDING: frozenset({TaskType.IMAGE_EMBEDDING, TaskType.TEXT_EMBEDDING}),
    OutputCodec.OBJECTS: frozenset(TaskType) - {TaskType.IMAGE_EMBEDDING, TaskType.TEXT_EMBEDDING},
}
#: The numbers that each object of a standard list must have.
NUMBERS: Final[Mapping[TaskType, tuple[str, ...]]] = {
    TaskType.IMAGE_CLASSIFICATION: ("score",),
    TaskType.OBJECT_DETECTION: ("score", "xmin", "ymin", "xmax", "ymax"),
    TaskType.ORIENTED_OBJECT_DETECTION: ("score", "cx", "cy", "w", "h", "r"),
    TaskType.IMAGE_SEGMENTATION: (),
}


def encoder(codec: InputCodec, spec: TensorSpec) -> Encoder:
    """The function that turns datums into the input tensor `spec`; it raises `ItemRefused` for those it cannot."""
    # Servers that batch want each string in a row of its own, and say so by the rank of the shape.
    ones = (1,) * (len(spec.shape) - 1) if spec.shape else ()
    if codec is InputCodec.IMAGE_BASE64:
        return lambda datums: encode_images(datums, ones)
    if codec is InputCodec.TEXT:
        return lambda datums: encode_texts(datums, ones)
    dtype = DTYPES.get(spec.datatype or "")
    row = spec.shape[1:] if spec.shape and min(spec.shape[1:], default=-1) >= 0 else None
    if codec is InputCodec.TENSOR_NPY:
        return lambda datums: stack([load_npy(datum, at) for at, datum in enumerate(datums)], dtype, row)
    exact = dtype or DTYPES["FP32"]
    return lambda datums: stack([load_json(datum, at, exact) for at, datum in enumerate(datums)], exact, row)


def encode_images(datums: Sequence[bytes], row: tuple[int, ...]) -> Tensor:
    """Files as base64."""
    data = [b64encode(datum) for datum in datums]
    return Tensor(BYTES, (len(data), *row), data, verbatim=True)


def encode_texts(datums: Sequence[bytes], row: tuple[int, ...]) -> Tensor:
    """Texts as they are, once they are known to be UTF-8."""
    broken = [at for at, datum in enumerate(datums) if not is_utf8(datum)]
    if broken:
        raise ItemRefused("the datum is not UTF-8 text", culprits=broken)
    return Tensor(BYTES, (len(datums), *row), list(datums))


def is_utf8(datum: bytes) -> bool:
    """Whether `datum` is text."""
    try:
        datum.decode()
    except UnicodeDecodeError:
        return False
    return True


def load_npy(datum: bytes, at: int) -> NDArray[Any]:
    """The array of a .npy file; object arrays, which are pickles, are refused."""
    try:
        return np.lib.format.read_array(io.BytesIO(datum), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ItemRefused(f"the datum is not a .npy file that can be read: {error}", culprits=[at]) from error


def load_json(datum: bytes, at: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of a JSON list, none of whose values `dtype` would change beyond rounding."""
    try:
        values = orjson.loads(datum)
        if isinstance(values, list):
            return exact_array(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ItemRefused(f"the datum is not a JSON array of {DATATYPES[dtype]} values", culprits=[at]) from error
    raise ItemRefused(f"the datum is not a JSON array of {DATATYPES[dtype]} values", culprits=[at])


def stack(arrays: Sequence[NDArray[Any]], dtype: np.dtype[Any] | None, row: tuple[int, ...] | None) -> Tensor:
    """One tensor of equal items, in the type and row shape that the model declares, where it does."""
    items = [fit(array, at, dtype, row) for at, array in enumerate(arrays)]
    first = items[0]
    if any(item.shape != first.shape or item.dtype != first.dtype for item in items):
        raise ItemRefused("the datums of one batch have tensors of different shapes or types")
    batch = np.stack(items)
    return Tensor(DATATYPES[batch.dtype], batch.shape, batch)


def fit(array: NDArray[Any], at: int, dtype: np.dtype[Any] | None, row: tuple[int, ...] | None) -> NDArray[Any]:
    """`array` as the model wants it: cast where nothing but precision is lost, reshaped where the size agrees."""
    wanted = dtype or array.dtype.newbyteorder("<")
    if wanted not in DATATYPES or not (
        are_integers(array.dtype, wanted) or np.can_cast(array.dtype, wanted, "same_kind")
    ):
        raise ItemRefused(f"the datum holds {array.dtype}, the model takes {dtype or 'numbers'}", culprits=[at])
    if row is not None and array.size != prod(row):
        raise ItemRefused(f"the datum has shape {array.shape}, the model takes {row}", culprits=[at])
    with np.errstate(over="ignore"):
        fitted = array.astype(wanted, copy=False)
    if fitted.dtype.kind == "f" and not np.isfinite(fitted).all():
        raise ItemRefused("the datum holds NaN, infinity, or a number that becomes it", culprits=[at])
    if fitted.dtype.kind in "iu" and not np.array_equal(fitted, array):
        raise ItemRefused(f"the datum holds numbers beyond {wanted}", culprits=[at])
    return fitted if row is None else fitted.reshape(row)


def are_integers(*dtypes: np.dtype[Any]) -> bool:
    """Whether all of `dtypes` are integers, of any size and sign."""
    return all(dtype.kind in "iu" for dtype in dtypes)


def stored_version(codec: OutputCodec) -> str:
    """`v2` for the standard lists, which can be searched by label and score; else `v1`."""
    return "v1" if codec is OutputCodec.EMBEDDING else "v2"


def decoder(endpoint: Endpoint, task_type: TaskType, action: InferenceAction, output_name: str | None) -> Decoder:
    """The function that turns output tensors into one JSON text a datum; it raises `BadAnswer` when it cannot.

    Raises:
        EndpointRefused: the output codec cannot store what such a model says.
    """
    codec = endpoint.output_codec
    if task_type not in TASKS[codec]:
        raise EndpointRefused(f"the output codec {codec.value!r} does not suit the task {task_type.value!r}")
    top_only = action is InferenceAction.PREDICT

    def decode(outputs: Mapping[str, Tensor], count: int) -> list[str]:
        tensor = chosen(outputs, output_name, count)
        match codec:
            case OutputCodec.EMBEDDING:
                return decode_embeddings(tensor)
            case OutputCodec.OBJECTS:
                return decode_objects(tensor, count, task_type, top_only)
            case OutputCodec.CLASSIFICATION:
                return decode_classes(tensor, outputs, endpoint.labels, top_only)

    return decode


def chosen(outputs: Mapping[str, Tensor], name: str | None, count: int) -> Tensor:
    """The output that holds the answer, checked to have a row for every datum."""
    tensor = next(iter(outputs.values()), None) if name is None else outputs.get(name)
    if tensor is None:
        raise BadAnswer(f"bad answer: no output {name or ''!r} among {sorted(outputs)}")
    if not tensor.shape or tensor.shape[0] != count:
        raise BadAnswer(f"bad answer: an output of shape {list(tensor.shape)} for {count} datums")
    return tensor


def finite_rows(tensor: Tensor, what: str) -> NDArray[Any]:
    """The numbers of a two-dimensional tensor, all of them finite."""
    if isinstance(tensor.data, list) or tensor.data.ndim != 2 or tensor.data.shape[1] == 0 or tensor.datatype == "BOOL":
        raise BadAnswer(f"bad answer: {what} need a row of numbers each, not {tensor.datatype} {list(tensor.shape)}")
    finite = np.isfinite(tensor.data)
    if not finite.all():
        raise BadAnswer(
            f"bad answer: {what} hold NaN or infinity", culprits=np.flatnonzero(~finite.all(axis=1)).tolist()
        )
    return tensor.data


def decode_embeddings(tensor: Tensor) -> list[str]:
    """One JSON list of floats a datum."""
    # A tensor inside a binary body may start at any byte, and orjson reads aligned numbers only.
    rows = np.require(finite_rows(tensor, "embeddings"), requirements=["C", "A"])
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in rows]


def decode_classes(
    tensor: Tensor, outputs: Mapping[str, Tensor], labels: list[str] | None, top_only: bool
) -> list[str]:
    """Labels with scores, best first, from probabilities by class or from one label a datum."""
    if isinstance(tensor.data, list):
        if prod(tensor.shape) != tensor.shape[0]:
            raise BadAnswer(f"bad answer: labels of shape {list(tensor.shape)} are not one a datum")
        return [dump([{"label": label_of(raw, at), "score": 1.0}], at) for at, raw in enumerate(tensor.data)]
    scores = finite_rows(tensor, "scores")
    names = class_names(scores.shape, outputs, labels)
    if top_only:
        best = scores.argmax(axis=1).tolist()
        return [dump([{"label": names[at][column], "score": scores[at, column]}], at) for at, column in enumerate(best)]
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable").tolist()
    return [
        dump([{"label": names[at][column], "score": scores[at, column]} for column in columns], at)
        for at, columns in enumerate(order)
    ]


def class_names(
    shape: tuple[int, ...], outputs: Mapping[str, Tensor], labels: list[str] | None
) -> Sequence[Sequence[str]]:
    """The label of each score: by the endpoint's labels, else by the answer's second output."""
    count, classes = shape
    if labels is not None:
        if len(labels) != classes:
            raise EndpointRefused(f"the endpoint lists {len(labels)} labels, the model answers with {classes} scores")
        return [labels] * count
    named = next((other for other in outputs.values() if isinstance(other.data, list)), None)
    if named is None or not isinstance(named.data, list):
        raise EndpointRefused("the model answers with scores alone: list its labels at the endpoint")
    texts = [label_of(raw, 0) for raw in named.data]
    if len(texts) == classes:
        return [texts] * count
    if len(texts) == count * classes:
        return [texts[at * classes : (at + 1) * classes] for at in range(count)]
    raise BadAnswer(f"bad answer: {len(texts)} labels for scores of shape {list(shape)}")


def label_of(raw: bytes, at: int) -> str:
    """A label as text."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadAnswer("bad answer: a label is not UTF-8", culprits=[at]) from error


def decode_objects(tensor: Tensor, count: int, task_type: TaskType, top_only: bool) -> list[str]:
    """The standard list that the model wrote itself, checked and otherwise kept as it is."""
    if not isinstance(tensor.data, list):
        raise BadAnswer(f"bad answer: objects need a BYTES output, not {tensor.datatype}")
    width = len(tensor.data) // count
    rows = [tensor.data[at * width : (at + 1) * width] for at in range(count)]
    return [dump(standard_list(row, at, task_type, top_only), at) for at, row in enumerate(rows)]


def standard_list(row: Sequence[bytes], at: int, task_type: TaskType, top_only: bool) -> list[dict[str, Any]]:
    """The objects of one datum: one element with a JSON list of them, or an element each."""
    try:
        values = [orjson.loads(element) for element in row]
    except orjson.JSONDecodeError as error:
        raise BadAnswer(f"bad answer: objects are not JSON: {error.msg}", culprits=[at]) from error
    objects = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    for found in objects:
        problem = flaw(found, task_type)
        if problem:
            raise BadAnswer(f"bad answer: {problem}", culprits=[at])
    if task_type is not TaskType.IMAGE_CLASSIFICATION:
        return list(objects)
    ranked = sorted(objects, key=lambda found: -float(found["score"]))
    return ranked[:1] if top_only else ranked


def flaw(found: Any, task_type: TaskType) -> str | None:
    """What keeps `found` out of a standard list of `task_type`, if anything does."""
    if not isinstance(found, dict):
        return "an element is not an object"
    if not isinstance(found.get("label"), str):
        return "an object has no label"
    for key in NUMBERS[task_type]:
        if not is_number(found.get(key)):
            return f"an object's {key} is not a finite number"
    if task_type is TaskType.IMAGE_SEGMENTATION:
        if found.get("score") is not None and not is_number(found["score"]):
            return "an object's score is not a finite number"
        if not are_contours(found.get("contours")):
            return "an object's contours are not lists of points"
    return None


def are_contours(value: Any) -> bool:
    """Whether `value` is a list of lists of `{x, y}`."""
    return are_lists(value) and all(
        isinstance(point, dict) and is_number(point.get("x")) and is_number(point.get("y"))
        for contour in value
        for point in contour
    )


def are_lists(value: Any) -> bool:
    """Whether `value` is a list of lists."""
    return isinstance(value, list) and all(isinstance(inner, list) for inner in value)


def is_number(value: Any) -> bool:
    """A finite number; JSON's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def dump(objects: Iterable[dict[str, Any]], at: int) -> str:
    """The JSON text of a standard list."""
    text = orjson.dumps(objects, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if "\\u0000" in text:
        raise BadAnswer("bad answer: a text holds a NUL character, which databases refuse", culprits=[at])
    return text
