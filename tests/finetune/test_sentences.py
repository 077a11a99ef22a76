"""Classes, pairs, numbers and several labels from files to measures, by a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bertjobs.errors import InputError
from bertjobs.finetune.validation import measured
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.task import open_task
from bertjobs.train.best import Measure
from tests.finetune.trained import learner_of, prepared, validated
from tests.tasks.reading.files import write

WORDS = "good bad film book a the is not one two three . , text label"


def files(folder: Path, header: str, *rows: str, suffix: str = ".tsv") -> dict[str, Path]:
    """The same rows for training and dev."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (header, *rows) if header else rows
    return {split: write(folder / f"{split}{suffix}", *lines) for split in ("train", "dev")}


def test_classes(tmp_path: Path) -> None:
    rows = ["the film is good\tyes", "the book is bad\tno", "a good book\tyes", "a bad film\tno"]
    task = prepared(tmp_path, "sentences", files(tmp_path / "data", "text\tlabel", *rows), WORDS)
    line, words = validated(task)
    assert task.fitted.labels == ("no", "yes")
    assert (line["accuracy"], line["f1"], line["macro_f1"], line["f1/no"]) == (1.0, 1.0, 1.0, 1.0)
    assert line["dev_loss_nats"] < 0.3
    assert "notes" not in line
    assert "accuracy 1" in words
    assert "f1/no" not in words


def test_pairs(tmp_path: Path) -> None:
    """The second sentence alone decides."""
    rows = [f"{a},{b},{'praise' if b == 'good' else 'blame'}" for a in ("good", "bad") for b in ("good", "bad")]
    data = files(tmp_path / "data", "one,two,what", *rows, suffix=".csv")
    task = prepared(tmp_path, "sentences", data, WORDS, text="one", second="two", label="what")
    split = task.splits["dev"]
    assert (split.seconds.tolist(), split.lengths.tolist()) == ([3] * 4, [5] * 4)
    line, _ = validated(task)
    assert line["accuracy"] == 1.0


@pytest.mark.parametrize(("measure", "labels"), [("macrof1", 2), ("f1", 3)])
def test_a_measure_that_there_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: str, labels: int
) -> None:
    name = f"measured_by_{measure}"
    own = f"from bertjobs.tasks.table import TableTask\n\n\nclass Own(TableTask):\n    measure = {measure!r}\n"
    (tmp_path / f"{name}.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [f"{word}\t{number % labels}" for number, word in enumerate(["good", "bad", "fine"] * 4)]
    task = prepared(tmp_path, f"{name}:Own", files(tmp_path / "data", "text\tlabel", *rows), "good bad fine")
    with pytest.raises(InputError, match=f"by '{measure}', but what is measured is accuracy") as caught:
        validated(task, steps=1)
    assert "macro_f1" in str(caught.value.hint)


def test_numbers(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "label": value}) for text, value in (("one", -1), ("two", 0.1), ("three", "1"))]
    task = prepared(tmp_path, "sentences", files(tmp_path / "data", "", *rows, suffix=".jsonl"), WORDS, kind="number")
    line, words = validated(task, steps=150)
    assert (task.fitted.labels, task.measure) == ((), "pearson")
    assert line["pearson"] > 0.95
    assert line["spearman"] == pytest.approx(1.0)
    assert line["dev_squared_error"] < 1.0
    assert "pearson" in words


def test_several_labels(tmp_path: Path) -> None:
    rows = ["good film\tfilm; praise", "good book\tbook;praise", "bad film\tfilm", "bad book\tbook", "the\t"]
    data = files(tmp_path / "data", "text\tlabel", *rows)
    task = prepared(tmp_path, "sentences", data, WORDS, kind="several", separator=";")
    line, _ = validated(task, steps=150)
    assert task.fitted.labels == ("book", "film", "praise")
    assert (line["micro_f1"], line["macro_f1"], line["subset_accuracy"]) == (1.0, 1.0, 1.0)


def test_lists_of_labels_need_no_separator(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "good", "label": ["x", "y"]}), json.dumps({"text": "bad", "label": []})]
    data = files(tmp_path / "data", "", *rows, suffix=".jsonl")
    task = prepared(tmp_path, "sentences", data, WORDS, kind="several")
    assert task.splits["train"].targets(np.arange(2)).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_class_without_a_dev_example_is_said_in_the_log(tmp_path: Path) -> None:
    data = files(tmp_path / "data", "text\tlabel", "good\tx", "bad\ty", "book\tz")
    write(data["dev"], "text\tlabel", "good\tx", "bad\ty", "bad\ty")
    line, words = validated(prepared(tmp_path, "sentences", data, WORDS))
    assert any("z" in note for note in line["notes"])
    for note in line["notes"]:
        assert f"note: {note}" in words
    assert line["f1/z"] == 0.0


def test_dev_data_of_one_class_have_defined_measures(tmp_path: Path) -> None:
    data = files(tmp_path / "data", "text\tlabel", "good\tx", "bad\ty")
    write(data["dev"], "text\tlabel", "good\tx")
    line, words = validated(prepared(tmp_path, "sentences", data, WORDS))
    assert line["matthews"] == 0.0
    assert "Matthews correlation is undefined" in words


def test_empty_texts_and_duplicate_texts_are_trained_on(tmp_path: Path) -> None:
    data = files(tmp_path / "data", "text\tlabel", "\tx", "good\ty", "good\ty")
    task = prepared(tmp_path, "sentences", data, WORDS)
    assert task.splits["train"].lengths.tolist() == [2, 3, 3]
    assert any("empty texts" in note for note in task.notes)
    assert validated(task)[0]["accuracy"] == 1.0


def mnli(folder: Path) -> dict[str, Path]:
    rows = ["good\tbad\tcontradiction", "good\tgood\tentailment", "good\tfilm\tneutral"]
    folder.mkdir()
    for name in ("train", "dev_matched", "dev_mismatched"):
        chosen = rows[:2] if name == "dev_mismatched" else rows
        write(folder / f"{name}.tsv", "sentence1\tsentence2\tgold_label", *chosen)
    return open_task("mnli").find(folder)


def test_mnli_is_scored_on_both_dev_sets(tmp_path: Path) -> None:
    task = prepared(tmp_path, "mnli", mnli(tmp_path / "data"), WORDS)
    assert task.fitted.labels == ("entailment", "neutral", "contradiction")
    objective, learner = learner_of(task)
    line = learner.validate(lambda: None)
    assert objective.best_by == Measure("accuracy")
    assert (line["examples"], set(line) >= {"accuracy_mismatched", "dev_mismatched_loss_nats"}) == (3, True)
    assert not [key for key in line if "/" in key and key.endswith("_mismatched")]
    by_hand = measured_on(task, "dev_mismatched", learner)
    assert line["accuracy_mismatched"] == by_hand["accuracy"]
    assert [note for note in line["notes"] if note.startswith("dev_mismatched: ")]
    outputs = learner._validation.outputs_of_model(is_current=True)
    assert outputs is not None
    assert len(outputs) == 3, "the predictions are those of the first dev data"


def measured_on(task: PreparedTask, split: str, learner: object) -> dict[str, float]:
    validation = learner._validation  # type: ignore[attr-defined]
    _, outputs = validation._outputs(task.splits[split], lambda: None)
    encoder = TextEncoder.of_folder(task.folder, task.max_length)
    return measured(task.open_task(), task.splits[split], outputs, task.head, encoder, task.fitted)
