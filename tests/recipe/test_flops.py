"""The floating-point operations of a step, against the model itself and the published figures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.flops import StepCounts, flops_per_sequence, step_flops
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import ModelSpec

LARGE = ModelSpec("large", 1024, 24, 16, 4096, vocab_size=30522)
SMALL = ModelSpec("small", 24, 3, 2, 40, vocab_size=97, max_position_embeddings=16, hidden_dropout_prob=0.0,
                  attention_probs_dropout_prob=0.0)  # fmt: skip


@pytest.mark.parametrize(("phase", "published"), [(1, 240.6e9), (2, 1020.5e9)])
def test_a_sequence_of_bert_large_is_the_published_one(phase: int, published: float) -> None:
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "dgxa100-80g"}, environ={}).spec
    assert flops_per_sequence(spec.model, spec.phase(phase), 30522) == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("next_sentence", [True, False])
def test_forward_is_what_torch_counts_in_the_model(next_sentence: bool) -> None:
    model = BertForPreTraining(SMALL, next_sentence=next_sentence).eval()
    length, masked = 11, 3
    ids = torch.ones(2, length, dtype=torch.int64)
    labels = torch.full((2, length), -1)
    labels[0, :masked] = 5
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(ids, ids, ids, labels, torch.zeros(2, dtype=torch.int64))
    products = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(operation)  # torch counts it only in kernels that have a rule
    )
    attention = 4 * 3 * 24 * 2 * length**2
    counts = StepCounts(2, masked, 2 * length, 2 * length**2)
    assert step_flops(SMALL, 97, counts, next_sentence=next_sentence) / 3 - attention == products


@given(st.lists(st.tuples(st.integers(3, 512), st.integers(1, 80)), min_size=1, max_size=20))
def test_a_step_is_the_sum_of_its_sequences(sequences: list[tuple[int, int]]) -> None:
    parts = [StepCounts(1, masked, length, length**2) for length, masked in sequences]
    whole = StepCounts(*map(sum, zip(*parts, strict=True)))
    assert step_flops(LARGE, 30522, whole) == pytest.approx(sum(step_flops(LARGE, 30522, part) for part in parts))


def test_lengths_and_not_their_mean_decide() -> None:
    even = StepCounts(2, 40, 512, 2 * 256**2)
    uneven = StepCounts(2, 40, 512, 500**2 + 12**2)
    difference = 3 * 4 * 24 * 1024 * (500**2 + 12**2 - 2 * 256**2)
    assert step_flops(LARGE, 30522, uneven) - step_flops(LARGE, 30522, even) == difference
