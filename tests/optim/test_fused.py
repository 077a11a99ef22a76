"""The fused LAMB against the reference.

Where there is a GPU, the kernels run on it; otherwise in Triton's interpreter, which computes the same in numpy. They
are compiled for other GPUs either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.triton_compiler import compiles, for_each_gpu

GPU = torch.cuda.is_available()

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.optim.fused import BLOCK, FusedLamb, why_not_fused  # noqa: E402
from bertjobs.optim.lamb import Lamb  # noqa: E402
from bertjobs.optim.sharding import StateShare, spread  # noqa: E402

# In numpy, what a mask then hides is computed too: 0 / 0 in a first step that is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

DEVICE = torch.device("cuda" if GPU else "cpu")
LR = 0.02
SHAPES = ((1,), (7,), (1023,), (37, 83), (), (BLOCK,), (BLOCK + 1,), (3, 5, 2))
DECAYED = (0, 2, 3, 5, 7)


def optimizer_of(kind: type[Lamb], shapes: tuple = SHAPES, decay: float = 0.01, **settings: object) -> Lamb:
    """The same at each call; the third parameter is zero, so its trust ratio is 1."""
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in shapes]
    parameters[2].data.zero_()
    decayed = [p for index, p in enumerate(parameters) if index in DECAYED]
    others = [p for index, p in enumerate(parameters) if index not in DECAYED]
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0, "betas": (0.8, 0.99), "epsilon": 1e-5},
    ]
    return kind(groups, LR, **settings)


def parameters_of(optimizer: Lamb) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_gradients(optimizer: Lamb, step: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters_of(optimizer):
        parameter.grad = (size * torch.randn(parameter.shape, generator=generator)).to(DEVICE)


def states(optimizer: Lamb) -> list[Tensor]:
    """Copies of all parameters and moments."""
    parameters = parameters_of(optimizer)
    moments = [moment for pair in optimizer.moments().values() for moment in pair]
    return [tensor.detach() for tensor in [*parameters, *moments]]


def assert_parity(fused: Lamb, reference: Lamb) -> None:
    """To within 1e-6 of each tensor's length."""
    ours, theirs = states(fused), states(reference)
    assert len(ours) == len(theirs) == 3 * len(parameters_of(reference))
    for one, two in zip(ours, theirs, strict=True):
        assert (one.double() - two.double()).norm() <= 1e-6 * two.double().norm(), tuple(one.shape)
    assert fused.step_count == reference.step_count


@pytest.mark.parametrize(("steps", "decay", "nvlamb"), [(50, 0.01, False), (20, 0.0, True)], ids=["decay", "nvlamb"])
def test_many_steps_agree_with_the_reference(steps: int, decay: float, nvlamb: bool) -> None:
    """Clipped and not, with loss scales, rates that move, and two steps that are skipped."""
    fused, reference = (optimizer_of(kind, decay=decay, use_nvlamb=nvlamb) for kind in (FusedLamb, Lamb))
    bad = {0: math.inf, 17: math.nan}
    for step in range(steps):
        scale = 2.0 ** (step % 20)
        size = scale * (0.001 if step % 3 else 5.0)
        results = []
        for optimizer in (fused, reference):
            optimizer.set_learning_rate(LR / (1 + step))
            set_gradients(optimizer, step, size)
            if step in bad:
                parameters_of(optimizer)[3].grad.view(-1)[-1] = bad[step]
            results.append(optimizer.step(scale))
        assert results[0].skipped == results[1].skipped == (step in bad)
        if step not in bad:
            torch.testing.assert_close(*[result.gradient_norm for result in results], rtol=1e-6, atol=0)
    assert fused.step_count == steps - len(bad)
    assert_parity(fused, reference)


def test_gradients_that_stay_in_one_buffer_give_the_same_bits() -> None:
    """As DDP keeps them: one after the other, at any multiple of 4 bytes, set to 0 in place before each step."""
    kept, fresh = optimizer_of(FusedLamb), optimizer_of(FusedLamb)
    parameters = parameters_of(kept)
    buffer = torch.zeros(1 + sum(p.numel() for p in parameters), device=DEVICE)[1:]
    for parameter, part in zip(parameters, buffer.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view(parameter.shape)
    for step in range(4):
        set_gradients(fresh, step, 3.0 * step)
        kept.zero_grad()
        assert not buffer.any()
        for parameter, other in zip(parameters, parameters_of(fresh), strict=True):
            assert parameter.grad is not None
            parameter.grad += other.grad
        for optimizer in (kept, fresh):
            assert not optimizer.step().skipped
    for one, two in zip(states(kept), states(fresh), strict=True):
        assert torch.equal(one, two), tuple(one.shape)


def test_an_embedding_agrees_with_the_reference() -> None:
    """With so many blocks that a GPU adds up their sums in several rounds."""
    shapes = ((30522, 1024 if GPU else 2), (7,), (1023,))
    fused, reference = (optimizer_of(kind, shapes) for kind in (FusedLamb, Lamb))
    for step in range(3):
        for optimizer in (fused, reference):
            set_gradients(optimizer, step)
            optimizer.step()
    assert_parity(fused, reference)


def test_more_blocks_than_are_added_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjobs.optim.fused.BLOCKS_AT_ONCE", 2)
    fused, reference = (optimizer_of(kind) for kind in (FusedLamb, Lamb))
    for optimizer in (fused, reference):
        set_gradients(optimizer, 0)
        optimizer.step()
    assert_parity(fused, reference)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_no_bit(value: float) -> None:
    optimizer = optimizer_of(FusedLamb)
    set_gradients(optimizer, 0)
    optimizer.step(4.0)
    for place in (0, 3, -1):
        before = [tensor.clone() for tensor in states(optimizer)]
        set_gradients(optimizer, 1)
        parameters_of(optimizer)[place].grad.view(-1)[-1] = value
        result = optimizer.step(4.0)
        assert result.skipped
        assert not result.gradient_norm.isfinite()
        assert all(torch.equal(one, two) for one, two in zip(states(optimizer), before, strict=True))
        assert optimizer.step_count == 1


def test_the_same_steps_give_the_same_bits() -> None:
    one, two = optimizer_of(FusedLamb), optimizer_of(FusedLamb)
    for step in range(2):
        for optimizer in (one, two):
            set_gradients(optimizer, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(states(one), states(two), strict=True))


def test_it_continues_from_the_references_moments_and_counts_from_0() -> None:
    fused, reference = optimizer_of(FusedLamb), optimizer_of(Lamb)
    for step in range(3):
        set_gradients(reference, step)
        reference.step()
    moments = reference.moments()
    pairs = list(zip(parameters_of(fused), parameters_of(reference), strict=True))
    for ours, theirs in pairs:
        ours.data.copy_(theirs.data)
    loaded = {ours: (moments[theirs][0].clone(), moments[theirs][1].clone()) for ours, theirs in pairs}
    fused.load_moments(loaded, reference.step_count)
    assert fused.step_count == 3
    for step in (3, 4):
        for optimizer in (fused, reference):
            set_gradients(optimizer, step)
            optimizer.step()
        assert_parity(fused, reference)
        for optimizer in (fused, reference):
            optimizer.reset_step_count()
    assert fused.step_count == 0


@dataclass(frozen=True)
class Apart(StateShare):
    """A rank whose parameters do not travel: the test carries them."""

    def exchange(self, tensors: object, owners: object) -> None:
        pass


def test_sharded_states_give_the_bits_of_whole_ones() -> None:
    whole = optimizer_of(FusedLamb)
    ranks = [optimizer_of(FusedLamb, shard=Apart(rank, 3)) for rank in range(3)]
    owners = spread([p.numel() for p in parameters_of(whole)], 3)
    for step in range(3):
        for optimizer in (whole, *ranks):
            set_gradients(optimizer, step, math.inf if step == 1 else 1.0)
            assert optimizer.step().skipped == (step == 1)
        for index, owner in enumerate(owners):
            expected = parameters_of(whole)[index]
            sent = parameters_of(ranks[owner])[index]
            assert torch.equal(sent, expected)
            assert sent in ranks[owner].moments()
            for optimizer in ranks:
                parameters_of(optimizer)[index].data.copy_(sent.data)
    assert sum(len(optimizer.moments()) for optimizer in ranks) == len(SHAPES)
    assert [optimizer.step_count for optimizer in ranks] == [2, 2, 2]


def test_strided_and_missing_gradients() -> None:
    fused, reference = optimizer_of(FusedLamb), optimizer_of(Lamb)
    for optimizer in (fused, reference):
        with pytest.raises(ValueError, match="call backward"):
            optimizer.step()
        set_gradients(optimizer, 0)
        parameters = parameters_of(optimizer)
        parameters[2].grad = parameters[2].grad.t().contiguous().t()
        assert not parameters[2].grad.is_contiguous()
        parameters[1].grad = parameters[-1].grad = None
        optimizer.step()
    for one, two in zip(parameters_of(fused), parameters_of(reference), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert (one in fused.moments()) == (two in reference.moments())


@pytest.mark.parametrize("parameter", [torch.zeros(4, dtype=torch.float16), torch.zeros(4, 4).t()[:2]])
def test_it_refuses_parameters_that_its_kernels_would_misread(parameter: Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous float32"):
        FusedLamb([torch.nn.Parameter(parameter.to(DEVICE))], LR)


def test_it_can_be_used_if_a_kernel_runs() -> None:
    assert why_not_fused(DEVICE) is None


@pytest.mark.skipif(not GPU, reason="no GPU to wait for")
def test_a_step_does_not_wait_for_the_gpu() -> None:
    optimizer = optimizer_of(FusedLamb)
    set_gradients(optimizer, 0)
    optimizer.step()
    set_gradients(optimizer, 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(2.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


COMPILE = """
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bertjobs.optim import fused_kernels as kernels
from bertjobs.optim.fused import BLOCK, BLOCKS_AT_ONCE

TYPES = {"tensor_of": "*i32", "first_block": "*i32"}
TYPES |= dict.fromkeys(("parameters", "gradients", "firsts", "seconds", "updates", "sizes"), "*i64")
TYPES |= dict.fromkeys(("squares", "weight_squares", "update_squares", "scalars", "rates"), "*fp32")
TYPES |= dict.fromkeys(("beta1", "beta2", "rest1", "rest2", "epsilon", "weight_decay", "lr"), "fp32")
for kernel, constants in (
    (kernels.sum_squares, {"BLOCK": BLOCK}),
    (kernels.move_moments, {"BLOCK": BLOCK}),
    (kernels.trust_rates, {"BLOCK": BLOCKS_AT_ONCE, "ADAPTS": True}),
    (kernels.trust_rates, {"BLOCK": BLOCKS_AT_ONCE, "ADAPTS": False}),
    (kernels.apply_update, {"BLOCK": BLOCK}),
):
    signature = {name: "constexpr" if name in constants else TYPES[name] for name in kernel.arg_names}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=target)
    assert len(compiled.asm["cubin"]) > 1000
print("compiled")
"""


@for_each_gpu
def test_the_kernels_compile(capability: int, tmp_path: Path) -> None:
    compiles(COMPILE, capability, tmp_path)
