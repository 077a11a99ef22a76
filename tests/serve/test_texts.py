"""/classify, /ner, /qa, /rerank, /fill-mask and /v1/embeddings."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertjobs.finetune.encoder import features, fill_masks
from bertjobs.serve.computation import Computation
from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import Refusal
from bertjobs.serve.served import load_served
from bertjobs.serve.texts import TEXT_ROUTES
from tests.finetune.models import their_folder
from tests.serve.client import Running
from tests.serve.test_kserve import predictions

CPU = torch.device("cpu")
PAIR = {"text": "a film", "second": "apples"}


def test_classify(server: Running, folders: dict[str, Path]) -> None:
    expected = predictions(folders["films"], {"text": "a fine film"}, {"text": "apples", "second": "bad"})
    one = server.post("/classify", {"model": "films", "text": "a fine film"}).content
    assert (one["model"], one["version"], one["label"]) == ("films", "1", expected[0]["label"])
    assert one["probabilities"] == pytest.approx(expected[0]["probabilities"], abs=1e-4)
    pair = server.post("/classify", {"model": "films", "text": "apples", "second": "bad"}).content
    assert pair["probabilities"] == pytest.approx(expected[1]["probabilities"], abs=1e-4)
    several = server.post("/classify", {"model": "films", "texts": ["a fine film", "bad"]}).content
    assert len(several["results"]) == 2
    assert several["results"][0]["label"] == expected[0]["label"]
    assert "value" in server.post("/classify", {"model": "stars", "text": "a"}).content
    assert "labels" in server.post("/classify", {"model": "topics", "text": "a"}).content


@pytest.mark.parametrize(
    ("task", "options", "right", "wrong", "words"),
    [
        ("stsb", {}, PAIR, {"text": "a film"}, "there is no 'second'"),
        ("sentences", {"kind": "number"}, {"text": "a film"}, PAIR, "'second' belongs to one 'text' of a model that"),
    ],
)
def test_a_model_of_pairs_alone_and_one_of_single_texts(
    tmp_path: Path, task: str, options: dict[str, str], right: dict[str, str], wrong: dict[str, str], words: str
) -> None:
    def asked(path: str, **fields: Any) -> Computation:
        route = next(route for route in TEXT_ROUTES if route.path == path)
        return route.prepare(route.read(json.dumps(fields).encode()), served, Limits())

    their_folder(tmp_path, "BertForSequenceClassification", ("score",))
    head = {"kind": "sequence", "outputs": 1, "loss": "squared_error"}
    content = {"task": task, "options": options, "labels": [], "head": head, "max_length": 64}
    (tmp_path / "task.json").write_text(json.dumps(content))
    served = load_served("stars", 1, tmp_path, CPU)
    assert asked("/classify", **right)
    with pytest.raises(Refusal, match=words) as caught:
        asked("/classify", **wrong)
    assert caught.value.status == 422
    if right == PAIR:
        assert asked("/rerank", query="a film", texts=["apples"])
        return
    with pytest.raises(Refusal, match="model 'stars' reads single texts"):
        asked("/rerank", query="a film", texts=["apples"])


def test_ner_has_places_in_the_text(server: Running, folders: dict[str, Path]) -> None:
    text = "Harry likes apples, \U0001f34e and a film."
    (expected,) = predictions(folders["names"], {"text": text})
    answer = server.post("/ner", {"text": text}).content
    assert answer["tags"] == expected["tags"]
    assert [one["type"] for one in answer["entities"]] == [one["type"] for one in expected["entities"]]
    assert answer["entities"]
    for one in answer["entities"]:
        assert one["text"] == text[one["start"] : one["end"]] != ""
        assert 0.25 < one["probability"] <= 1
    assert len(server.post("/ner", {"texts": [text, "apples"]}).content["results"]) == 2


def test_a_long_text_is_tagged_in_windows(server: Running) -> None:
    words = server.post("/ner", {"text": "harry likes apples " * 60}).content["tags"]
    assert len(words) == 180


def test_qa_has_places_in_the_context(server: Running, folders: dict[str, Path]) -> None:
    asked = {"question": "what does harry like ?", "context": "harry likes apples and a film ."}
    (expected,) = predictions(folders["answers"], asked)
    answer = server.post("/qa", {**asked, "n_best": 3}).content
    assert (answer["answer"], answer["start"]) == (expected["answer"], expected["start"])
    assert asked["context"][answer["start"] : answer["end"]] == answer["answer"]
    assert len(answer["candidates"]) == 3
    for one in answer["candidates"]:
        assert asked["context"][one["start"] : one["end"]] == one["text"]


@pytest.mark.parametrize("name", ["passages", "stars"])
def test_rerank_puts_the_best_first(server: Running, folders: dict[str, Path], name: str) -> None:
    texts = ["bad apples", "a fine film", "harry likes a film"]
    keys = ("query", "passage") if name == "passages" else ("text", "second")
    expected = predictions(folders[name], *({keys[0]: "a film", keys[1]: text} for text in texts))
    raw = [one["log_odds"] if name == "passages" else one["value"] for one in expected]
    best = sorted(range(3), key=lambda place: -raw[place])
    answer = server.post("/rerank", {"model": name, "query": "a film", "texts": texts, "return_text": True}).content
    assert [one["index"] for one in answer] == best
    assert [one["text"] for one in answer] == [texts[place] for place in best]
    assert all(0 <= one["score"] <= 1 for one in answer)
    plain = server.post("/rerank", {"model": name, "query": "a film", "texts": texts, "raw_scores": True}).content
    assert [one["score"] for one in plain] == pytest.approx([raw[place] for place in best], abs=1e-4)
    assert "text" not in plain[0]


def test_fill_mask(server: Running, folders: dict[str, Path]) -> None:
    text = "a [MASK] film [MASK]"
    expected = fill_masks(folders["words"], text, 3, CPU)
    answer = server.post("/fill-mask", {"text": text, "top_k": 3}).content
    for ours, right in zip(answer["masks"], expected, strict=True):
        assert [one["token"] for one in ours] == [one.token for one in right]
        assert [one["probability"] for one in ours] == pytest.approx([one.probability for one in right], abs=1e-4)


def test_embeddings_are_the_mean_of_length_1(server: Running, folders: dict[str, Path]) -> None:
    texts = ["a fine film", "harry likes apples and a bad film"]
    expected = [features(folders["words"], text, CPU) for text in texts]
    answer = server.post("/v1/embeddings", {"model": "words", "input": texts}).content
    assert answer["usage"]["prompt_tokens"] == sum(one["tokens"] for one in expected)
    for place, (ours, right) in enumerate(zip(answer["data"], expected, strict=True)):
        mean = np.array(right["mean"])
        assert ours["index"] == place
        assert ours["embedding"] == pytest.approx((mean / np.linalg.norm(mean)).tolist(), abs=1e-4)
    coded = server.post("/v1/embeddings", {"model": "words", "input": texts[0], "encoding_format": "base64"}).content
    values = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), dtype="<f4")
    assert values == pytest.approx(answer["data"][0]["embedding"], abs=1e-6)
    options = {"pooling": "cls", "normalize": False}
    (plain,) = server.post("/v1/embeddings", {"model": "words", "input": texts[0], **options}).content["data"]
    assert plain["embedding"] == pytest.approx(expected[0]["cls"], abs=1e-4)


def test_models_are_listed(server: Running) -> None:
    listed = {one["id"]: one for one in server.get("/v1/models").content["data"]}
    assert listed["films"]["routes"] == ["/classify"]
    assert listed["stars"]["routes"] == ["/classify", "/rerank"]
    assert listed["words"]["routes"] == ["/fill-mask", "/v1/embeddings"]
    assert listed["names"]["labels"] == ["O", "B-PER", "I-PER", "B-LOC"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/classify", {"text": "a"}, 422, "several models can answer this"),
        ("/classify", {"model": "film", "text": "a"}, 404, "there is no model 'film'"),
        ("/classify", {"model": "names", "text": "a"}, 422, "model 'names' cannot answer this: it is for tagging"),
        ("/classify", {"model": 5, "text": "a"}, 422, "'model' is not text"),
        ("/classify", {"model": "films"}, 422, "there is neither 'text' nor 'texts'"),
        ("/classify", {"model": "films", "text": "a", "texts": ["a"]}, 422, "there is 'text' and 'texts'"),
        ("/classify", {"model": "films", "texts": ["a", 5]}, 422, "this is not text: 5"),
        ("/classify", {"model": "films", "texts": ["a"], "second": "b"}, 422, "'second' belongs to one 'text'"),
        ("/classify", {"model": "films", "text": "film " * 99}, 422, "1 text of 1 would lose tokens"),
        ("/classify", {"model": "films", "text": "a", "truncate": 1}, 422, "'truncate' is neither true nor false: 1"),
        ("/ner", {"txt": "a"}, 422, "there is no field 'txt' here"),
        ("/ner", {"text": "\u200b"}, 422, "the text has no word"),
        ("/qa", {"question": "film " * 70, "context": "b"}, 422, "1 text of 1 would lose tokens"),
        ("/rerank", {"model": "passages", "query": "film " * 70, "texts": ["b"]}, 422, "1 text of 1 would lose tokens"),
        ("/qa", {"question": "a"}, 422, "there is no 'context'"),
        ("/qa", {"question": "a", "context": "b", "n_best": 0}, 422, "'n_best' is not a whole number from 1 to 100: 0"),
        ("/rerank", {"model": "passages", "query": "a", "texts": []}, 422, "the list is empty"),
        ("/rerank", {"model": "passages", "query": "a", "texts": "b"}, 422, "'texts' is not a list"),
        ("/fill-mask", {"text": "a"}, 422, "text 1 has no [MASK]"),
        ("/fill-mask", {"text": "a " * 70 + "[MASK]", "truncate": True}, 422, "1 mask beyond the 64 tokens"),
        ("/ner", [], 422, "the request is not an object"),
        ("/ner", b"text=a", 400, "the body is not JSON"),
        ("/ner", {"text": "harry " * 1100}, 422, "and at most 1,000 are taken at a time"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_its_reason(server: Running, path: str, body: Any, status: int, words: str) -> None:
    answer = server.post(path, body)
    assert (answer.status, set(answer.content)) == (status, {"error", "where", "hint"})
    assert words in answer.content["error"]


def test_the_nearest_right_thing_is_named(server: Running) -> None:
    assert server.post("/ner", {"txt": "a"}).content["hint"] == "did you mean 'text'?"
    assert server.post("/classify", {"model": "film", "text": "a"}).content["hint"] == "did you mean 'films'?"
    assert server.post("/classify", {"text": "a"}).content["hint"] == '"model" is one of: films, stars, topics'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": [[1, 2]]}, "token ids are not taken here"),
        ({"input": "a", "dimensions": 8}, "the number of dimensions cannot be chosen"),
        ({"input": "a", "encoding_format": "flot"}, "did you mean 'float'?"),
        ({"input": []}, "the list is empty"),
    ],
)
def test_embeddings_are_refused_as_openai_does(server: Running, body: Any, words: str) -> None:
    answer = server.post("/v1/embeddings", {"model": "words", **body})
    assert answer.status == 422
    assert set(answer.content["error"]) == {"message", "type", "param", "code"}
    assert words in answer.content["error"]["message"]
