"""Compiled parts compute the same, compile once, and leave no trace."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch._inductor
from torch import Tensor

from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.model.attention import ATTENTIONS
from bertjobs.model.bert import BertForPreTraining, PretrainingSums
from bertjobs.model.compiled import MODES, choose_parts, compile_parts, no_recompilation, warm_up
from bertjobs.model.packed import EAGER, Affine, Normalised, TokenWise, packed_sums
from bertjobs.recipe.spec import ModelSpec
from tests.model.packs import make_pack

CPU = torch.device("cpu")
ATTEND = ATTENTIONS["per_sequence"]


def pack_of(lengths: list[int]) -> PackedBatch:
    return make_pack(lengths, tokens=48, slots=8, predictions=16, max_length=16, vocabulary=41)


def step(model: BertForPreTraining, pack: PackedBatch, parts: TokenWise) -> tuple[PretrainingSums, dict[str, Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    sums = packed_sums(model, pack, ATTEND, parts)
    (sums.mlm_loss_sum + sums.nsp_loss_sum).backward()
    return sums, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def compiled() -> TokenWise:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return compile_parts(CPU)


@pytest.mark.slow
def test_warmed_up_parts_compute_the_same_and_compile_no_more(spec: ModelSpec, compiled: TokenWise) -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(replace(spec, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.1))
    before = torch.get_rng_state()
    warm_up(model, pack_of([]), ATTEND, compiled)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    for lengths in ([16, 16, 3, 7], [9]):
        expected, right = step(model, pack_of(lengths), replace(EAGER, fixed_shapes=True))
        with no_recompilation():
            actual, gradients = step(model, pack_of(lengths), compiled)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients, right, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_seed_fixes_compiled_dropout(compiled: TokenWise) -> None:
    zeros, norm = torch.zeros(200, 300), Normalised(torch.ones(300), torch.ones(300), 1e-12)

    def dropped(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return compiled.embed(zeros, zeros, zeros, norm, 0.1, torch.float32)

    first = dropped(5)
    assert torch.equal(dropped(5), first)
    assert not torch.equal(dropped(6), first)
    assert float((first != 0).double().mean()) == pytest.approx(0.9, abs=4 * 0.3 / 60_000**0.5)
    assert float(first.max()) == pytest.approx(1 / 0.9)


@pytest.mark.slow
def test_compiling_after_the_warm_up_is_an_error(compiled: TokenWise) -> None:
    with no_recompilation(), pytest.raises(RuntimeError, match="recompile"):
        compiled.project(torch.zeros(4, 3, dtype=torch.float64), (Affine(torch.zeros(2, 3), torch.zeros(2)),), 1)


def test_without_a_compiler_parts_are_eager_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.warns(UserWarning, match="without compiled kernels") as caught:
        assert compile_parts(CPU) is EAGER
    assert len([warning for warning in caught if "without compiled kernels" in str(warning.message)]) == 1


def test_cpus_run_eager_parts() -> None:
    assert choose_parts(CPU) is EAGER


def test_torch_knows_the_modes() -> None:
    """And none of them captures CUDA graphs."""
    options = torch._inductor.list_mode_options()
    for mode in MODES.values():
        assert mode == "default" or (mode in options and "triton.cudagraphs" not in options[mode])
