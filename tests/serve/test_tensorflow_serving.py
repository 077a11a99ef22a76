"""TensorFlow Serving's predict, as the exported graphs of BERT's scripts are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.serve.client import Running
from tests.serve.test_kserve import padded_ids, predictions

PATH = "/v1/models/films:predict"


def instances() -> list[dict[str, Any]]:
    """Padded sequences under the names of BERT's own features, with a label that nobody needs."""
    names = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
    rows = {names[name]: array.tolist() for name, array in padded_ids().items()}
    return [{**{name: values[n] for name, values in rows.items()}, "label_ids": [0]} for n in range(2)]


def test_ids_get_probabilities(server: Running, folders: dict[str, Path]) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folders["films"]).eval()
    with torch.inference_mode():
        logits = theirs(**{key: torch.from_numpy(value) for key, value in padded_ids().items()}).logits
    answer = server.post(PATH, {"instances": instances(), "signature_name": "serving_default"})
    assert answer.status == 200
    for ours, right in zip(answer.content["predictions"], logits.softmax(1).tolist(), strict=True):
        assert ours == pytest.approx(right, abs=1e-4)


def test_each_token_gets_probabilities(server: Running) -> None:
    (first, second) = server.post("/v1/models/names:predict", {"instances": instances()}).content["predictions"]
    assert (len(first), len(first[0])) == (7, 4)
    assert [round(sum(shares), 4) for shares in first] == [1] * 5 + [0] * 2
    assert [round(sum(shares), 4) for shares in second] == [1] * 7
    (answer, _) = server.post("/v1/models/answers:predict", {"instances": instances()}).content["predictions"]
    assert (set(answer), len(answer["start_logits"])) == ({"start_logits", "end_logits"}, 7)
    numbered = [{**one, "unique_ids": 1000 + number} for number, one in enumerate(instances())]
    answers = server.post("/v1/models/answers:predict", {"instances": numbered}).content["predictions"]
    assert [one.pop("unique_ids") for one in answers] == [1000, 1001]
    assert answers[0] == answer


def test_sequences_may_have_different_lengths(server: Running) -> None:
    padded = server.post(PATH, {"instances": instances()}).content["predictions"]
    short = instances()
    for name in ("input_ids", "input_mask", "segment_ids"):
        short[0][name] = short[0][name][:5]
    for ours, right in zip(server.post(PATH, {"instances": short}).content["predictions"], padded, strict=True):
        assert ours == pytest.approx(right, abs=1e-4)


def test_text_gets_what_predict_says(server: Running, folders: dict[str, Path]) -> None:
    texts = [{"text": "a fine film"}, {"text": "apples", "second": "a bad film"}]
    answer = server.post("/v1/models/films/versions/1:predict", {"instances": texts})
    expected = predictions(folders["films"], *texts)
    for ours, right in zip(answer.content["predictions"], expected, strict=True):
        assert ours["label"] == right["label"]
        assert ours["probabilities"] == pytest.approx(right["probabilities"], abs=1e-4)
    bare = server.post(PATH, {"instances": ["a fine film"]})
    assert bare.content["predictions"][0]["label"] == expected[0]["label"]
    assert len(server.post("/v1/models/words:predict", {"instances": ["a film"]}).content["predictions"][0]) == 32


def test_status_of_a_model(server: Running) -> None:
    content = server.get("/v1/models/films").content
    assert content["model_version_status"][0]["state"] == "AVAILABLE"
    assert content["id"] == "films"
    assert server.get("/v1/models/film").status == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"inputs": []}, 422, "there is no field 'inputs' here"),
        ({"instances": {}}, 422, "'instances' is not a list"),
        ({"instances": []}, 422, "the list is empty"),
        ({"instances": ["a"] * 9}, 422, "9 elements, and at most 8"),
        ({"instances": [5]}, 422, "instances[0] is not an object: 5"),
        ({"instances": [{"txt": "a"}]}, 422, "there is no field 'txt' here"),
        ({"instances": [{"second": "a"}]}, 422, "there is no 'text'"),
        ({"instances": [{"text": "a"}, {"input_ids": [2]}]}, 422, "there is no field 'input_ids' here"),
        ({"instances": [{"input_ids": [2], "text": "a"}]}, 422, "there is no field 'text' here"),
        ({"instances": [{"input_ids": [2, 99]}]}, 422, "the id at place 1 is 99"),
        ({"instances": [{"input_ids": 2}]}, 422, "not a list of whole numbers"),
        ({"instances": [{"input_ids": [2], "input_mask": [1, 1]}]}, 422, "the mask has 2 numbers"),
        ({"instances": [{"input_ids": [2], "input_mask": [1], "attention_mask": [1]}]}, 422, "two names for the same"),
        ({"instances": [{"input_ids": [2] * 65}]}, 422, "65 tokens, and the model reads 1 to 64"),
        ({"instances": [{"input_mask": [1]}]}, 422, "there is no 'input_ids'"),
        ({"instances": ["film " * 100]}, 422, "would lose tokens"),
    ],
)
def test_a_bad_request_gets_its_reason(server: Running, body: Any, status: int, words: str) -> None:
    answer = server.post(PATH, body)
    assert (answer.status, set(answer.content)) == (status, {"error", "where", "hint"})
    assert words in answer.content["error"]
