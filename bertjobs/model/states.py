"""What the layers of a BERT compute inside, for all tokens of a pack: what a student learns from its teacher."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bertjobs.model.attention import Attend, SequenceLayout
from bertjobs.model.bert import Bert, Layer
from bertjobs.model.packed import EAGER, Tokens, all_rows, embedded, run_layer


@dataclass(frozen=True)
class States:
    """The inside of a model on a pack of T tokens.

    Attributes:
        hidden: [T, H], by layer: 0 for the embeddings, then from 1.
        last: [T, H], the last layer's.
        attended: the query, key and value [T, H] of one layer, the heads side by side; () if none was asked for.
    """

    hidden: Mapping[int, Tensor]
    last: Tensor
    attended: tuple[Tensor, ...] = ()


def states_of(bert: Bert, pack: Tokens, attend: Attend, layers: Collection[int], attended: int | None = None) -> States:
    """The hidden states of some ``layers``, and what attention reads in the layer ``attended``, counted from 1.

    Unlike `bertjobs.model.packed.encode` the last layer computes all tokens as well.

    Raises:
        InputError: sequences may be longer than the model's positions.
    """
    hidden, layout = embedded(bert, pack), all_rows(pack)
    kept, vectors = {0: hidden} if 0 in layers else {}, ()
    recompute = bert.encoder.activation_checkpointing and bert.training and torch.is_grad_enabled()
    for number, layer in enumerate(bert.encoder.layer, 1):
        run = functools.partial(_layer, layer, layout, attend)  # type: ignore[arg-type]
        hidden, *read = checkpoint(run, hidden, use_reentrant=False) if recompute else run(hidden)
        if number in layers:
            kept[number] = hidden
        if number == attended:
            vectors = tuple(read)
    return States(kept, hidden, vectors)


def _layer(layer: Layer, layout: SequenceLayout, attend: Attend, hidden: Tensor) -> tuple[Tensor, ...]:
    """A layer's output, and the query, key and value that its attention read."""
    read: list[Tensor] = []

    def reading(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
        read.extend(vectors.flatten(1) for vectors in (query, key, value))
        return attend(query, key, value, layout, dropout)

    return run_layer(layer, hidden, layout, reading, EAGER), *read
