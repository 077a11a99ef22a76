"""Tiny models of random weights with the head of each task, in folders as users have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.finetune.models import their_folder

LONG = "harry likes a fine film and apples . " * 12
"""More tokens than the models read at once."""


@dataclass(frozen=True)
class Kind:
    """A task's model: Hugging Face's class, its labels, what task.json says, and texts to ask it."""

    architecture: str
    labels: tuple[str, ...]
    task: str
    head: Mapping[str, Any]
    asked: Sequence[Mapping[str, str]]
    options: Mapping[str, str] = field(default_factory=dict)


TEXTS = ({"text": "a fine film"}, {"text": "Harry likes apples."}, {"text": "bad"}, {"text": LONG})
PAIRS = ({"text": "Harry likes apples.", "second": "what does Harry like?"}, {"text": LONG, "second": "and " + LONG})
QUESTIONS = (
    {"question": "what does Harry like?", "context": "Harry likes apples. A bad film."},
    {"question": "what?", "context": LONG},
)
RANKED = ({"query": "what does Harry like?", "passage": "apples"}, {"query": "apples", "passage": LONG})
KINDS = {
    "class": Kind("BertForSequenceClassification", ("bad", "good", "fair"), "sentences",
                  {"kind": "sequence", "outputs": 3, "loss": "cross_entropy"}, (*TEXTS, *PAIRS),
                  {"second_optional": "true"}),
    "number": Kind("BertForSequenceClassification", ("score",), "sentences",
                   {"kind": "sequence", "outputs": 1, "loss": "squared_error"}, TEXTS, {"kind": "number"}),
    "several": Kind("BertForSequenceClassification", ("x", "y"), "sentences",
                    {"kind": "sequence", "outputs": 2, "loss": "binary_cross_entropy"}, TEXTS, {"kind": "several"}),
    "tags": Kind("BertForTokenClassification", ("O", "B-PER", "I-PER"), "tagging",
                 {"kind": "token", "outputs": 3, "loss": "cross_entropy"}, TEXTS),
    "answers": Kind("BertForQuestionAnswering", (), "squad2",
                    {"kind": "span", "outputs": 2, "loss": "cross_entropy"}, QUESTIONS,
                    {"stride": "16", "max_query": "16"}),
    "ranking": Kind("BertForSequenceClassification", ("not relevant", "relevant"), "ranking",
                    {"kind": "sequence", "outputs": 2, "loss": "cross_entropy"}, RANKED),
}  # fmt: skip


def make_model(folder: Path, name: str) -> Path:
    """The folder of one of `KINDS`, with task.json."""
    kind = KINDS[name]
    their_folder(folder, kind.architecture, kind.labels)
    labels = () if kind.head["loss"] == "squared_error" else kind.labels
    content = {
        "task": kind.task, "options": dict(kind.options), "labels": list(labels), "head": dict(kind.head),
        "measure": "", "max_length": 64,
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(content))
    return folder
