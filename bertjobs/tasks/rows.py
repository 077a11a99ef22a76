"""What a model reads of an example, and what its head computes from that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOT_SCORED = -1
"""Target of a token whose output is read but has no label."""

Output = NDArray[np.float32]
"""A head's outputs for one row: ``[places read, outputs]``, raw (before softmax or sigmoid)."""


class Row(NamedTuple):
    """One sequence: an example, or a window of a long one.

    Attributes:
        ids: tokens with [CLS] and [SEP].
        second: place of the first token of the second segment; ``len(ids)`` if there is none.
        target: for a head of kind "sequence" a class, or a number per output; for "token" a class for each place that
            is read, `NOT_SCORED` where it has no label; for "span" the places of the first and the last token of the
            answer, both 0 ([CLS]) for none. () if the example has no label.
        read: places whose outputs are read, for "token" only; () for the others: "sequence" reads [CLS], "span" all.
    """

    ids: Sequence[int]
    second: int
    target: Sequence[float] = ()
    read: Sequence[int] = ()


ARCHITECTURES = {
    "sequence": "BertForSequenceClassification",
    "token": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}
"""Hugging Face's classes, by what a head looks at."""


@dataclass(frozen=True)
class Head:
    """What stands on top of the encoder.

    Attributes:
        kind: what it looks at: "sequence" is the pooled [CLS], "token" single tokens, "span" all tokens, as candidates
            for the first and the last one of an answer.
        outputs: numbers per place that is read; 2 for "span".
        loss: cross-entropy over classes, the mean squared error of numbers, or (binary) a cross-entropy per output, of
            which several can be true at once.
    """

    kind: Literal["sequence", "token", "span"]
    outputs: int
    loss: Literal["cross_entropy", "squared_error", "binary_cross_entropy"] = "cross_entropy"

    @property
    def architecture(self) -> str:
        """Hugging Face's class for such a model."""
        return ARCHITECTURES[self.kind]

    @property
    def output_names(self) -> tuple[str, ...]:
        """What that class, and ONNX files of it, call the outputs."""
        return ("start_logits", "end_logits") if self.kind == "span" else ("logits",)

    @property
    def has_classes(self) -> bool:
        """Whether each output stands for a class, one of which is true."""
        return self.loss == "cross_entropy" and self.kind != "span"

    def labels_in(self, rows: Iterable[Row]) -> set[int]:
        """The numbers of the classes or labels that are true of some row, or some token; none of numbers and spans."""
        if self.has_classes:
            return {int(number) for row in rows for number in row.target if number != NOT_SCORED}
        if self.loss == "binary_cross_entropy":
            return {number for row in rows for number, is_true in enumerate(row.target) if is_true}
        return set()

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "outputs": self.outputs, "loss": self.loss}

    def places(self, row: Row) -> Sequence[int]:
        """The places of a row whose outputs are read."""
        if self.kind == "token":
            return row.read
        return range(len(row.ids)) if self.kind == "span" else (0,)
