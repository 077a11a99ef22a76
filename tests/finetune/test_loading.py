"""Folders that Hugging Face has fine-tuned are asked here with the same outputs, and ours there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.outputs import outputs_of
from bertjobs.finetune.predict import HeldRows, Predictor
from bertjobs.tasks.rows import Row
from tests.finetune.models import films, our_folder, their_folder

CPU = torch.device("cpu")
TEXTS = ({"text": "a fine film"}, {"text": "Harry likes apples.", "second": "what does Harry like?"}, {"text": "bad"})


def their_logits(model: torch.nn.Module, folder: Path, texts: dict[str, str]) -> torch.Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(texts["text"], texts.get("second"), return_tensors="pt")).logits[0]


@pytest.mark.parametrize(
    ("labels", "settings", "key"),
    [
        (("bad", "good", "fair"), {}, "label"),
        (("score",), {}, "value"),
        (("x", "y"), {"problem_type": "multi_label_classification"}, "labels"),
    ],
)
def test_sentences_that_hugging_face_has_fine_tuned(
    tmp_path: Path, labels: tuple[str, ...], settings: dict[str, str], key: str
) -> None:
    theirs = their_folder(tmp_path, "BertForSequenceClassification", labels, **settings)
    model = load_trained(tmp_path, CPU)
    predictions = Predictor(model).predict(model.task.from_text(TEXTS))
    for texts, prediction in zip(TEXTS, predictions, strict=True):
        logits = their_logits(theirs, tmp_path, texts)
        if key == "value":
            assert prediction["value"] == pytest.approx(logits.item(), abs=1e-5)
            continue
        shares = logits.sigmoid() if key == "labels" else logits.softmax(0)
        assert list(prediction["probabilities"]) == list(labels)
        assert list(prediction["probabilities"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
        chosen = [name for name, share in zip(labels, shares, strict=True) if share >= 0.5]
        assert prediction[key] == (chosen if key == "labels" else labels[int(shares.argmax())])


@pytest.mark.parametrize("architecture", ["BertForTokenClassification", "BertForQuestionAnswering"])
def test_outputs_of_single_tokens_are_hugging_faces(tmp_path: Path, architecture: str) -> None:
    tags = ("O", "B-PER", "I-PER") if architecture == "BertForTokenClassification" else ()
    theirs = their_folder(tmp_path, architecture, tags)
    model = load_trained(tmp_path, CPU)
    ids = [2, 10, 11, 12, 3, 5, 6, 3]
    held = HeldRows([Row(ids, 5, (), range(8)), Row(ids[:5], 5, (), range(5))])
    outputs = outputs_of(model.forward, held, precision="fp32", budget=100)
    with torch.inference_mode():
        result = theirs(torch.tensor([ids]), token_type_ids=torch.tensor([[0] * 5 + [1] * 3]))
    wanted = result.logits[0] if tags else torch.stack([result.start_logits[0], result.end_logits[0]], 1)
    np.testing.assert_allclose(outputs[:8], wanted.numpy(), atol=1e-5)
    assert model.fitted.labels == tags


@pytest.mark.parametrize("name", ["", "squad2"])
def test_questions_can_be_asked_of_a_folder_with_short_sequences(tmp_path: Path, name: str) -> None:
    their_folder(tmp_path, "BertForQuestionAnswering", max_length=64)
    model = load_trained(tmp_path, CPU, name=name)
    asked = model.task.from_text([{"question": "what?", "context": " ".join(["Harry likes apples."] * 30)}])
    (prediction,) = Predictor(model).predict(asked)
    assert prediction["n_best"]


def test_hugging_face_loads_our_folder_with_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = our_folder(tmp_path / "model", films(tmp_path))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model = load_trained(folder, CPU)
    for texts, prediction in zip(TEXTS, Predictor(model).predict(model.task.from_text(TEXTS)), strict=True):
        shares = their_logits(theirs, folder, texts).softmax(0)
        assert list(prediction["probabilities"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
        assert theirs.config.id2label[int(shares.argmax())] == prediction["label"]


def test_a_pretrained_model_has_no_task(tmp_path: Path) -> None:
    their_folder(tmp_path, "BertForPreTraining")
    with pytest.raises(InputError, match="not fine-tuned: it is a BertForPreTraining") as caught:
        load_trained(tmp_path, CPU)
    assert "bertjobs finetune --task" in str(caught.value.hint)


def test_a_head_that_does_not_fit(tmp_path: Path) -> None:
    their_folder(tmp_path, "BertForSequenceClassification", ("bad", "good"))
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {"0": "bad", "1": "good", "2": "fair"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"classifier\.(bias|weight) has shape \[2\b"):
        load_trained(tmp_path, CPU)
    config["architectures"] = ["BertForQuestionAnswering"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"lack those of the task's head: qa_outputs\.weight, qa_outputs\.bias"):
        load_trained(tmp_path, CPU)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    their_folder(tmp_path, "BertForSequenceClassification", ("bad", "good"))
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        load_trained(tmp_path, CPU)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    their_folder(tmp_path, "BertForSequenceClassification", ("bad", "good"))
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match="the tokenizer has 21 tokens, and the model 20"):
        load_trained(tmp_path, CPU)


def test_a_damaged_task_file(tmp_path: Path) -> None:
    their_folder(tmp_path, "BertForSequenceClassification", ("bad", "good"))
    (tmp_path / "task.json").write_text('{"task": "sentences"}')
    with pytest.raises(InputError, match=r"task.json is damaged: 'options'"):
        load_trained(tmp_path, CPU)
    for content in ("null", "5", '[1, "a"]'):
        (tmp_path / "task.json").write_text(content)
        with pytest.raises(DamagedFileError, match=r"task.json cannot be read: it is not an object"):
            load_trained(tmp_path, CPU)


@pytest.mark.parametrize(
    ("here", "module", "file"),
    [
        ("bert_x", "code_of_x", "code_of_x.py"),
        ("bert_x", "package_of_x.code", "package_of_x/__init__.py"),
        (".", "bert_x.code", "code.py"),
        ("..", "place_of_x.bert_x.code", "code.py"),
        ("link", "code_of_x", "code_of_x.py"),
    ],
)
def test_code_in_a_model_s_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, module: str, file: str
) -> None:
    place = tmp_path / "place_of_x"  # names that no other test imports
    model = place / "bert_x"
    their_folder(model, "BertForSequenceClassification", ("bad", "good"))
    (place / "link").symlink_to("bert_x")
    head = {"kind": "sequence", "outputs": 2, "loss": "cross_entropy"}
    content = {"task": f"{module}:X", "options": {}, "labels": ["bad", "good"], "head": head, "max_length": 64}
    (model / "task.json").write_text(json.dumps(content))
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(place / here)
    before = [*sys.path]
    with pytest.raises(InputError, match=f"module {module} lies in the folder that names it"):
        load_trained(model, CPU)
    assert not (tmp_path / "ran").exists()
    assert sys.path == before


def test_what_was_tuned_is_taken_from_the_step_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phase = tmp_path / "run" / "phase1"
    folder = our_folder(phase / "checkpoints" / "step-00000004", films(tmp_path))
    lines = [{"step": 2, "tuned": {"cut": 0.2}}, {"step": 4, "tuned": {"cut": 0.4}}, {"step": 6}]
    (phase / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_trained(folder, CPU).fitted.tuned == {}  # it lies in no run
    (tmp_path / "run" / "run.yml").write_text("")
    assert load_trained(folder, CPU).fitted.tuned == {"cut": 0.4}
    later = folder.rename(folder.with_name("step-00000006"))
    assert load_trained(later, CPU).fitted.tuned == {}
