"""The summands of a student's loss, each by its name: what a step sums up, and what metrics.jsonl says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertjobs.distill.losses import relation_divergence, squared_error
from bertjobs.distill.student import projected
from bertjobs.finetune.forward import nothing
from bertjobs.model.attention import Attend
from bertjobs.model.bert import Bert
from bertjobs.model.packed import Tokens
from bertjobs.model.states import States, states_of
from bertjobs.recipe.distillation import Matching
from bertjobs.train.objective import Term

SCORES = {"labels": 2, "logits": 1, "hidden": 1, "relations": 1}
"""The terms in their order, and how many scores each has: its loss without its weight; of labels also the hits."""


@dataclass(frozen=True)
class Means:
    """A step's or a validation's means.

    Attributes:
        total: the weighted sum, which training minimises.
        scores: by term, those of `SCORES`.
    """

    total: float
    scores: dict[str, tuple[float, ...]]


def terms_of(matching: Matching, *, has_labels: bool, has_logits: bool) -> tuple[str, ...]:
    """The terms that have a weight; the loss on labels is measured wherever a head is trained, even with weight 0."""
    used = {
        "labels": has_labels,
        "logits": has_logits and matching.logits > 0,
        "hidden": matching.hidden > 0,
        "relations": matching.relations > 0,
    }
    return tuple(name for name, is_used in used.items() if is_used)


def weighted(weight: float, loss: Tensor, count: int, *scores: Tensor) -> Term:
    """A term of a loss that is summed over ``count`` rows or tokens."""
    return Term(weight * loss, torch.full((), count, device=loss.device), (loss.detach(), *scores))


def student_states(bert: Bert, pack: Tokens, attention: Attend, matching: Matching) -> States:
    """The layers of a student on a pack, as far as they are compared with its teacher's."""
    last = len(bert.encoder.layer)
    return states_of(bert, pack, attention, matching.student_layers, last if matching.relations else None)


def reaching_all(terms: Iterable[Term], model: nn.Module) -> tuple[Term, ...]:
    """The terms, of which the first gives every parameter a gradient, if need be of 0.

    A pack without sequences, weights of 0, and layers beyond those that are compared leave some without one.
    """
    first, *rest = terms
    return (replace(first, loss_sum=first.loss_sum + nothing(model).loss_sum), *rest)


def inner_terms(
    ours: States, theirs: States, lengths: NDArray[np.int64], model: nn.Module, matching: Matching
) -> Iterator[Term]:
    """The terms "hidden" and "relations", those that have a weight, over the tokens of sequences of these lengths."""
    tokens = int(lengths.sum())
    if matching.hidden:
        errors = [
            squared_error(projected(model, ours.hidden[mine][:tokens], mine), theirs.hidden[its][:tokens])
            for mine, its in matching.pairs
        ]
        yield weighted(matching.hidden, torch.stack(errors).mean(), tokens)
    if matching.relations:
        apart = relation_divergence(ours.attended, theirs.attended, lengths, matching.relation_heads)
        yield weighted(matching.relations, apart, tokens)


def means(names: Sequence[str], sums: Sequence[float], divisors: Sequence[int]) -> Means:
    """What the sums of terms of these names say; ``sums`` as in `Objective.measures`."""
    left, total, scores = iter(sums), 0.0, {}
    for name, divisor in zip(names, divisors, strict=True):
        total += next(left) / divisor
        scores[name] = tuple(next(left) / divisor for _ in range(SCORES[name]))
    return Means(total, scores)
