"""The Triton parts of a layer against those of torch.

Where there is a GPU, tests/gpu runs the kernels; here Triton's interpreter computes the same in numpy. They are
compiled for other GPUs either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.model import packed, triton_layer
from bertjobs.model.packed import EAGER, Affine, Normalised, by_head, side_by_side
from bertjobs.model.triton_layer import add_norm, add_norm_backward, gelu_backward, join_gradients
from tests.model.interpreter import interpreted
from tests.triton_compiler import compiles, for_each_gpu

SEED = torch.tensor([(1 << 40) + 3])
DROPOUT = 0.3
SHARE = round(DROPOUT * 65536) / 65536
EPSILON = 1e-12

# In numpy, what overflows on the way to 0 warns.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator).to(dtype)


def norm_of(size: int, seed: int = 0) -> Normalised:
    return Normalised(1 + 0.3 * random(size, seed=seed), random(size, seed=seed + 1), EPSILON)


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """To the tolerance of the largest number of each."""
    for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert one.shape == other.shape, number
        assert one.isfinite().all(), number
        assert (one.float() - other.float()).abs().max() <= tolerance * other.float().abs().max(), number


def kept_by_forward(rows: int, size: int, seed: Tensor = SEED, place: int = 0, dropout: float = DROPOUT) -> Tensor:
    """Ones and zeros, normalised: those are above the mean that were ones."""
    ones, zeros = torch.ones(rows, size), torch.zeros(rows, size)
    return add_norm(ones, zeros, torch.ones(size), torch.zeros(size), EPSILON, dropout, seed, place)[1] > 0


SHAPES = [(5, 128), (3, 768), (4, 1024), (7, 24), (2, 1536), (1, 4096)]


@interpreted
@pytest.mark.parametrize("dropout", [0.0, DROPOUT])
@pytest.mark.parametrize(("rows", "size"), SHAPES)
def test_dropout_sum_and_layer_norm_are_torchs_with_the_kernels_own_mask(rows: int, size: int, dropout: float) -> None:
    vectors, residual, gradient = (random(rows, size, seed=number) for number in range(3))
    norm = norm_of(size)
    factors = kept_by_forward(rows, size) / (1 - SHARE) if dropout else torch.ones(rows, size)
    inputs = [tensor.clone().requires_grad_() for tensor in (vectors, residual, norm.weight, norm.bias)]
    dropped = inputs[0] * factors
    expected = F.layer_norm(dropped + inputs[1], (size,), inputs[2], inputs[3], EPSILON)
    of_vectors, of_residual, of_weight, of_bias = torch.autograd.grad(expected, inputs, gradient)

    output, normalised, scales = add_norm(vectors, residual, *norm, dropout, SEED, 0)
    actual = add_norm_backward(gradient, normalised, scales, norm.weight, dropout, SEED, 0)
    assert_close([output, normalised], [expected, F.layer_norm(dropped + residual, (size,), eps=EPSILON)])
    assert_close(actual[1:2], [of_residual])
    assert_close(actual[2], [of_weight, of_bias, of_vectors.sum(0)])
    if dropout:
        assert_close(actual[:1], [of_vectors])
        assert torch.equal(actual[0] != 0, factors != 0)
    else:
        assert actual[0].numel() == 0


@interpreted
@pytest.mark.usefixtures("tall_tiles")
def test_the_mask_has_its_rate_in_each_row_column_and_place_of_a_draw_and_no_two_are_alike() -> None:
    """Five standard deviations."""
    rows, size = 600, 256
    masks = torch.stack([kept_by_forward(rows, size, place=place) for place in (0, 1)]).double()
    deviation = math.sqrt(SHARE * (1 - SHARE))
    for sums in (masks.mean(), masks.mean((0, 1)), masks.mean((0, 2)), masks.view(-1, 8).mean(0)):
        bound = 5 * deviation / math.sqrt(masks.numel() / sums.numel())
        assert (sums - (1 - SHARE)).abs().max() < bound
    one, other = (masks - (1 - SHARE)) / deviation
    pairs = [one * other, one[1:] * one[:-1], *(one[:, lag:] * one[:, :-lag] for lag in (1, 2, 4, 7, 8, 128))]
    for products in (*pairs, one[:-2] * other[2:]):
        assert products.mean().abs() < 5 / math.sqrt(products.numel())


@interpreted
def test_the_rate_is_exact_to_16_bits() -> None:
    """Not a mask is drawn where it rounds to 0, and none is all zeros."""
    assert kept_by_forward(8, 64, dropout=0.4 / 65536).all() == kept_by_forward(8, 64, dropout=0.0).all()
    assert kept_by_forward(64, 512, dropout=0.999999).any(1).float().mean() < 0.1
    output, *_ = add_norm(torch.ones(64, 512), torch.zeros(64, 512), *norm_of(512), 1 - 2**-16, SEED, 0)
    assert output.isfinite().all()


@interpreted
def test_the_seed_and_the_place_fix_the_mask() -> None:
    first = kept_by_forward(9, 64)
    assert torch.equal(kept_by_forward(9, 64, SEED.clone()), first)
    assert torch.equal(kept_by_forward(30, 64)[:9], first)  # whatever the number of rows
    for seed, place in ((SEED + (1 << 40), 0), (SEED + 1, 0), (SEED, 1)):
        other = kept_by_forward(9, 64, seed, place)
        assert 0.3 < (other != first).float().mean() < 0.55


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_numbers_lose_what_their_own_rounding_loses(dtype: torch.dtype) -> None:
    vectors, residual, gradient = (random(6, 768, dtype=dtype, seed=number) for number in range(3))
    norm = norm_of(768)
    output, normalised, scales = add_norm(vectors, residual, *norm, DROPOUT, SEED, 0)
    exact = add_norm(vectors.float(), residual.float(), *norm, DROPOUT, SEED, 0)
    assert (output.dtype, normalised.dtype, scales.dtype) == (dtype, dtype, torch.float32)
    tolerance = torch.finfo(dtype).eps
    assert_close([output, normalised], exact[:2], tolerance)
    assert_close([scales], exact[2:])
    actual = add_norm_backward(gradient, normalised, scales, norm.weight, DROPOUT, SEED, 0)
    expected = add_norm_backward(gradient.float(), *exact[1:], norm.weight, DROPOUT, SEED, 0)
    assert (actual[0].dtype, actual[1].dtype, actual[2].dtype) == (dtype, dtype, torch.float32)
    assert_close(actual, expected, 2 * tolerance)


@interpreted
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(("rows", "size"), [(11, 40), (9, 512), (2, 1100)])
def test_gelus_gradient_and_its_sum_are_torchs(rows: int, size: int, approximate: str) -> None:
    inputs, gradient = (3 * random(rows, size)).requires_grad_(), random(rows, size, seed=1)
    (expected,) = torch.autograd.grad(F.gelu(inputs, approximate=approximate), inputs, gradient)
    assert_close(gelu_backward(gradient, inputs.detach(), approximate), [expected, expected.sum(0)])


@interpreted
@pytest.mark.parametrize("size", [24, 768])
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_joined_and_summed(count: int, size: int) -> None:
    """Also where they come from matrices of other widths, or by columns."""
    parts = [random(13, size), random(13, 2 * size)[:, size:], random(size, 13).t()][-count:]
    result, sums = join_gradients(parts)
    assert torch.equal(result, torch.cat(parts, 1))
    assert_close([sums], [result.sum(0)])


Way = tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]
TORCHS: Way = EAGER.project, packed.finish
OURS: Way = triton_layer.project, triton_layer.finish


class LayerOf:
    """A layer of random weights, whose attention takes the values as they are."""

    def __init__(self, size: int, wide: int, rows: int, dtype: torch.dtype = torch.float32):
        self.heads, self.dtype = 4, dtype

        def affine(out: int, inside: int, seed: int) -> Affine:
            return Affine(random(out, inside, seed=seed) / math.sqrt(inside), random(out, seed=seed))

        self.linears = tuple(affine(size, size, seed) for seed in (1, 2, 3))
        widen, narrow = affine(wide, size, 5), affine(size, wide, 6)
        self.rest = (affine(size, size, 4), norm_of(size), widen, narrow, norm_of(size, 7))
        self.hidden, self.gradient = random(rows, size).to(dtype), random(rows, size, seed=8).to(dtype)
        parameters = [tensor for part in (*self.linears, *self.rest) for tensor in part]
        self.tensors = [self.hidden, *(tensor for tensor in parameters if isinstance(tensor, Tensor))]
        for tensor in self.tensors:
            tensor.requires_grad_()

    def run(self, way: Way, dropout: float = 0.0, approximate: str = "none") -> list[Tensor]:
        project, finish = way
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype != torch.float32):
            query, key, value, residual = project(self.hidden, self.linears, self.heads)
            attended = (query * key.sigmoid() + value).flatten(1)
            output, output_norm, widen, narrow, norm = self.rest
            result = finish(attended, residual, output, output_norm, widen, narrow, norm, dropout, approximate)
        return [result, *torch.autograd.grad(result, self.tensors, self.gradient)]


@interpreted
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize(("size", "wide", "rows"), [(128, 512, 37), (24, 40, 5), (768, 96, 3)])
def test_a_layer_has_torchs_output_and_gradients(size: int, wide: int, rows: int, approximate: str) -> None:
    layer = LayerOf(size, wide, rows)
    assert_close(layer.run(OURS, approximate=approximate), layer.run(TORCHS, approximate=approximate), 2e-5)


@interpreted
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_a_layer_under_autocast(dtype: torch.dtype, tolerance: float) -> None:
    layer = LayerOf(128, 512, 40, dtype)
    actual, expected = layer.run(OURS), layer.run(TORCHS)
    assert [tensor.dtype for tensor in actual] == [tensor.dtype for tensor in expected]
    assert_close(actual, expected, tolerance)


@interpreted
def test_a_layers_dropout_is_its_seeds_and_its_gradients_are_of_the_same_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's parts that drop by the masks of the kernel."""
    layer = LayerOf(128, 96, 21)
    torch.manual_seed(4)
    actual = layer.run(OURS, DROPOUT)
    torch.manual_seed(4)
    assert all(torch.equal(one, other) for one, other in zip(layer.run(OURS, DROPOUT), actual, strict=True))
    assert not torch.equal(layer.run(OURS, DROPOUT)[0], actual[0])
    torch.manual_seed(4)
    seed = torch.randint(1 << 62, (1,))
    masks = iter([kept_by_forward(21, 128, seed, place) / (1 - SHARE) for place in (0, 1)])
    monkeypatch.setattr(packed, "dropout_add", lambda vectors, residual, _rate: vectors * next(masks) + residual)
    assert_close(actual, layer.run(TORCHS, DROPOUT), 2e-5)


@interpreted
def test_gradients_that_lie_side_by_side_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same whether they do or not."""
    hidden, further = random(6, 24), random(6, 24, seed=1)
    weights = [(random(24, 24, seed=seed), random(24, seed=seed)) for seed in (2, 3, 4)]
    inputs = [tensor.requires_grad_() for tensor in (hidden, *(tensor for pair in weights for tensor in pair))]
    outputs = triton_layer.project(hidden, tuple(Affine(*pair) for pair in weights), 3)
    joint = random(6, 3, 3, 8)

    def gradients(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, inputs, (*parts, further.clone()), retain_graph=True)

    apart = gradients([part.clone() for part in joint.unbind(1)])
    monkeypatch.setattr(triton_layer, "join_gradients", None)
    assert_close(gradients(joint.unbind(1)), apart)
    with pytest.raises(TypeError):
        gradients([*joint.unbind(1)][::-1])


def test_what_lies_side_by_side() -> None:
    joint = torch.arange(5 * 3 * 2 * 4.0).view(5, 3, 2, 4)
    one, two, three = joint.unbind(1)
    found = side_by_side([one, two, three])
    assert found is not None
    assert torch.equal(found, joint)
    assert found.data_ptr() == joint.data_ptr()
    inner = side_by_side(joint[:, :2].contiguous().unbind(1))
    assert inner is not None
    for parts in ([one, three, two], [one, two], [two, three], [one, two, three.clone()], [one.clone(), two, three],
                  [one, one, one], [part[:, :, ::2] for part in (one, two, three)]):  # fmt: skip
        assert side_by_side(parts) is None


def test_torchs_projection_by_head_copies_only_what_lies_apart() -> None:
    hidden = random(6, 24).requires_grad_()
    seen: list[Tensor] = []

    def product(rows: Tensor, _parts: object) -> Tensor:
        whole = torch.cat([rows, 2 * rows, 3 * rows], 1)
        whole.register_hook(seen.append)
        return whole

    query, key, value, residual = by_head(product)(hidden, (0, 0, 0), 3)  # type: ignore[arg-type]
    assert residual is hidden
    assert torch.equal(value.flatten(1), 3 * hidden)
    joint = random(6, 3, 3, 8)
    torch.autograd.grad((query, key, value), hidden, joint.unbind(1), retain_graph=True)
    torch.autograd.grad((query, key, value), hidden, [part.clone() for part in joint.unbind(1)])
    assert [gradient.data_ptr() == joint.data_ptr() for gradient in seen] == [True, False]
    assert all(torch.equal(gradient, joint.flatten(1)) for gradient in seen)


@interpreted
def test_the_operations_are_registered_as_they_behave() -> None:
    """Shapes, types and strides without running; no output shares memory with an input."""
    rows, weight = random(5, 24), torch.ones(24)
    output, normalised, scales = add_norm(rows, rows, weight, weight, EPSILON, DROPOUT, SEED, 0)
    del output
    for dropout in (0.0, DROPOUT):
        torch.library.opcheck(add_norm, (rows, rows, weight, weight, EPSILON, dropout, SEED, 0))
        torch.library.opcheck(add_norm_backward, (rows, normalised, scales, weight, dropout, SEED, 1))
    torch.library.opcheck(gelu_backward, (rows, rows, "none"))
    torch.library.opcheck(join_gradients, ([rows, rows, rows],))


COMPILE = """
import re, subprocess, sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bertjobs.model import triton_layer_kernels as kernels
from bertjobs.model.triton_layer import _block_settings, _row_settings

TYPES = {"seed": "*i64", "rows": "i32", "dropped": "i32", "place": "i32", "epsilon": "fp32", "kept_scale": "fp32"}
TYPES |= dict.fromkeys(("scales", "sums", "weight", "bias"), "*fp32")
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def registers(compiled, folder):
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    done = subprocess.run([TOOL, "-res-usage", cubin], capture_output=True, text=True)
    return [int(re.search(name + r":(\\d+)", done.stdout)[1]) for name in ("REG", "STACK", "LOCAL")]


target = GPUTarget("cuda", int(sys.argv[1]), 32)
DROP = {"DROPOUT": True}
for kernel, settings, most in (
    (kernels.add_norm, {**DROP, **_row_settings(1024)}, 64),
    (kernels.add_norm, {**DROP, **_row_settings(768)}, 64),
    (kernels.add_norm_backward, {**DROP, **_row_settings(1024)}, 128),
    (kernels.add_norm_backward, {**DROP, **_row_settings(768)}, 128),
    (kernels.gelu_backward, {"TANH": False, **_block_settings(4096)}, 80),
    (kernels.gelu_backward, {"TANH": True, **_block_settings(3072)}, 80),
    (kernels.join, {"PARTS": 3, **_block_settings(1024)}, 64),
):
    num_warps = settings.pop("num_warps")
    for number in ("*bf16", "*fp32") if settings["SIZE"] in (1024, 4096) else ("*bf16",):
        names = kernel.arg_names
        types = [TYPES.get(name, "i32" if name.endswith("stride") else number) for name in names]
        signature = {n: "constexpr" if n in settings else kind for n, kind in zip(names, types, strict=True)}
        aligned = [n for n, name in enumerate(names) if signature[name][0] == "*" or name.endswith("stride")]
        source = ASTSource(kernel, signature, settings, {(n,): [["tt.divisibility", 16]] for n in aligned})
        compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
        used, stack, local = registers(compiled, Path(sys.argv[2]))
        what = f"{kernel.__name__} {settings.get('SIZE')} {number} sm_{target.arch}: {used} registers"
        print(what)
        assert stack == local == 0, (what, stack, local)
        assert number == "*fp32" or used <= most, what
        if number == "*bf16":
            moved = [line for line in compiled.asm["ttgir"].splitlines() if "convert_layout" in line]
            # Only the rows of sums and weights; what Philox draws is never moved between threads.
            assert not [line for line in moved if "xi" in line or re.search(r"<\\d+x\\d+x", line)], what
            assert re.search(r"ld\\.global[.\\w]*\\.v4", compiled.asm["ptx"]), what
print("compiled")
"""


@for_each_gpu
def test_the_kernels_compile_without_spills(capability: int, tmp_path: Path) -> None:
    compiles(COMPILE, capability, tmp_path)
