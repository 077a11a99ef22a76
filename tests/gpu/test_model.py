"""Activation checkpointing, and a forward pass that does not wait."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bertjobs.model.bert import IGNORED_LABEL, BertForPreTraining
from bertjobs.recipe.spec import ModelSpec
from bertjobs.train.precision import autocast, use_deterministic
from tests.gpu.conftest import GPU, no_waiting

SPEC = ModelSpec("deep", 256, 8, 4, 1024, vocab_size=1000)
SEQUENCES, LENGTH = 32, 128


def batch() -> dict[str, Tensor]:
    """Random sequences of several lengths; the labels stay on the CPU."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(5, SPEC.vocab_size, (SEQUENCES, LENGTH), generator=generator)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (SEQUENCES, 1), generator=generator)
    real = (torch.arange(LENGTH) < lengths).long()
    masked = (torch.rand(tokens.shape, generator=generator) < 0.15) & real.bool()
    return {
        "input_ids": (tokens * real).to(GPU),
        "token_type_ids": torch.zeros_like(tokens).to(GPU),
        "attention_mask": real.to(GPU),
        "labels": torch.where(masked, tokens, IGNORED_LABEL),
        "next_sentence_labels": tokens[:, 0] % 2,
    }


def new_model(**settings: bool) -> BertForPreTraining:
    """In training, with dropout; the weights are the same at each call."""
    torch.manual_seed(2)
    return BertForPreTraining(SPEC, **settings).to(GPU)


def gradients(model: BertForPreTraining, inputs: Mapping[str, Tensor], precision: str) -> tuple[dict[str, Tensor], int]:
    """The gradients, and the peak number of bytes that computing them took."""
    model.zero_grad()
    torch.manual_seed(5)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with autocast(precision, GPU):
        sums = model(**inputs)
    (sums.mlm_loss_sum / 600 + sums.nsp_loss_sum / SEQUENCES).backward()
    taken = torch.cuda.max_memory_allocated() - before
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, taken


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_activation_checkpointing_takes_less_memory_and_gives_the_same_bits(precision: str) -> None:
    use_deterministic(True)
    inputs = batch()
    expected, _ = gradients(new_model(), inputs, precision)  # allocates what products work in
    again, plain_bytes = gradients(new_model(), inputs, precision)
    recomputed, bytes_taken = gradients(new_model(activation_checkpointing=True), inputs, precision)
    assert recomputed.keys() == expected.keys() == again.keys()
    for name, gradient in expected.items():
        assert torch.equal(again[name], gradient), f"{name} differs from run to run"
        assert torch.equal(recomputed[name], gradient), name
    assert bytes_taken < 0.5 * plain_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_forward_pass_does_not_wait_if_the_labels_are_on_the_cpu(precision: str) -> None:
    model, inputs = new_model(), batch()
    with autocast(precision, GPU):
        model(**inputs)
        with no_waiting():
            sums = model(**inputs)
    assert int(sums.mlm_count) == int((inputs["labels"] != IGNORED_LABEL).sum())
