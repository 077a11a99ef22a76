"""The arithmetic of a BERT pretraining step, in floating-point operations (FLOPs).

These are model FLOPs (Chowdhery et al., arXiv 2204.02311, appendix B): what the mathematics requires, without what is
computed on padding or computed again for activation checkpointing. Only matrix products count.
"""

from __future__ import annotations

from typing import NamedTuple

from bertjobs.recipe.spec import ModelSpec, PhaseSpec

FORWARD_SHARE = 1 / 3
"""Of the arithmetic of a training step, what is needed without the backward pass, which counts as two forwards."""


class StepCounts(NamedTuple):
    """What an optimizer step's sequences contain, without padding.

    Attributes:
        sequences: how many there are.
        masked_tokens: tokens that are predicted.
        tokens: sum of their lengths.
        squared_lengths: sum of the squares of their lengths, to which attention's work is proportional.
    """

    sequences: int
    masked_tokens: int
    tokens: int
    squared_lengths: int


def step_flops(model: ModelSpec, vocab_size: int, counts: StepCounts, *, next_sentence: bool = True) -> float:
    """Floating-point operations of forward and backward over some sequences.

    With L layers, hidden size H, inner size F, vocabulary V, lengths s, masked tokens M and sequences N::

        3 [2L (4H^2 + 2HF) sum(s) + 4LH sum(s^2) + 2M (H^2 + HV) + 2N (H^2 + 2H)]

    Encoder products, attention, the MLM head on masked tokens, and, for ``next_sentence``, pooler and NSP head;
    backward counts as two forwards.
    """
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    encoder = 2 * layers * (4 * hidden**2 + 2 * hidden * inner) * counts.tokens
    attention = 4 * layers * hidden * counts.squared_lengths
    mlm_head = 2 * counts.masked_tokens * (hidden**2 + hidden * vocab_size)
    nsp_head = 2 * counts.sequences * (hidden**2 + 2 * hidden) if next_sentence else 0
    return 3.0 * (encoder + attention + mlm_head + nsp_head)


def flops_per_sequence(model: ModelSpec, phase: PhaseSpec, vocab_size: int, *, next_sentence: bool = True) -> float:
    """`step_flops` of one sequence of the phase's full length with the most predictions that it may have."""
    length = phase.sequence_length
    counts = StepCounts(1, phase.max_predictions, length, length**2)
    return step_flops(model, vocab_size, counts, next_sentence=next_sentence)
