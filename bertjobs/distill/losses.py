"""How far a student is from its teacher: sums over tokens or rows, in float32, that are 0 where both are the same.

Shapes: T tokens, N rows, C classes, W numbers of a model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bertjobs.data.ragged import offsets_of
from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.forward import by_sequence
from bertjobs.tasks.rows import NOT_SCORED, Head

CHUNK = 1 << 24
"""Numbers of a relation that are held at a time."""

NOWHERE = -1e9
"""A logit of what does not exist: its probability is 0, and its logarithm is finite."""


def squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of vectors [N, W]: the mean over the width, summed over the rows."""
    return (ours.float() - theirs.float()).square().mean(1).sum()


def divergence(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence, in nats, of the student's probabilities from the teacher's, by logits [..., C].

    It is multiplied by the square of the temperature, so that the size of its gradient does not depend on it (Hinton et
    al., arXiv 1503.02531).
    """
    student, teacher = (F.log_softmax(logits.float() / temperature, -1) for logits in (ours, theirs))
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


def relation_divergence(ours: Sequence[Tensor], theirs: Sequence[Tensor], lengths: NDArray[Any], heads: int) -> Tensor:
    """The divergence of relations between the tokens of each sequence: scaled products of queries with queries, keys
    with keys, values with values, as probabilities (MiniLMv2; Wang et al., arXiv 2012.15828).

    Args:
        ours, theirs: queries, keys and values, each [T, W]; the widths of student and teacher may differ.
        lengths: of the sequences, which lie one after the other; what comes after them does not count.
        heads: parts that each vector is cut into; it divides both widths.

    Returns:
        In nats, summed over tokens, the mean over heads and over the three.
    """
    total = torch.zeros((), device=ours[0].device)
    for places, real in _alike(lengths, heads, ours[0].device):
        for mine, its in zip(ours, theirs, strict=True):
            student, teacher = (_relation(vectors, places, real, heads) for vectors in (mine, its))
            of_tokens = (teacher.exp() * (teacher - student)).sum(-1)
            total = total + (of_tokens * real[:, None, :]).sum()
    return total / (heads * len(ours))


def _alike(lengths: NDArray[Any], heads: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences of like length together: the places of their tokens, int64 [S, L], and which of them exist, bool."""
    order, starts = np.argsort(-lengths, kind="stable"), offsets_of(lengths)
    first = 0
    while first < len(order):
        longest = int(lengths[order[first]])
        chosen = order[first : first + max(1, CHUNK // (heads * longest**2))]
        within = np.arange(longest)[None, :]
        real = within < lengths[chosen][:, None]
        places = np.where(real, starts[chosen][:, None] + within, 0)
        yield torch.from_numpy(places).to(device), torch.from_numpy(real).to(device)
        first += len(chosen)


def _relation(vectors: Tensor, places: Tensor, real: Tensor, heads: int) -> Tensor:
    """Logarithms of probabilities, [S, heads, L, L]."""
    parts = vectors.index_select(0, places.flatten()).view(*places.shape, heads, -1).transpose(1, 2)
    parts = parts * parts.shape[-1] ** -0.25  # before the product, which fp16 could not hold
    products = (parts @ parts.mT).float()
    return products.masked_fill(~real[:, None, None, :], NOWHERE).log_softmax(-1)


def task_divergence(ours: Tensor, theirs: Tensor, batch: TaskBatch, head: Head, temperature: float) -> Tensor:
    """How far a head's outputs [R, outputs] are from the teacher's, summed over what counts in the task's own loss.

    Classes, tags and the places of an answer are compared as probabilities, each of several labels by itself; numbers
    by their squared error.
    """
    if head.kind == "span":
        student, teacher = (by_sequence(outputs, batch, NOWHERE).transpose(1, 2) for outputs in (ours, theirs))
        return divergence(student, teacher, temperature) / 2
    if head.loss == "squared_error":
        return (ours - theirs).square().mean(1).sum()
    if head.loss == "binary_cross_entropy":
        true = torch.sigmoid(theirs / temperature)
        apart = (
            F.binary_cross_entropy_with_logits(logits / temperature, true, reduction="sum") for logits in (ours, theirs)
        )
        return (next(apart) - next(apart)) * temperature**2 / head.outputs
    if head.kind == "token":
        scored = (batch.targets != NOT_SCORED).nonzero().squeeze(1)
        ours, theirs = ours.index_select(0, scored), theirs.index_select(0, scored)
    return divergence(ours, theirs, temperature)
