"""`--to hf`: Hugging Face's classes and pipelines load the folder, and say what the model says here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bertjobs.export.export import ExportOptions, export
from bertjobs.finetune.encoder import features
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.export.conftest import Export
from tests.export.models import KINDS, TEXTS

CPU = torch.device("cpu")


def predictions(folder: Path, name: str) -> list[dict[str, Any]]:
    model = load_trained(folder, CPU)
    return Predictor(model).predict(model.task.from_text(KINDS[name].asked))


@pytest.mark.parametrize("name", KINDS)
def test_the_exported_model_predicts_what_the_model_does(
    model: Callable[[str], Path], exported: Export, name: str
) -> None:
    assert predictions(exported(name, "hf"), name) == predictions(model(name), name)


def test_what_was_not_tuned_is_said(model: Callable[[str], Path], tmp_path: Path) -> None:
    (note,) = export(model("answers"), ExportOptions("hf", tmp_path / "out")).notes
    assert note.startswith("the threshold of null odds is 0.5")
    assert export(model("answers"), ExportOptions("hf", tmp_path / "features", features=True)).notes == ()


@pytest.mark.parametrize("name", ["class", "several", "number"])
def test_a_pipeline_classifies(exported: Export, name: str) -> None:
    folder = exported(name, "hf")
    short = TEXTS[:3]
    classify = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    found = classify([one["text"] for one in short])
    for shares, prediction in zip(found, predictions(folder, name), strict=False):
        by_label = {one["label"]: one["score"] for one in shares}
        if name == "number":
            assert list(by_label.values()) == pytest.approx([prediction["value"]], abs=1e-5)
        else:
            assert by_label == pytest.approx(prediction["probabilities"], abs=1e-5)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.problem_type == {"class": "single_label_classification", "several": "multi_label_classification",
                                   "number": "regression"}[name]  # fmt: skip


def test_a_pipeline_tags(exported: Export) -> None:
    folder = exported("tags", "hf")
    tag = transformers.pipeline("token-classification", model=str(folder), device="cpu", aggregation_strategy="first")
    for texts, prediction in list(zip(TEXTS, predictions(folder, "tags"), strict=True))[:3]:
        found = [(one["entity_group"], one["start"], one["end"]) for one in tag(texts["text"])]
        wanted = [(one["type"], one["start"], one["end"]) for one in prediction["entities"]]
        assert [one for one in found if one[0] != "O"] == wanted


def test_auto_model_answers(exported: Export) -> None:
    folder = exported("answers", "hf")
    asked = KINDS["answers"].asked[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = model(**tokenizer(asked["question"], asked["context"], return_tensors="pt"))
    trained = load_trained(folder, CPU)
    ((row,),) = trained.task.rows(trained.task.from_text([asked]), trained.encoder, trained.fitted)
    ours = trained.forward.model.bert(*_inputs(row.ids, row.second))[0]
    logits = trained.forward.model.qa_outputs(ours)[0]
    torch.testing.assert_close(outputs.start_logits[0], logits[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.end_logits[0], logits[:, 1], atol=1e-5, rtol=0)


def _inputs(ids: Any, second: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([list(ids)])
    types = (torch.arange(len(ids)) >= second).long()[None]
    return tokens, types, torch.ones_like(tokens)


def test_a_pipeline_fills_masks(model: Callable[[str], Path], exported: Export) -> None:
    folder = exported("fill-mask", "hf")
    assert transformers.AutoConfig.from_pretrained(folder).architectures == ["BertForPreTraining"]
    fill = transformers.pipeline("fill-mask", model=str(folder), device="cpu")
    theirs = transformers.pipeline("fill-mask", model=str(model("fill-mask")), device="cpu")
    assert fill("a [MASK] film") == theirs("a [MASK] film")


def test_auto_model_gives_the_same_vectors(model: Callable[[str], Path], exported: Export) -> None:
    folder = exported("features", "hf")
    tokenizer, theirs = (kind.from_pretrained(folder) for kind in (transformers.AutoTokenizer, transformers.AutoModel))
    with torch.inference_mode():
        vectors = theirs.eval()(**tokenizer("a fine film", return_tensors="pt")).last_hidden_state
    wanted = features(model("features"), "a fine film", CPU)
    assert vectors[0].mean(0).tolist() == pytest.approx(wanted["mean"], abs=1e-5)
    assert vectors[0, 0].tolist() == pytest.approx(wanted["cls"], abs=1e-5)


def test_a_fine_tuned_model_without_its_head(model: Callable[[str], Path], tmp_path: Path) -> None:
    done = export(model("tags"), ExportOptions("hf", tmp_path / "out", features=True))
    assert (done.source.architecture, done.source.task) == ("BertModel", None)
    assert not (tmp_path / "out" / "task.json").exists()
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    state = load_trained(model("tags"), CPU).forward.model.bert.state_dict()
    assert all(torch.equal(theirs.state_dict()[name], tensor) for name, tensor in state.items())


def test_what_was_tuned_goes_with_the_model(model: Callable[[str], Path], exported: Export, tmp_path: Path) -> None:
    folder = exported("answers", "hf")
    content = json.loads((folder / "task.json").read_text())
    content["tuned"] = {"null_threshold": 0.9}
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "task.json").write_text(json.dumps(content))
    assert load_trained(tmp_path, CPU).fitted.tuned == {"null_threshold": 0.9}
    assert load_trained(model("answers"), CPU).as_description() == json.loads((folder / "task.json").read_text())


def test_what_was_tuned_in_the_run_goes_with_the_model(model: Callable[[str], Path], tmp_path: Path) -> None:
    phase = tmp_path / "run" / "phase1"
    checkpoint = phase / "checkpoints" / "step-00000004"
    shutil.copytree(model("answers"), checkpoint)
    (phase / "validation.jsonl").write_text('{"step": 4, "tuned": {"null_threshold": 0.4}}\n')
    (tmp_path / "run" / "run.yml").write_text("")
    export(checkpoint, ExportOptions("hf", tmp_path / "out"))
    assert load_trained(tmp_path / "out", CPU).fitted.tuned == {"null_threshold": 0.4}
    shutil.copytree(checkpoint, tmp_path / "copied")
    assert load_trained(tmp_path / "copied", CPU).fitted.tuned == {}


def code(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return found


@pytest.mark.slow  # each starts a Python that loads transformers
@pytest.mark.parametrize("name", ["class", "tags", "answers", "fill-mask", "features"])
def test_the_lines_of_the_readme_work(exported: Export, name: str) -> None:
    folder = exported(name, "hf")
    done = subprocess.run(
        [sys.executable, "-c", code(folder)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class", "A fine film."),
        ("tags", "Harry grew up in Canada."),
        ("answers", "I love apples."),
        ("fill-mask", " is [MASK]."),
        ("features", "A text."),
    ],
)
def test_the_lines_of_the_readme_take_a_text_that_is_too_long(exported: Export, name: str, text: str) -> None:
    folder = exported(name, "hf")
    longer = code(folder).replace(text, text + " the film is fine" * 200)
    assert longer != code(folder)
    done = subprocess.run(
        [sys.executable, "-c", longer], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
