"""Classes and numbers of sentences and pairs of sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.metrics.classification import class_scores, confusion, correlations, label_scores
from bertjobs.tasks.metrics.scores import Scores, listed
from bertjobs.tasks.probabilities import sigmoid, softmax
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys

MEASURES = {"class": "accuracy", "number": "pearson", "several": "micro_f1"}
"""The kinds of labels, each with the measure by which the best checkpoint is chosen, where a task names no other."""


class SentenceTask(Task[Sentences]):
    """One of several classes for each sentence or pair; with ``kind`` "number" a number, with "several" any number of
    classes.

    A subclass needs no more than ``files`` and `read`.
    """

    kind: str = "class"
    measure: ClassVar[str] = ""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        if self.kind not in MEASURES:
            raise InputError(f"{self.kind!r} is not a kind of labels", where=f"task {self.name}",
                             hint=nearest(self.kind, MEASURES))  # fmt: skip
        if not self.measure:
            self.measure = MEASURES[self.kind]  # type: ignore[misc]

    def labels(self, examples: Iterable[Sentences]) -> tuple[str, ...]:
        """All labels of the examples, sorted; () for numbers."""
        if self.kind == "number":
            return ()
        names = {name for example in examples for name in _names(example.label)}
        if not names:
            raise InputError("no training example has a label", where=f"task {self.name}")
        return tuple(sorted(names))

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Sentences]:
        """Keys: text, and for a pair second."""
        check_keys(texts, self.text_keys, self.optional_keys)
        return [Sentences(str(number), one["text"], self._second(one)) for number, one in enumerate(texts, 1)]

    def _second(self, text: Mapping[str, str]) -> str | None:
        second = text.get("second")
        return None if not second and "second" in self.optional_keys else second

    def _read_pairs(self, *, always: bool) -> None:
        """Say whether all texts have a second one, or none has; a task that does not say takes both."""
        self.text_keys = ("text", "second") if always else ("text",)  # type: ignore[misc]
        self.optional_keys = ()  # type: ignore[misc]

    def head(self, labels: Sequence[str]) -> Head:
        if self.kind == "number":
            return Head("sequence", 1, "squared_error")
        if self.kind == "several" and len(labels) < 2:
            raise InputError(f"several labels can be true at once, but there is one: {labels[0]}",
                             where=f"task {self.name}", hint="predict one of two classes: kind=class")  # fmt: skip
        return Head("sequence", len(labels), "cross_entropy" if self.kind == "class" else "binary_cross_entropy")

    def rows(self, examples: Sequence[Sentences], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:
        numbers = {label: number for number, label in enumerate(fitted.labels)}
        first = encoder.ids([example.text for example in examples])
        second = iter(encoder.ids([example.second for example in examples if example.second is not None]))
        rows = []
        for example, text in zip(examples, first, strict=True):
            target = self._target(example, numbers)
            if example.second is None:
                ids = encoder.single(text)
                rows.append([Row(ids, len(ids), target)])
            else:
                rows.append([Row(*encoder.pair(text, next(second)), target)])
        return rows

    def _target(self, example: Sentences, numbers: Mapping[str, int]) -> Sequence[float]:
        label = example.label
        if label is None:
            return ()
        if self.kind == "number":
            return (_number(label, example.where),)
        if self.kind == "class" and not isinstance(label, str):
            raise InputError(f"the label {label!r} is not the name of one class", where=example.where)
        chosen = []
        for name in _names(label):
            if name not in numbers:
                hint = nearest(name, numbers) or f"the labels of the training data: {listed(numbers)}"
                raise InputError(f"the label {name!r} does not occur in training", where=example.where, hint=hint)
            chosen.append(numbers[name])
        if self.kind == "class":
            return chosen
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
            shares = sigmoid(raw)
            chosen = [[name for name, p in zip(fitted.labels, row, strict=True) if p >= 0.5] for row in shares]
        else:
            shares = softmax(raw)
            chosen = [fitted.labels[number] for number in raw.argmax(1)]
        key = "labels" if self.kind == "several" else "label"
        return [
            {"id": one.id, key: label, "probabilities": dict(zip(fitted.labels, map(float, row), strict=True))}
            for one, label, row in zip(examples, chosen, shares, strict=True)
        ]

    def score(self, scored: Iterable[tuple[Sentences, Prediction]], fitted: Fitted) -> Scores:
        """Of classes accuracy, macro F1, Matthews correlation, and with two of them the F1 of the second; of numbers
        Pearson and Spearman correlation; of several labels micro and macro F1."""
        names = fitted.labels
        places = {name: number for number, name in enumerate(names)}
        if self.kind == "number":
            values = _pairs(((_number(one.label, one.where), guess["value"]) for one, guess in scored), np.float64)
            return correlations(values[:, 0], values[:, 1])
        if self.kind == "several":
            chosen = ((_names(one.label), guess["labels"]) for one, guess in scored)
            flags = _pairs(
                ((_flags(true, places), _flags(predicted, places)) for true, predicted in chosen), np.bool_, len(names)
            )
            return label_scores(flags[:, 0], flags[:, 1], names)
        classes = _pairs(((places[str(one.label)], places[guess["label"]]) for one, guess in scored), np.int32)
        counts = confusion(classes[:, 0], classes[:, 1], len(names))
        return class_scores(counts, names, positive=(1,) if len(names) == 2 else ())


def _pairs(pairs: Iterator[Any], kind: Any, *shape: int) -> NDArray[Any]:
    """What is true and what was predicted, ``[examples, 2, *shape]``: a few bytes per example."""
    return np.fromiter(pairs, np.dtype((kind, (2, *shape))))


def _flags(names: Iterable[str], places: Mapping[str, int]) -> NDArray[np.bool_]:
    flags = np.zeros(len(places), dtype=np.bool_)
    flags[[places[name] for name in names]] = True
    return flags


def _names(label: str | float | tuple[str, ...] | None) -> tuple[str, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (str(label),)


def _number(label: str | float | tuple[str, ...] | None, where: str) -> float:
    try:
        number = float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the label {label!r} is not a number", where=where)
    return number
