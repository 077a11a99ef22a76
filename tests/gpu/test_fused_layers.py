"""The Triton parts of a layer on a GPU, against torch's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.gpu.conftest import GPU, no_waiting

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.model.compiled import choose_parts
from bertjobs.model.fused_layers import (
    LayerShapes,
    _Sample,
    _triton,
    choose_layers,
    disagreement,
    mask_problem,
    measured,
)
from bertjobs.model.packed import EAGER, TokenWise
from bertjobs.model.triton_layer import add_norm, add_norm_backward, gelu_backward, join_gradients
from bertjobs.recipe.spec import ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = {
    "tiny": ModelSpec("tiny", 128, 2, 2, 512, vocab_size=100),
    "odd": ModelSpec("odd", 264, 2, 3, 1000, vocab_size=100),
    "base": ModelSpec("base", 768, 2, 12, 3072, vocab_size=100),
    "large": ModelSpec("large", 1024, 2, 16, 4096, vocab_size=100),
    "wide": ModelSpec("wide", 2048, 2, 16, 2048, vocab_size=100),
}
SEED = torch.tensor([(1 << 40) + 3], device="cuda") if torch.cuda.is_available() else torch.zeros(0)


@pytest.fixture(autouse=True)
def _whole_float32() -> None:
    """In the products of both; the folder's conftest sets it back."""
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_a_layer_has_torchs_numbers_and_its_dropout_one_mask(size: str, precision: str, activation: str) -> None:
    model = replace(SIZES[size], hidden_act=activation)
    shapes = LayerShapes(model, tokens=1, dtype=DTYPES[precision])
    assert disagreement(GPU, shapes) is None
    assert mask_problem(GPU, shapes) is None


@pytest.mark.parametrize("precision", DTYPES)
def test_the_kernels_lose_no_more_than_the_rounding_of_their_numbers(precision: str) -> None:
    """A kernel at a time, against float64."""
    dtype, rows, size = DTYPES[precision], 1003, 1024
    generator = torch.Generator(GPU).manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=GPU)

    vectors, residual, gradient = (random(rows, size).to(dtype) for _ in range(3))
    weight, bias = 1 + 0.3 * random(size), random(size)
    inputs = [tensor.double().requires_grad_() for tensor in (vectors, residual, weight, bias)]
    expected = torch.nn.functional.layer_norm(inputs[0] + inputs[1], (size,), inputs[2], inputs[3], 1e-12)
    of_inputs = torch.autograd.grad(expected, inputs, gradient.double())
    output, normalised, scales = add_norm(vectors, residual, weight, bias, 1e-12, 0.0, SEED, 0)
    _, of_residual, sums = add_norm_backward(gradient, normalised, scales, weight, 0.0, SEED, 0)
    wide = (2 * random(rows, size)).to(dtype)
    exact = wide.double().requires_grad_()
    (of_wide,) = torch.autograd.grad(torch.nn.functional.gelu(exact), exact, gradient.double())
    result, wide_sums = gelu_backward(gradient, wide, "none")
    joined, joined_sums = join_gradients([gradient, vectors, residual])
    assert torch.equal(joined, torch.cat([gradient, vectors, residual], 1))
    tolerance = max(2e-6, torch.finfo(dtype).eps)
    for actual, right in (
        (output, expected),
        (of_residual, of_inputs[1]),
        *zip(sums, (*of_inputs[2:], of_inputs[0].sum(0)), strict=True),
        (result, of_wide),
        (wide_sums, of_wide.sum(0)),
        (joined_sums, joined.double().sum(0)),
    ):
        # Sums over all rows nearly cancel; rounding is that of their parts.
        scale = right.norm() + (gradient.double().norm() if right.dim() == 1 else 0)
        assert (actual.double() - right).norm() <= tolerance * scale


def results(sample: _Sample, parts: TokenWise, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return sample.run(parts)


def test_the_seed_fixes_every_bit() -> None:
    """Many times, as threads that do not wait for each other would not go wrong each time."""
    sample = _Sample(GPU, LayerShapes(SIZES["base"], 5003, torch.bfloat16))
    first, other = results(sample, _triton(), 5), results(sample, _triton(), 6)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, results(sample, _triton(), 5), strict=True))
    assert not torch.equal(first[0], other[0])


def test_nothing_waits_for_the_gpu() -> None:
    sample = _Sample(GPU, LayerShapes(SIZES["base"], 600, torch.bfloat16))
    sample.run(_triton())
    with no_waiting():
        sample.run(_triton())


def test_less_memory_than_torchs_parts() -> None:
    sample = _Sample(GPU, LayerShapes(SIZES["large"], 16384, torch.bfloat16))

    def most(parts: TokenWise) -> int:
        sample.run(parts)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        sample.run(parts)
        return torch.cuda.max_memory_allocated() - before

    assert most(_triton()) < most(EAGER)


def test_a_choice_is_measured_and_made(capsys: pytest.CaptureFixture[str]) -> None:
    """At the size of a recipe's pack, and of its choice the parts compute the same."""
    shapes = LayerShapes(SIZES["large"], 32768, torch.bfloat16)
    seconds = measured(GPU, shapes)
    choice = choose_layers("auto", GPU, shapes, compiles=True, deterministic=False)
    with capsys.disabled():
        print(f"\n{choice.describe()}")
    assert 1e-3 < min(seconds.values()) < max(seconds.values()) < 1
    assert choice.why.startswith("ms per layer")
    sample = _Sample(GPU, replace(shapes, tokens=700))
    sample.layer.eval()
    expected, actual = sample.run(EAGER), sample.run(choose_parts(GPU, choice.name))
    for one, other in zip(actual, expected, strict=True):
        assert (one.float() - other.float()).norm() <= 3e-2 * other.float().norm()
