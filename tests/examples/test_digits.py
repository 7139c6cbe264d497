"""The digits example: the data set that it writes, and its server over real HTTP."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from examples.digits import images, wire
from examples.digits.dataset import LABELS, write_dataset
from examples.digits.train import train_and_save

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def model(dataset: Path) -> Path:
    path = dataset.parent / f"{dataset.name}.joblib"
    train_and_save(dataset, path)
    return path


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[httpx.Client]:
    """The server as its README starts it, on the port that it prints."""
    command = [sys.executable, "-m", "examples.digits.server", "--port", "0", "--model", str(model)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=30) as client:
                yield client
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def digits(dataset: Path) -> list[tuple[bytes, str]]:
    """The PNG files of the split `test` with their labels."""
    lines = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
    return [
        ((dataset / line["path"]).read_bytes(), line["annotations"][0]["class_label"])
        for line in lines
        if line["path"].startswith("test/")
    ]


def message(*pngs: bytes, **changes: Any) -> dict[str, Any]:
    """An infer request in JSON; `changes` replace parts of its input tensor."""
    data = [base64.b64encode(png).decode() for png in pngs]
    return {"inputs": [{"name": "image", "shape": [len(pngs)], "datatype": "BYTES", "data": data, **changes}]}


def binary_message(elements: list[bytes], **header: Any) -> tuple[bytes, dict[str, str]]:
    """The same in the binary tensor extension: the body and its headers."""
    tensor = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    parameters = {"binary_data_size": len(tensor)}
    inputs = [{"name": "image", "shape": [len(elements)], "datatype": "BYTES", "parameters": parameters}]
    text = json.dumps({"inputs": inputs, **header}).encode()
    return text + tensor, {wire.JSON_LENGTH: str(len(text))}


def probabilities(response: httpx.Response) -> np.ndarray[Any, Any]:
    """The rows of a JSON answer."""
    assert response.status_code == 200, response.text
    (tensor,) = response.json()["outputs"]
    assert (tensor["name"], tensor["datatype"]) == ("probabilities", "FP32")
    return np.array(tensor["data"]).reshape(tensor["shape"])


class TestDataset:
    def test_it_holds_every_digit_once_in_two_splits(self, dataset: Path) -> None:
        lines = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
        paths = [line["path"] for line in lines]
        assert len(lines) == len(set(paths)) == 1797
        assert sum(path.startswith("test/") for path in paths) == 597
        assert sorted(paths) == sorted(p.relative_to(dataset).as_posix() for p in dataset.glob("*/*.png"))

    def test_images_and_labels_are_those_of_scikit_learn(self, dataset: Path) -> None:
        source = load_digits()
        lines = [json.loads(line) for line in (dataset / "annotations.jsonl").read_text().splitlines()]
        assert [line["annotations"] for line in lines] == [[{"class_label": str(d)}] for d in source.target]
        for line, pixels in list(zip(lines, source.images, strict=True))[::100]:
            shades = images.decode((dataset / line["path"]).read_bytes()) * images.SHADES
            assert np.rint(shades).reshape(8, 8).tolist() == pixels.tolist()

    def test_writing_it_again_changes_nothing(self, dataset: Path) -> None:
        before = (dataset / "annotations.jsonl").read_bytes()
        assert write_dataset(dataset) == {"train": 1200, "test": 597}
        assert (dataset / "annotations.jsonl").read_bytes() == before

    def test_the_classifier_is_right_nine_times_in_ten(self, dataset: Path, tmp_path: Path) -> None:
        assert train_and_save(dataset, tmp_path / "model.joblib") > 0.9


class TestMetadata:
    @pytest.mark.parametrize(
        "path",
        [
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/digits/ready",
            "/v2/models/digits/versions/1/ready",
        ],
    )
    def test_it_is_alive_and_ready(self, server: httpx.Client, path: str) -> None:
        assert server.get(path).status_code == 200

    def test_it_offers_the_binary_extension(self, server: httpx.Client) -> None:
        assert server.get("/v2").json()["extensions"] == ["binary_tensor_data"]

    @pytest.mark.parametrize("path", ["/v2/models/digits", "/v2/models/digits/versions/1"])
    def test_it_describes_its_tensors(self, server: httpx.Client, path: str) -> None:
        metadata = server.get(path).json()
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]


class TestInference:
    def test_it_recognises_the_test_digits(self, server: httpx.Client, digits: list[tuple[bytes, str]]) -> None:
        rows = probabilities(server.post(INFER, json=message(*(png for png, _ in digits))))
        assert rows.shape == (597, 10)
        assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
        hits = [LABELS[row.argmax()] == label for row, (_, label) in zip(rows, digits, strict=True)]
        assert sum(hits) / len(hits) > 0.9

    def test_the_answer_names_model_version_and_request(
        self, server: httpx.Client, digits: list[tuple[bytes, str]]
    ) -> None:
        answer = server.post(INFER, json={"id": "seven", **message(digits[0][0])}).json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "seven")
        assert answer["outputs"][0]["shape"] == [1, 10]

    def test_a_column_of_images_is_a_batch(self, server: httpx.Client, digits: list[tuple[bytes, str]]) -> None:
        pngs = [png for png, _ in digits[:3]]
        column = message(*pngs, shape=[3, 1], data=[[base64.b64encode(png).decode()] for png in pngs])
        flat = probabilities(server.post(INFER, json=message(*pngs)))
        assert probabilities(server.post(INFER, json=column)).tolist() == flat.tolist()

    @pytest.mark.parametrize("encode", [bytes, base64.b64encode], ids=["raw", "base64"])
    def test_bytes_in_give_the_same_as_json(self, server: httpx.Client, digits: Any, encode: Any) -> None:
        pngs = [png for png, _ in digits[:5]]
        body, headers = binary_message([encode(png) for png in pngs])
        expected = probabilities(server.post(INFER, json=message(*pngs)))
        assert probabilities(server.post(INFER, content=body, headers=headers)).tolist() == expected.tolist()

    @pytest.mark.parametrize(
        "wish",
        [
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]},
        ],
        ids=["all outputs", "this output"],
    )
    def test_bytes_out_give_the_same_as_json(self, server: httpx.Client, digits: Any, wish: dict[str, Any]) -> None:
        request = message(digits[0][0], digits[1][0])
        expected = probabilities(server.post(INFER, json=request))
        response = server.post(INFER, json={**request, **wish})
        length = int(response.headers[wire.JSON_LENGTH])
        (tensor,) = json.loads(response.content[:length])["outputs"]
        assert tensor["parameters"] == {"binary_data_size": 80}
        rows = np.frombuffer(response.content[length:], dtype="<f4").reshape(tensor["shape"])
        assert rows.tolist() == expected.astype(np.float32).tolist()

    def test_a_larger_image_is_scaled_down(self, server: httpx.Client) -> None:
        pixels = load_digits().images[1300]
        small, large = images.encode(pixels), images.encode(np.kron(pixels, np.ones((4, 4))))
        answers = probabilities(server.post(INFER, json=message(small, large)))
        assert answers[0].tolist() == answers[1].tolist()


class TestRefusals:
    @pytest.mark.parametrize(
        "method, path, status",
        [
            ("GET", "/v2/models/letters", 404),
            ("GET", "/v2/models/letters/ready", 404),
            ("GET", "/v2/models/digits/versions/2", 404),
            ("POST", "/v2/models/letters/infer", 404),
            ("GET", INFER, 405),
            ("GET", "/nowhere", 404),
        ],
    )
    def test_what_is_not_there_is_said_with_its_status(
        self, server: httpx.Client, method: str, path: str, status: int
    ) -> None:
        response = server.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]

    @pytest.mark.parametrize(
        "request_body, reason",
        [
            (b"{", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "must be a JSON object"),
            (b'{"inputs": []}', "exactly one input"),
            (message(b"x", name="sound"), "unknown input 'sound'"),
            (message(b"x", datatype="FP32"), "BYTES"),
            (message(b"x", shape=[2]), "2 elements"),
            (message(b"x", shape=[0]), "positive integers"),
            (message(b"x", shape=[1, 8, 8]), r"has the shape \[N\]"),
            (message(b"x", data=None), "no data"),
            (message(b"x", data=[7]), "strings"),
            (message(b"x", data=["%%%"]), "element 0 is not base64"),
            (message(b"x", data=["\ud800"]), "element 0 is not base64"),
            (message(b"x", parameters=[1]), "parameters must be an object"),
            (message(b"a text"), "element 0: this is not a PNG file"),
            ({**message(images.encode(np.zeros((8, 8)))), "outputs": [{"name": "embedding"}]}, "unknown output"),
        ],
    )
    def test_a_bad_request_is_refused_with_the_reason(
        self, server: httpx.Client, request_body: Any, reason: str
    ) -> None:
        body = request_body if isinstance(request_body, bytes) else json.dumps(request_body).encode()
        response = server.post(INFER, content=body)
        assert response.status_code == 400
        assert_error(response, reason)

    def test_a_broken_image_is_named(self, server: httpx.Client, digits: list[tuple[bytes, str]]) -> None:
        good = digits[0][0]
        response = server.post(INFER, json=message(good, good[: len(good) // 2]))
        assert response.status_code == 400
        assert_error(response, "element 1: this PNG file is broken")

    def test_an_enormous_image_is_refused(self, server: httpx.Client) -> None:
        response = server.post(INFER, json=message(images.encode(np.zeros((1025, 8)))))
        assert_error(response, "8 x 1025 pixels is too large")

    @pytest.mark.parametrize(
        "spoil, reason",
        [
            (lambda body, headers: (body[:-1], headers), "bytes follow"),
            (lambda body, headers: (body, {wire.JSON_LENGTH: "many"}), "must be a number"),
            (lambda body, headers: (body, {wire.JSON_LENGTH: "9" * 5000}), "must be a number"),
            (lambda body, headers: (body, {wire.JSON_LENGTH: "99999"}), "but the body has"),
        ],
    )
    def test_a_binary_message_that_does_not_add_up_is_refused(
        self, server: httpx.Client, digits: list[tuple[bytes, str]], spoil: Any, reason: str
    ) -> None:
        body, headers = spoil(*binary_message([digits[0][0]]))
        response = server.post(INFER, content=body, headers=headers)
        assert response.status_code == 400
        assert_error(response, reason)

    def test_an_element_that_is_cut_off_is_refused(self) -> None:
        with pytest.raises(wire.BadRequest, match="cut off"):
            wire.binary_elements(b"\x09\x00\x00\x00four")

    def test_too_large_a_body_is_refused(self, server: httpx.Client) -> None:
        response = server.post(INFER, content=b" " * (16 * 1024 * 1024 + 1))
        assert response.status_code == 413
        assert_error(response, "may have 16777216 bytes")


def assert_error(response: httpx.Response, reason: str) -> None:
    """The body is what the protocol wants, and says why."""
    error = response.json()
    assert set(error) == {"error"}
    assert re.search(reason, error["error"]), error["error"]
