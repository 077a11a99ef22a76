"""Recomputing activations changes what is kept, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.spec import ModelSpec

Batch = dict[str, Tensor]


def pair(spec: ModelSpec) -> tuple[BertForPreTraining, BertForPreTraining]:
    """Two models of the same weights, the second with activation checkpointing; both in training, with dropout."""
    assert spec.hidden_dropout_prob > 0
    assert spec.attention_probs_dropout_prob > 0
    torch.manual_seed(2)
    plain = BertForPreTraining(spec)
    saving = BertForPreTraining(spec, activation_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    return plain, saving


def gradients(model: BertForPreTraining, batch: Batch, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """The gradients of two micro-batches, accumulated, and the loss."""
    model.zero_grad()
    total = torch.zeros(())
    for seed in (5, 6):
        torch.manual_seed(seed)
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            sums = model(**batch)
        loss = sums.mlm_loss_sum / 4 + sums.nsp_loss_sum / 3
        loss.backward()
        total += loss.detach()
    return {"loss": total, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_gradients_are_the_same_bit_for_bit(spec: ModelSpec, batch: Batch, precision: torch.dtype | None) -> None:
    plain, saving = (gradients(model, batch, precision) for model in pair(spec))
    assert plain.keys() == saving.keys()
    assert len(plain) == len(dict(BertForPreTraining(spec).named_parameters())) + 1
    for name, expected in plain.items():
        assert torch.equal(saving[name], expected), name


def test_the_generator_is_left_in_the_same_state_as_without_it(spec: ModelSpec, batch: Batch) -> None:
    """What is drawn after a step does not depend on activation checkpointing."""
    draws = []
    for model in pair(spec):
        gradients(model, batch)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)


def kept_bytes(model: BertForPreTraining, batch: Batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = []  # so that no storage is used twice
    with saved_tensors_hooks(lambda tensor: (alive.append(tensor), pack(tensor))[1], lambda tensor: tensor):
        model(**batch)
    return sum(kept.values())


def test_far_less_is_kept_for_the_backward_pass(spec: ModelSpec, batch: Batch) -> None:
    deep = replace(spec, num_hidden_layers=8)
    plain, saving = (kept_bytes(model, batch) for model in pair(deep))
    assert saving < 0.25 * plain
    # One more layer costs its input [3, 11, 24] and little else.
    deeper = kept_bytes(pair(replace(spec, num_hidden_layers=9))[1], batch)
    assert deeper - saving < 1.5 * 3 * 11 * 24 * 4


def test_evaluation_computes_nothing_twice(spec: ModelSpec, batch: Batch) -> None:
    plain, saving = (model.eval() for model in pair(spec))
    calls = []
    saving.bert.encoder.layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
    expected, actual = plain(**batch), saving(**batch)
    (actual.mlm_loss_sum + actual.nsp_loss_sum).backward()
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))
    assert len(calls) == 1
    saving.train()
    saving(**batch).nsp_loss_sum.backward()
    assert len(calls) == 3
