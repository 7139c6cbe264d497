"""From a datum's bytes to a tensor, and from an answer to what is stored."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
import pytest

from orchestrator.registry.models import Endpoint, InferenceAction, InputCodec, OutputCodec, TaskType
from workers.inference import codecs
from workers.inference.failures import BadAnswer, EndpointRefused, ItemRefused
from workers.inference.oip import BYTES, Tensor, TensorSpec


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def encode(codec: InputCodec, datums: list[bytes], **spec: Any) -> Tensor:
    return codecs.encoder(codec, TensorSpec("x", **spec))(datums)


def decode(
    codec: OutputCodec,
    *outputs: Tensor,
    count: int,
    task_type: TaskType = TaskType.IMAGE_CLASSIFICATION,
    action: InferenceAction = InferenceAction.PREDICT_PROBA,
    labels: list[str] | None = None,
) -> list[Any]:
    endpoint = Endpoint(url="http://h", model_name="m", input_codec=InputCodec.TEXT, output_codec=codec, labels=labels)
    named = {f"y{at}": tensor for at, tensor in enumerate(outputs)}
    return [orjson.loads(text) for text in codecs.decoder(endpoint, task_type, action, None)(named, count)]


def fp32(rows: Any) -> Tensor:
    array = np.array(rows, "<f4")
    return Tensor("FP32", array.shape, array)


def texts(*elements: str, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(BYTES, shape or (len(elements),), [element.encode() for element in elements])


def test_images_are_base64_in_the_rank_that_the_model_declares() -> None:
    plain = encode(InputCodec.IMAGE_BASE64, [b"\xff\x00", b"hi"])
    rows = encode(InputCodec.IMAGE_BASE64, [b"\xff\x00", b"hi"], datatype="BYTES", shape=(-1, 1))
    assert (plain.shape, plain.data) == ((2,), [b"/wA=", b"aGk="])
    assert rows.shape == (2, 1)


def test_a_text_that_is_not_utf8_is_named_before_anything_is_sent() -> None:
    with pytest.raises(ItemRefused, match="UTF-8") as caught:
        encode(InputCodec.TEXT, [b"fine", b"\xff", "naïve".encode()])
    assert caught.value.culprits == {1}


def test_arrays_are_stacked_in_the_type_of_the_model() -> None:
    tensor = encode(InputCodec.TENSOR_NPY, [npy([1.0, 2.0]), npy([3.0, 4.0])], datatype="FP32", shape=(-1, 2))
    assert (tensor.datatype, tensor.shape) == ("FP32", (2, 2))
    assert np.asarray(tensor.data).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_big_endian_array_is_sent_little_endian() -> None:
    tensor = encode(InputCodec.TENSOR_NPY, [npy(np.array([1, 258], ">i4"))])
    assert tensor.datatype == "INT32"
    assert np.asarray(tensor.data).tobytes() == np.array([1, 258], "<i4").tobytes()


def test_a_flat_json_array_takes_the_shape_that_the_model_declares() -> None:
    tensor = encode(InputCodec.TENSOR_JSON, [b"[1,2,3,4]", b"[[5,6],[7,8]]"], datatype="FP32", shape=(-1, 2, 2))
    assert np.asarray(tensor.data).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_json_without_metadata_becomes_fp32() -> None:
    assert encode(InputCodec.TENSOR_JSON, [b"[1,2]", b"[0.5,1]"]).datatype == "FP32"


@pytest.mark.parametrize(
    "codec, broken",
    [
        (InputCodec.TENSOR_NPY, b""),
        (InputCodec.TENSOR_NPY, b"\x93NUMPY garbage"),
        (InputCodec.TENSOR_NPY, npy([1.0, 2.0])[:-3]),
        (InputCodec.TENSOR_NPY, npy(np.array([{}], dtype=object))),
        (InputCodec.TENSOR_NPY, npy(["text"])),
        (InputCodec.TENSOR_NPY, npy([1.0, np.nan])),
        (InputCodec.TENSOR_NPY, npy([1.0, 1e300])),
        (InputCodec.TENSOR_NPY, npy([1.0, 2.0, 3.0])),
        (InputCodec.TENSOR_JSON, b"[1,"),
        (InputCodec.TENSOR_JSON, b"7"),
        (InputCodec.TENSOR_JSON, b'["1","2"]'),
        (InputCodec.TENSOR_JSON, b"[[1],[2,3]]"),
        (InputCodec.TENSOR_JSON, b"[1,1e300]"),
    ],
)
def test_a_datum_that_cannot_become_a_tensor_is_named(codec: InputCodec, broken: bytes) -> None:
    good = npy([1.0, 2.0]) if codec is InputCodec.TENSOR_NPY else b"[1,2]"
    with pytest.raises(ItemRefused) as caught:
        encode(codec, [good, broken, good], datatype="FP32", shape=(-1, 2))
    assert caught.value.culprits == {1}


def test_an_integer_beyond_the_type_of_the_model_is_refused_and_not_wrapped() -> None:
    with pytest.raises(ItemRefused, match="beyond"):
        encode(InputCodec.TENSOR_NPY, [npy([300])], datatype="UINT8", shape=(-1, 1))


def test_unequal_shapes_in_one_batch_blame_nobody_in_particular() -> None:
    with pytest.raises(ItemRefused, match="different shapes") as caught:
        encode(InputCodec.TENSOR_NPY, [npy([1.0]), npy([1.0, 2.0])])
    assert caught.value.culprits == frozenset()


def test_probabilities_are_listed_best_first() -> None:
    answer = fp32([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    labels = ["cat", "dog", "cow"]
    both = decode(OutputCodec.CLASSIFICATION, answer, count=2, labels=labels)
    top = decode(OutputCodec.CLASSIFICATION, answer, count=2, labels=labels, action=InferenceAction.PREDICT)
    assert both[0] == [
        {"label": "dog", "score": 0.7},
        {"label": "cow", "score": 0.2},
        {"label": "cat", "score": 0.1},
    ]
    assert top == [[{"label": "dog", "score": 0.7}], [{"label": "cat", "score": 0.5}]]


def test_labels_may_come_in_a_second_output_for_all_or_for_each() -> None:
    answer = fp32([[0.1, 0.9], [0.8, 0.2]])
    shared = decode(OutputCodec.CLASSIFICATION, answer, texts("a", "b"), count=2)
    each = decode(OutputCodec.CLASSIFICATION, answer, texts("a", "b", "c", "d", shape=(2, 2)), count=2)
    assert [found[0]["label"] for found in shared] == ["b", "a"]
    assert [found[0]["label"] for found in each] == ["b", "c"]


def test_a_label_alone_counts_as_certain() -> None:
    assert decode(OutputCodec.CLASSIFICATION, texts("cat", "dog"), count=2) == [
        [{"label": "cat", "score": 1.0}],
        [{"label": "dog", "score": 1.0}],
    ]


def test_labels_that_do_not_match_the_model_blame_the_endpoint() -> None:
    with pytest.raises(EndpointRefused, match="2 labels"):
        decode(OutputCodec.CLASSIFICATION, fp32([[0.1, 0.2, 0.7]]), count=1, labels=["a", "b"])
    with pytest.raises(EndpointRefused, match="list its labels"):
        decode(OutputCodec.CLASSIFICATION, fp32([[0.1, 0.9]]), count=1)


def test_an_embedding_is_a_list_of_floats_and_version_one() -> None:
    found = decode(
        OutputCodec.EMBEDDING, fp32([[0.1, -2.5], [3.0, 0.0]]), count=2,
        task_type=TaskType.TEXT_EMBEDDING, action=InferenceAction.EMBED,
    )  # fmt: skip
    assert found == [[0.1, -2.5], [3.0, 0.0]]
    assert codecs.stored_version(OutputCodec.EMBEDDING) == "v1"
    assert codecs.stored_version(OutputCodec.OBJECTS) == "v2"


BOX = {"label": "cat", "score": 0.5, "xmin": 1, "ymin": 2, "xmax": 3.5, "ymax": 4}
ORIENTED = {"label": "ship", "score": 0.5, "cx": 0.5, "cy": 0.5, "w": 0.1, "h": 0.2, "r": 1.5}
SHAPE = {"label": "road", "contours": [[{"x": 1, "y": 2}, {"x": 3, "y": 4}, {"x": 5, "y": 1}]]}


@pytest.mark.parametrize(
    "task_type, found",
    [
        (TaskType.OBJECT_DETECTION, BOX),
        (TaskType.ORIENTED_OBJECT_DETECTION, ORIENTED),
        (TaskType.IMAGE_SEGMENTATION, SHAPE),
        (TaskType.IMAGE_SEGMENTATION, {**SHAPE, "score": 0.25}),
        (TaskType.OBJECT_DETECTION, {**BOX, "track": "kept as given"}),
    ],
)
def test_objects_are_kept_as_the_model_wrote_them(task_type: TaskType, found: dict[str, Any]) -> None:
    answer = texts(orjson.dumps([found, found]).decode(), "[]")
    assert decode(OutputCodec.OBJECTS, answer, count=2, task_type=task_type) == [[found, found], []]


def test_objects_may_be_an_element_each() -> None:
    answer = texts(*[orjson.dumps(BOX).decode()] * 2, shape=(1, 2))
    assert decode(OutputCodec.OBJECTS, answer, count=1, task_type=TaskType.OBJECT_DETECTION) == [[BOX, BOX]]


@pytest.mark.parametrize(
    "task_type, text",
    [
        (TaskType.OBJECT_DETECTION, "nonsense"),
        (TaskType.OBJECT_DETECTION, "[1]"),
        (TaskType.OBJECT_DETECTION, orjson.dumps([{**BOX, "score": None}]).decode()),
        (TaskType.OBJECT_DETECTION, orjson.dumps([{**BOX, "score": True}]).decode()),
        (TaskType.OBJECT_DETECTION, orjson.dumps([{**BOX, "label": 3}]).decode()),
        (TaskType.OBJECT_DETECTION, orjson.dumps([{**BOX, "label": "a\x00b"}]).decode()),
        (TaskType.OBJECT_DETECTION, '[{"label":"a","score":NaN}]'),
        (TaskType.ORIENTED_OBJECT_DETECTION, orjson.dumps([BOX]).decode()),
        (TaskType.IMAGE_SEGMENTATION, orjson.dumps([{"label": "a", "contours": [[1, 2]]}]).decode()),
        (TaskType.IMAGE_SEGMENTATION, orjson.dumps([{"label": "a", "contours": [7]}]).decode()),
    ],
)
def test_an_object_that_is_not_in_the_standard_form_blames_its_item(task_type: TaskType, text: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        decode(OutputCodec.OBJECTS, texts("[]", text), count=2, task_type=task_type)
    assert caught.value.culprits == {1}


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_blames_its_item(score: float) -> None:
    with pytest.raises(BadAnswer, match="NaN or infinity") as caught:
        decode(OutputCodec.CLASSIFICATION, fp32([[0.5, 0.5], [score, 0.5]]), count=2, labels=["a", "b"])
    assert caught.value.culprits == {1}


@pytest.mark.parametrize("answer", [fp32([[0.5, 0.5]]), fp32([[[0.5]], [[0.5]]]), fp32([0.5, 0.5]), fp32(1.0)])
def test_an_answer_of_another_shape_is_bad(answer: Tensor) -> None:
    with pytest.raises(BadAnswer):
        decode(OutputCodec.CLASSIFICATION, answer, count=2, labels=["a", "b"])


def test_a_codec_that_does_not_suit_the_task_is_refused() -> None:
    with pytest.raises(EndpointRefused, match="does not suit"):
        decode(OutputCodec.EMBEDDING, count=1, task_type=TaskType.OBJECT_DETECTION)
