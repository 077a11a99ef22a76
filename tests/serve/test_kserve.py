"""KServe v2, as tritonclient speaks it, and as JSON typed by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.serve.client import Running

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.host) as made:
        yield made


def texts_of(name: str, *values: str, shape: tuple[int, ...] = ()) -> triton.InferInput:
    array = np.array([value.encode() for value in values], dtype=object).reshape(shape or (len(values),))
    made = triton.InferInput(name, list(array.shape), "BYTES")
    made.set_data_from_numpy(array)
    return made


def numbers_of(name: str, array: np.ndarray, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), "INT64" if array.dtype == np.int64 else "INT32")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def predictions(folder: Path, *texts: dict[str, str]) -> list[dict[str, Any]]:
    model = load_trained(folder, torch.device("cpu"))
    return Predictor(model).predict(model.task.from_text(texts))


def padded_ids() -> dict[str, np.ndarray]:
    ids = np.array([[2, 10, 11, 12, 3, 0, 0], [2, 5, 6, 3, 7, 8, 3]], dtype=np.int64)
    mask = np.array([[1, 1, 1, 1, 1, 0, 0], [1] * 7], dtype=np.int64)
    types = np.array([[0] * 7, [0, 0, 0, 0, 1, 1, 1]], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("films")
    assert client.is_model_ready("films", "1")
    assert not client.is_model_ready("films", "7")
    assert not client.is_model_ready("film")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("films")
    assert (metadata["name"], metadata["versions"]) == ("films", ["1"])
    assert {one["name"]: one["datatype"] for one in metadata["inputs"]} == {
        "text": "BYTES", "second": "BYTES", "input_ids": "INT64", "attention_mask": "INT64", "token_type_ids": "INT64",
    }  # fmt: skip
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, 3]} in metadata["outputs"]
    assert {"name": "label", "datatype": "BYTES", "shape": [-1]} in metadata["outputs"]


def test_texts_get_labels(client: triton.InferenceServerClient, folders: dict[str, Path]) -> None:
    texts = ["a fine film", "a bad film ?", "harry likes apples"]
    expected = predictions(folders["films"], *({"text": text} for text in texts))
    for shape in ((3,), (3, 1)):
        result = client.infer("films", [texts_of("text", *texts, shape=shape)], request_id="a1")
        assert result.get_response()["id"] == "a1"
        assert result.as_numpy("label").shape == shape
        assert [one.decode() for one in result.as_numpy("label").ravel()] == [one["label"] for one in expected]
        shares = [list(one["probabilities"].values()) for one in expected]
        np.testing.assert_allclose(result.as_numpy("probabilities"), shares, atol=1e-4)
        whole = [json.loads(one) for one in result.as_numpy("prediction").ravel()]
        assert [one["label"] for one in whole] == [one["label"] for one in expected]


def test_pairs_and_chosen_outputs(client: triton.InferenceServerClient, folders: dict[str, Path]) -> None:
    (expected,) = predictions(folders["films"], {"text": "a film", "second": "bad apples"})
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    result = client.infer("films", [texts_of("text", "a film"), texts_of("second", "bad apples")], outputs=wanted)
    assert [one["name"] for one in result.get_response()["outputs"]] == ["probabilities"]
    np.testing.assert_allclose(result.as_numpy("probabilities")[0], list(expected["probabilities"].values()), atol=1e-4)


def test_other_kinds_of_models(client: triton.InferenceServerClient, folders: dict[str, Path]) -> None:
    value = client.infer("stars", [texts_of("text", "a film")]).as_numpy("value")
    assert value[0] == pytest.approx(predictions(folders["stars"], {"text": "a film"})[0]["value"], abs=1e-4)
    labels = client.infer("topics", [texts_of("text", "a film")]).as_numpy("labels")
    assert json.loads(labels[0]) == predictions(folders["topics"], {"text": "a film"})[0]["labels"]
    asked = {"question": "what does harry like ?", "context": "harry likes apples and a film ."}
    (expected,) = predictions(folders["answers"], asked)
    result = client.infer("answers", [texts_of(name, text) for name, text in asked.items()])
    assert result.as_numpy("answer")[0].decode() == expected["answer"]
    assert result.as_numpy("start")[0] == expected["start"]
    pair = {"query": "a film", "passage": "bad apples"}
    score = client.infer("passages", [texts_of(name, text) for name, text in pair.items()]).as_numpy("score")
    assert score[0] == pytest.approx(predictions(folders["passages"], pair)[0]["score"], abs=1e-4)
    tagged = client.infer("names", [texts_of("text", "Harry likes apples")]).as_numpy("prediction")
    assert json.loads(tagged[0])["tags"] == predictions(folders["names"], {"text": "Harry likes apples"})[0]["tags"]
    assert client.infer("words", [texts_of("text", "a", "b")]).as_numpy("embedding").shape == (2, 32)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "outputs"),
    [
        ("films", transformers.AutoModelForSequenceClassification, ["logits"]),
        ("names", transformers.AutoModelForTokenClassification, ["logits"]),
        ("answers", transformers.AutoModelForQuestionAnswering, ["start_logits", "end_logits"]),
    ],
)
def test_ids_get_hugging_faces_outputs(
    client: triton.InferenceServerClient,
    folders: dict[str, Path],
    name: str,
    kind: Any,
    outputs: list[str],
    binary: bool,
) -> None:
    arrays = padded_ids()
    theirs = kind.from_pretrained(folders[name]).eval()
    with torch.inference_mode():
        expected = theirs(**{key: torch.from_numpy(value) for key, value in arrays.items()})
    wanted = [triton.InferRequestedOutput(output, binary_data=binary) for output in outputs]
    result = client.infer(name, [numbers_of(*one, binary=binary) for one in arrays.items()], outputs=wanted)
    for output in outputs:
        ours, right = result.as_numpy(output), expected[output].numpy().copy()
        assert ours.shape == right.shape
        if right.shape[:2] == (2, 7):
            right[0, 5:] = 0  # padding
        np.testing.assert_allclose(ours, right, atol=1e-4)


def test_ids_of_32_bits_and_without_masks(client: triton.InferenceServerClient) -> None:
    ids = np.array([[2, 10, 11, 3]], dtype=np.int64)
    long = client.infer("films", [numbers_of("input_ids", ids)]).as_numpy("logits")
    short = client.infer("films", [numbers_of("input_ids", ids.astype(np.int32))]).as_numpy("logits")
    np.testing.assert_array_equal(long, short)


def test_json_as_typed_by_hand(server: Running, folders: dict[str, Path]) -> None:
    body = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a fine film", "apples"]}]}
    answer = server.post("/v2/models/films/versions/1/infer", body)
    assert answer.status == 200
    assert HEADER not in answer.headers
    outputs = {one["name"]: one for one in answer.content["outputs"]}
    expected = predictions(folders["films"], {"text": "a fine film"}, {"text": "apples"})
    assert outputs["label"]["data"] == [one["label"] for one in expected]
    assert outputs["probabilities"]["shape"] == [2, 3]
    nested = {"inputs": [{"name": "input_ids", "shape": [2, 2], "datatype": "INT64", "data": [[2, 3], [2, 3]]}]}
    (logits,) = server.post("/v2/models/films/infer", nested).content["outputs"]
    assert logits["data"][:3] == pytest.approx(logits["data"][3:], abs=1e-6)


def test_a_text_that_is_too_long_is_cut_only_on_request(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="1 text of 1 would lose tokens") as caught:
        client.infer("films", [texts_of("text", "film " * 100)])
    assert '"truncate": true' in str(caught.value)
    assert client.infer("films", [texts_of("text", "film " * 100)], parameters={"truncate": True}).as_numpy("label")


def inputs(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a film"], **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("films", inputs(name="txt"), 422, "no input 'txt' of text"),
        ("films", inputs(name="txt"), 422, "did you mean 'text'?"),
        ("films", inputs(shape=[2]), 422, "shape [2] has 2 values, and the data 1"),
        ("films", inputs(shape=[1, 2], data=["a", "b"]), 422, "texts have the shape [N] or [N, 1]"),
        ("films", inputs(shape=[0], data=[]), 422, "the shape is not one or two whole numbers above 0"),
        ("films", inputs(datatype="FP32"), 422, "'datatype' is not known"),
        ("films", inputs(data=[5]), 422, "value 1 is not text: 5"),
        ("films", inputs(data=[" "]), 422, "the text is empty"),
        ("films", inputs(data=["\ud800"]), 422, "half of a pair"),
        ("films", inputs(data=...), 422, "there is no 'data'"),
        ("films", inputs(shap=[1]), 422, "did you mean 'shape'?"),
        ("films", inputs(parameters={"binary_data_size": 4}, data=...), 400, "4, and 0 bytes are left"),
        ("films", inputs(shape=[9], data=["a"] * 9), 422, "9 elements, and at most 8"),
        ("films", inputs(name="input_ids", datatype="INT64", data=[[1]], shape=[1]), 422, "[N, L], are needed"),
        ("films", inputs(name="input_ids", datatype="INT64", data=[[99]], shape=[1, 1]), 422, "is 99: from 0 to 19"),
        ("films", inputs(name="input_ids", shape=[1, 1], data=["a"]), 422, "no input 'input_ids' of text"),
        ("films", {"inputs": []}, 422, "the list is empty"),
        ("films", {}, 422, "there is no 'inputs'"),
        ("films", {"input": []}, 422, "did you mean 'inputs'?"),
        ("films", {**inputs(), "outputs": [{"name": "logits"}]}, 422, "there is no output 'logits'"),
        ("films", {**inputs(), "parameters": {"sequence_id": 1}}, 422, "there is no field 'sequence_id' here"),
        ("films", {"inputs": inputs()["inputs"] * 2}, 422, "two inputs have the same name"),
        ("films", b"", 400, "the body is empty"),
        ("films", b"{", 400, "the body is not JSON"),
        ("films", b'{"inputs": [NaN]}', 400, "NaN is not a number"),
        ("films", b"\xff", 400, "the body is not UTF-8: byte 1 is 0xff"),
        ("films", b"[" * 19000, 400, "nested too deeply"),
        ("film", inputs(), 404, "did you mean 'films'?"),
        ("films/versions/2", inputs(), 404, "version 1 is loaded"),
    ],
)
def test_a_bad_request_gets_its_reason(server: Running, path: str, body: Any, status: int, words: str) -> None:
    answer = server.post(f"/v2/models/{path}/infer", body)
    assert (answer.status, list(answer.content)) == (status, ["error"])
    assert words in answer.content["error"]


def test_damaged_binary_data(server: Running) -> None:
    def ask(data: bytes, size: int, length: str | None = None) -> str:
        head = json.dumps(inputs(parameters={"binary_data_size": size}, data=...)).encode()
        answer = server.post("/v2/models/films/infer", head + data, {HEADER: length or str(len(head))})
        assert answer.status in (400, 422)
        return str(answer.content["error"])

    text = struct.pack("<I", 3) + b"a\xffb"
    assert "text 1 is not UTF-8: byte 2 is 0xff" in ask(text, len(text))
    assert "text 1 is cut off: its length says 3 bytes" in ask(text[:-1], len(text) - 1)
    assert "bytes behind the last tensor belong to none" in ask(struct.pack("<I", 1) + b"amore", 5)
    assert f"{HEADER} is '-1'" in ask(text, len(text), "-1")
    assert "and the body has" in ask(text, len(text), "99999")
