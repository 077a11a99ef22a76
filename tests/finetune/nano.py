"""Made rows of a task, prepared, for a tiny model of random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bertjobs.finetune.forward import TaskForward, open_forward
from bertjobs.finetune.model import BertForTask
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.prepared import SplitFacts, SplitWriter, TaskSplit
from bertjobs.tasks.rows import Head, Row

NANO = ModelSpec(
    name="nano",
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    vocab_size=100,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)

HEADS = {
    "class": Head("sequence", 3),
    "number": Head("sequence", 1, "squared_error"),
    "several": Head("sequence", 4, "binary_cross_entropy"),
    "token": Head("token", 5),
    "span": Head("span", 2),
}


def made_rows(head: Head, count: int, seed: int = 0) -> list[Row]:
    """Rows of 8 to 40 tokens, some of two segments, with targets for the head."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(draw.integers(8, 40))
        ids = draw.integers(5, 100, length).tolist()
        second = int(draw.integers(3, length)) if draw.random() < 0.5 else length
        read: Sequence[int] = ()
        target: Sequence[float]
        if head.kind == "span":
            first = int(draw.integers(0, length))
            target = (first, int(draw.integers(first, length)))
        elif head.kind == "token":
            read = sorted(draw.choice(np.arange(1, length - 1), size=5, replace=False).tolist())
            target = [int(tag) for tag in draw.integers(-1, head.outputs, len(read))]
        elif head.loss == "cross_entropy":
            target = (int(draw.integers(head.outputs)),)
        else:
            target = draw.integers(0, 2, head.outputs).astype(float).tolist()
        rows.append(Row(ids, second, target, read))
    return rows


def written(folder: Path, rows: Sequence[Row]) -> TaskSplit:
    """The rows as a split on disk, one example each."""
    writer = SplitWriter(folder, with_examples=True)
    writer.add([Sentences(str(number), "") for number in range(len(rows))], [[row] for row in rows])
    writer.close()
    return TaskSplit(folder, SplitFacts(writer.count, writer.rows, writer.tokens, 0, labelled=True))


def nano_forward(head: Head, seed: int = 0) -> TaskForward:
    """A model of random weights, in training mode, without dropout."""
    torch.manual_seed(seed)
    model = BertForTask(NANO, head)
    return open_forward(model, "fp32", torch.device("cpu"))
