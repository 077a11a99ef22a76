"""SQuAD 2.0, trained and measured: with a threshold of null odds from the dev data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.finetune.trained import learner_of, prepared, train


def write(path: Path, count: int) -> Path:
    """Questions about a colour: half of the contexts have none."""
    asked = []
    for number in range(count):
        colour = ("red", "blue")[number // 2 % 2]
        context = f"the apples of harry are {colour}" if number % 2 else "the apples of harry are good"
        answers = [{"text": colour, "answer_start": context.index(colour)}] if number % 2 else []
        question = {"id": f"q{number}", "question": "which colour", "answers": answers, "is_impossible": not answers}
        asked.append({"context": context, "qas": [question]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": asked}]}))
    return path


def test_the_threshold_is_tuned_on_dev_and_used(tmp_path: Path) -> None:
    files = {"train": write(tmp_path / "train.json", 32), "dev": write(tmp_path / "dev.json", 12)}
    words = "the apples of harry are red blue good which colour"
    task = prepared(tmp_path, "squad2", files, words, stride="8", max_query="8")
    _, learner = learner_of(task)
    train(learner, 60)
    line = learner.validate(lambda: None)
    assert line["f1"] == pytest.approx(line["best_f1"])
    assert line["f1"] > 0.5  # what "no answer" to all would get
    threshold = line["tuned"]["null_threshold"]
    assert threshold == line["best_f1_thresh"]
    assert not any("tuned" in note for note in line.get("notes", ()))
    outputs = learner._validation.outputs_of_model(is_current=True)
    assert outputs is not None
    for _, prediction in learner._validation.predictions(outputs, line["tuned"]):
        assert (prediction["answer"] == "") == (prediction["null_odds"] > threshold)
