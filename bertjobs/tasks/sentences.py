"""Classes and numbers of sentences and pairs of sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys


class SentenceTask(Task[Sentences]):
    """One of several classes for each sentence or pair; with ``kind`` "number" a number, with "several" any number of
    classes.

    A subclass needs no more than `read` and ``files``.
    """

    name = "sentences"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("train.tsv", "train.csv", "train.jsonl", "train.parquet"),
        "dev": ("dev.tsv", "dev.csv", "dev.jsonl", "dev.parquet", "validation.csv", "validation.jsonl"),
        "test": ("test.tsv", "test.csv", "test.jsonl", "test.parquet"),
    }
    kind: ClassVar[str] = "class"

    def labels(self, examples: Iterable[Sentences]) -> tuple[str, ...]:
        """All labels of the examples, sorted; () for numbers."""
        if self.kind == "number":
            return ()
        names = {name for example in examples for name in _names(example.label)}
        return tuple(sorted(names))

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Sentences]:
        """Keys: text, and for a pair second."""
        check_keys(texts, ("text",), ("second",))
        return [Sentences(str(number), one["text"], one.get("second")) for number, one in enumerate(texts, 1)]

    def head(self, labels: Sequence[str]) -> Head:
        if self.kind == "number":
            return Head("sequence", 1, "squared_error")
        return Head("sequence", len(labels), "cross_entropy" if self.kind == "class" else "binary_cross_entropy")

    def rows(self, examples: Sequence[Sentences], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:
        numbers = {label: number for number, label in enumerate(fitted.labels)}
        first = encoder.pieces([example.text for example in examples])
        second = iter(encoder.pieces([example.second for example in examples if example.second is not None]))
        rows = []
        for example, pieces in zip(examples, first, strict=True):
            target = self._target(example, numbers)
            if example.second is None:
                ids = encoder.single(pieces.ids)
                rows.append([Row(ids, len(ids), target)])
            else:
                rows.append([Row(*encoder.pair(pieces.ids, next(second).ids), target)])
        return rows

    def _target(self, example: Sentences, numbers: Mapping[str, int]) -> Sequence[float]:
        if example.label is None:
            return ()
        if self.kind == "number":
            return (float(example.label),)  # type: ignore[arg-type]
        chosen = []
        for name in _names(example.label):
            if name not in numbers:
                hint = nearest(name, numbers) or f"the labels of the training data: {', '.join(list(numbers)[:20])}"
                raise InputError(f"the label {name!r} does not occur in training", where=example.where, hint=hint)
            chosen.append(numbers[name])
        if self.kind == "class":
            return (chosen[0],)
        return [float(number in chosen) for number in range(len(numbers))]

    def predict(
        self,
        examples: Sequence[Sentences],
        outputs: Sequence[Sequence[Output]],
        encoder: TextEncoder,  # noqa: ARG002
        fitted: Fitted,
    ) -> list[Prediction]:
        raw = np.stack([of_example[0][0] for of_example in outputs]).astype(np.float64) if outputs else np.zeros((0, 1))
        if self.kind == "number":
            return [{"id": one.id, "value": float(value)} for one, value in zip(examples, raw[:, 0], strict=True)]
        if self.kind == "several":
            shares = 1 / (1 + np.exp(-raw))
            chosen = [[name for name, p in zip(fitted.labels, row, strict=True) if p >= 0.5] for row in shares]
        else:
            shares = np.exp(raw - raw.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            chosen = [fitted.labels[number] for number in raw.argmax(1)]
        key = "labels" if self.kind == "several" else "label"
        return [
            {"id": one.id, key: label, "probabilities": dict(zip(fitted.labels, map(float, row), strict=True))}
            for one, label, row in zip(examples, chosen, shares, strict=True)
        ]

    def score(self, scored: Iterable[tuple[Sentences, Prediction]], fitted: Fitted) -> Scores:  # noqa: ARG002
        pairs = [(example.label, prediction["label"]) for example, prediction in scored]
        return Scores({"accuracy": sum(gold == guess for gold, guess in pairs) / max(1, len(pairs))})


def _names(label: str | float | tuple[str, ...] | None) -> tuple[str, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (str(label),)
