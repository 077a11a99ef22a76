"""The unpadded path on a GPU: the padded one's numbers, no waiting, nothing compiled twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.errors import InputError
from bertjobs.model.attention import ATTENTIONS, ChosenAttention, choose_attention
from bertjobs.model.bert import BertForPreTraining, PretrainingSums
from bertjobs.model.compiled import choose_parts, no_recompilation, warm_up
from bertjobs.model.packed import EAGER, TokenWise, packed_sums
from bertjobs.recipe.spec import ModelSpec
from bertjobs.train.precision import AUTOCAST, autocast
from tests.gpu.conftest import GPU, no_waiting
from tests.model.packs import make_pack, padded

SPEC = ModelSpec("deep", 256, 4, 4, 1024, vocab_size=1000)
LENGTHS = ([120, 90, 61, 33, 8], [128, 128, 40, 5])


def pack(number: int) -> PackedBatch:
    return make_pack(
        LENGTHS[number], tokens=512, slots=16, predictions=96, max_length=128, vocabulary=SPEC.vocab_size, seed=number
    )


def new_model(dropout: float) -> BertForPreTraining:
    torch.manual_seed(2)
    return BertForPreTraining(
        replace(SPEC, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    ).to(GPU)  # fmt: skip


def attention(name: str, precision: str) -> ChosenAttention:
    dtype = AUTOCAST.get(precision, torch.float32)
    try:
        return choose_attention(name, GPU, dtype, SPEC.hidden_size // SPEC.num_attention_heads)
    except InputError as error:
        pytest.skip(error.what)


def train(sums: PretrainingSums, model: BertForPreTraining) -> dict[str, Tensor]:
    model.zero_grad()
    (sums.mlm_loss_sum / 50 + sums.nsp_loss_sum / 5).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_loss_and_gradients_are_the_padded_path_s(name: str, precision: str) -> None:
    chosen, model, batch = attention(name, precision), new_model(0.0), pack(0)
    tolerance = 1e-4 if precision == "fp32" else 5e-2
    with autocast(precision, GPU):
        expected = model(**{key: tensor.to(GPU) for key, tensor in padded(batch).items()})
        sums = packed_sums(model, batch.to(GPU), chosen)
    assert sums.mlm_loss_sum.item() == pytest.approx(expected.mlm_loss_sum.item(), rel=tolerance)
    assert sums.nsp_loss_sum.item() == pytest.approx(expected.nsp_loss_sum.item(), rel=tolerance)
    expected_gradients, gradients = train(expected, model), train(sums, model)
    whole = sum(gradient.norm() ** 2 for gradient in expected_gradients.values()) ** 0.5
    for parameter, gradient in expected_gradients.items():
        # A key's bias has a gradient of 0: what is computed is rounding.
        bound = tolerance * max(gradient.norm(), 0.01 * whole)
        assert (gradients[parameter] - gradient).norm() <= bound, parameter


@pytest.mark.parametrize("name", ["flash", "nested", "triton"])
def test_forward_and_backward_wait_for_nothing(name: str) -> None:
    chosen, model, batch = attention(name, "bf16"), new_model(0.1), pack(0).to(GPU)
    for _ in range(2):
        with autocast("bf16", GPU):
            train(packed_sums(model, batch, chosen), model)
    with no_waiting(), autocast("bf16", GPU):
        sums = packed_sums(model, batch, chosen)
        (sums.mlm_loss_sum + sums.nsp_loss_sum).backward()


@pytest.mark.parametrize("layers", ["inductor", "triton"])
def test_fused_parts_have_the_padded_path_s_loss_and_gradients(layers: str) -> None:
    chosen, model, batch = attention("auto", "bf16"), new_model(0.0), pack(0)
    with autocast("bf16", GPU):
        expected = model(**{key: tensor.to(GPU) for key, tensor in padded(batch).items()})
        actual = packed_sums(model, batch.to(GPU), chosen, choose_parts(GPU, layers))
    assert actual.mlm_loss_sum.item() == pytest.approx(expected.mlm_loss_sum.item(), rel=1e-2)
    assert abs(actual.mlm_correct.item() - expected.mlm_correct.item()) <= 1
    right, got = train(expected, model), train(actual, model)
    for parameter, gradient in right.items():
        assert (got[parameter] - gradient).norm() <= 5e-2 * gradient.norm() + 1e-6, parameter


@pytest.mark.parametrize("layers", ["inductor", "triton"])
def test_one_compilation_serves_all_packs(layers: str) -> None:
    chosen, model, parts = attention("auto", "bf16"), new_model(0.1), choose_parts(GPU, layers)
    assert parts.fixed_shapes
    before = torch.cuda.get_rng_state()
    warm_up(model, pack(0).to(GPU), chosen, parts, lambda: autocast("bf16", GPU))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with no_recompilation(), autocast("bf16", GPU):
        for number in range(len(LENGTHS)):
            sums = packed_sums(model, pack(number).to(GPU), chosen, parts)
            (sums.mlm_loss_sum + sums.nsp_loss_sum).backward()


def test_the_same_seed_gives_the_same_bits_compiled_or_not() -> None:
    chosen, model, batch = attention("auto", "bf16"), new_model(0.1), pack(1).to(GPU)

    def loss(parts: TokenWise) -> float:
        torch.manual_seed(9)
        with autocast("bf16", GPU):
            return packed_sums(model, batch, chosen, parts).mlm_loss_sum.item()

    for parts in (EAGER, choose_parts(GPU), choose_parts(GPU, "triton")):
        assert loss(parts) == loss(parts)
