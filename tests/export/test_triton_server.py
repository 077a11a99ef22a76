"""A real Triton serves exported repositories: text goes in, and the answers are torch's."""

from __future__ import annotations

import json
import shlex
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bertjobs.export.export import ExportOptions, export
from bertjobs.finetune.encoder import features
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.export.models import KINDS, PAIRS, TEXTS
from tests.export.test_onnx import flat
from tests.export.triton_server import Triton, require_triton, serving

pytestmark = pytest.mark.slow  # a server of 200 MB, and one Python per model

SERVED = ("class", "number", "several", "tags", "answers", "ranking", "features")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def server(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server of all kinds of models, from one repository; the last one's README.md is there, too."""
    require_triton()
    folder = tmp_path_factory.mktemp("served")
    repository = folder / "repository"
    repository.mkdir()
    for name in SERVED:
        export(model(name), ExportOptions("triton", folder / name, in_python=True))
        for one in (folder / name).iterdir():
            (repository / one.name).unlink(missing_ok=True)  # each has a README.md
            (repository / one.name).symlink_to(one)
    with serving(repository, folder) as server:
        yield server


@pytest.mark.parametrize("name", KINDS)
def test_its_answers_are_torch_s(server: Triton, model: Callable[[str], Path], name: str) -> None:
    trained = load_trained(model(name), CPU)
    for keys in {tuple(one) for one in KINDS[name].asked}:
        asked = [one for one in KINDS[name].asked if tuple(one) == keys]
        found = server.infer(name, {key: [one[key] for one in asked] for key in keys})
        wanted = Predictor(trained).predict(trained.task.from_text(asked))
        for number, prediction in enumerate(wanted):
            answer = json.loads(found["prediction"][number, 0])
            answer.pop("end", None)
            assert flat(answer) == pytest.approx(
                flat({key: value for key, value in prediction.items() if not key.endswith("id")}), abs=1e-5
            )
            for field in set(found) & {"label", "answer", "start", "value", "score", "log_odds", "probability"}:
                got, said = found[field][number, 0], prediction[field]
                assert got == (said if isinstance(got, str) else pytest.approx(said, abs=1e-5))


def test_vectors(server: Triton, model: Callable[[str], Path]) -> None:
    found = server.infer("features", {"text": ["a fine film", "bad"]})
    wanted = features(model("features"), "a fine film", CPU)
    assert list(found["mean"][0]) == pytest.approx(wanted["mean"], abs=1e-5)
    assert list(found["cls"][0]) == pytest.approx(wanted["cls"], abs=1e-5)
    assert found["tokens"].tolist() == [[5], [3]]


def test_token_ids_go_to_the_model_that_computes(server: Triton) -> None:
    inputs = [
        {"name": name, "shape": [2, 3], "datatype": "INT64", "data": data}
        for name, data in (("input_ids", [2, 7, 3, 2, 8, 3]), ("attention_mask", [1] * 6), ("token_type_ids", [0] * 6))
    ]
    found = server.ask("models/class_onnx/infer", {"inputs": inputs})
    assert [(one["name"], one["shape"]) for one in found["outputs"]] == [("logits", [2, 3])]


def test_many_clients_at_once_get_their_own_answers(server: Triton, model: Callable[[str], Path]) -> None:
    trained = load_trained(model("class"), CPU)
    asked = [{"text": f"{one['text'][: 3 + 7 * number]} film"} for number in range(12) for one in TEXTS]
    wanted = Predictor(trained).predict(trained.task.from_text(asked))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: server.infer("class", {"text": [one["text"]]}), asked))
    for answer, prediction in zip(found, wanted, strict=True):
        assert answer["label"][0, 0] == prediction["label"]
        assert list(answer["probabilities"][0]) == pytest.approx(list(prediction["probabilities"].values()), abs=1e-5)


def test_pairs_and_single_texts_at_once(server: Triton, model: Callable[[str], Path]) -> None:
    trained = load_trained(model("class"), CPU)
    asked = [*PAIRS, *TEXTS] * 4
    wanted = Predictor(trained).predict(trained.task.from_text(asked))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: server.infer("class", {key: [text] for key, text in one.items()}), asked))
    for answer, prediction in zip(found, wanted, strict=True):
        assert list(answer["probabilities"][0]) == pytest.approx(list(prediction["probabilities"].values()), abs=1e-5)


def test_what_the_task_refuses_is_said_and_harms_no_other(server: Triton) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.infer, "tags", {"text": [text]}) for text in ["harry", " ", "apples", "\u200b"] * 3]
    refused = []
    for number, one in enumerate(asked):
        if number % 4 in (1, 3):
            with pytest.raises(urllib.error.HTTPError) as caught:
                one.result()
            refused.append(json.loads(caught.value.read())["error"])
        else:
            assert json.loads(one.result()["prediction"][0, 0])["words"] == ["harry" if number % 4 == 0 else "apples"]
    assert all("no word" in words for words in refused)
    assert "harry" in json.loads(server.infer("tags", {"text": ["harry"]})["prediction"][0, 0])["words"]


def test_the_request_of_the_readme_works(server: Triton) -> None:
    lines = (server.folder / "answers" / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("curl ")]
    words = shlex.split(line)
    path = words[1].partition("/v2/")[2]
    found = server.ask(path, json.loads(words[words.index("-d") + 1]))
    assert {one["name"] for one in found["outputs"]} == {"prediction", "answer", "start", "end", "probability"}
