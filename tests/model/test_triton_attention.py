"""The Triton attention against an explicit one.

Where there is a GPU, tests/gpu runs the kernels; here Triton's interpreter computes the same in numpy. They are
compiled for other GPUs either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.triton_compiler import compiles, for_each_gpu

GPU = torch.cuda.is_available()

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.model.packed import side_by_side  # noqa: E402
from bertjobs.model.triton_attention import FORWARD, HEAD_SIZES, varlen_attention  # noqa: E402

HEADS = 2
DROPOUT = 0.3


def _works() -> str | None:
    """Why the interpreter cannot be used."""
    if GPU:
        return "a GPU is here: tests/gpu tests the same on it"
    rows, starts = torch.ones(1, 1, 16), torch.tensor([0, 1], dtype=torch.int32)
    try:
        varlen_attention(rows, rows, rows, starts, starts, 1, 0.0, 0)
    except Exception as error:  # Triton 3.6's cannot loop under numpy 2.4
        return f"Triton's interpreter fails: {error}"
    return None


_PROBLEM = _works()
interpreted = pytest.mark.skipif(_PROBLEM is not None, reason=str(_PROBLEM))


class Sequences:
    """Random rows of sequences of the given lengths, with some rows after the last."""

    def __init__(self, queries: Sequence[int], keys: Sequence[int], size: int = 64, spare: int = 0):
        generator = torch.Generator().manual_seed(sum(queries) + size)
        rows = (sum(queries) + spare, sum(keys) + spare, sum(keys) + spare)
        q, k, v = (torch.randn(count, HEADS, size, generator=generator) for count in rows)
        self.inputs = [q.requires_grad_(), k.requires_grad_(), v.requires_grad_()]
        self.gradient = torch.randn(q.shape, generator=generator)
        self.max_q = max(queries)
        self.starts = [torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (queries, keys)]

    def attend(self, dropout: float = 0.0, seed: int | Tensor = 0, value: Tensor | None = None) -> Tensor:
        query, key, own = self.inputs
        return varlen_attention(query, key, own if value is None else value, *self.starts, self.max_q, dropout, seed)

    def gradients(self, output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, self.inputs, self.gradient)

    def probabilities(self, factors: list[Tensor] | None = None) -> list[Tensor]:
        """By the definition, [h, queries, keys] of each sequence, times its factors."""
        query, key, _value = self.inputs
        scores = [torch.einsum("qhd,khd->hqk", query[rows], key[places]) for rows, places in self.slices()]
        whole = [(each / math.sqrt(query.shape[-1])).softmax(-1) for each in scores]
        return whole if factors is None else [one * factor for one, factor in zip(whole, factors, strict=True)]

    def expected(self, factors: list[Tensor] | None = None) -> Tensor:
        query, _key, value = self.inputs
        output = torch.zeros_like(query)
        for (rows, places), p in zip(self.slices(), self.probabilities(factors), strict=True):
            output[rows] = torch.einsum("hqk,khd->qhd", p, value[places])
        return output

    def slices(self) -> list[tuple[slice, slice]]:
        q, k = (starts.tolist() for starts in self.starts)
        return [(slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1)]

    def dropped_probabilities(self, seed: int, dropout: float = DROPOUT) -> list[Tensor]:
        """What the forward pass multiplies values with, [h, queries, keys] of each sequence: values pick out keys."""
        value = self.inputs[2]
        size, parts = value.shape[-1], []
        for first in range(0, int(self.starts[1].diff().max()), size):
            picked = torch.zeros_like(value)
            for _rows, places in self.slices():
                here = range(places.start + first, min(places.stop, places.start + first + size))
                picked[here, :, torch.arange(len(here))] = 1.0
            parts.append(self.attend(dropout, seed, picked).detach())
        whole = torch.cat(parts, -1).transpose(0, 1)
        return [whole[:, rows, : places.stop - places.start] for rows, places in self.slices()]


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


TILE = FORWARD.queries
SHAPES = {
    "phase 1": ([97, 1, 64], [97, 1, 64]),
    "phase 2": ([300, 5], [300, 5]),
    "a tile and one": ([TILE + 1, FORWARD.keys + 1], [TILE + 1, FORWARD.keys + 1]),
    "empty slots": ([0, 0, 7, 0, 130, 0], [0, 0, 7, 0, 130, 0]),
    "rows that heads read": ([3, 1, 0, 20], [128, 17, 40, 70]),
    "more queries than keys": ([200, 9], [33, 2]),
    "no keys": ([5, 0, 3], [0, 9, 4]),
}


@interpreted
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_the_definition(shape: str) -> None:
    sequences = Sequences(*SHAPES[shape])
    actual, expected = sequences.attend(), sequences.expected()
    assert_close([actual], [expected])
    assert_close(sequences.gradients(actual), sequences.gradients(expected))


@interpreted
def test_the_longest_sequence() -> None:
    sequences = Sequences([512], [512])
    actual, expected = sequences.attend(), sequences.expected()
    assert_close([actual, *sequences.gradients(actual)], [expected, *sequences.gradients(expected)])


@interpreted
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_each_head_size(size: int) -> None:
    sequences = Sequences([70, 4], [70, 4], size)
    actual, expected = sequences.attend(), sequences.expected()
    assert_close([actual, *sequences.gradients(actual)], [expected, *sequences.gradients(expected)])


@interpreted
def test_rows_after_the_last_sequence_are_zero() -> None:
    """More rows than the longest sequence has."""
    sequences = Sequences([9, 4], [9, 4], spare=300)
    actual, expected = sequences.attend(DROPOUT), sequences.expected()
    gradients = sequences.gradients(actual)
    assert not expected[13:].any()
    for tensor in (actual, *gradients):
        assert torch.equal(tensor[13:], torch.zeros_like(tensor[13:]))
        assert tensor[:13].any()


@interpreted
def test_parts_of_a_joint_projection_are_read_in_place() -> None:
    """Even a gradient that comes expanded, with strides of zero."""
    plain = Sequences([40, 131], [40, 131])
    joint = torch.stack([tensor.detach() for tensor in plain.inputs], 1).requires_grad_()
    output = varlen_attention(*joint.unbind(1), *plain.starts, plain.max_q, 0.0, 0)
    assert_close([output], [plain.expected()])
    (actual,) = torch.autograd.grad(output.sum(), joint)
    expected = torch.autograd.grad(plain.expected().sum(), plain.inputs)
    assert_close([actual], [torch.stack(expected, 1)])


@interpreted
@pytest.mark.parametrize(("shape", "joint"), [("phase 1", 3), ("rows that heads read", 2)])
def test_the_gradients_lie_side_by_side(shape: str, joint: int) -> None:
    """For a joint projection: all three, or, where only some rows are queries, those of key and value."""
    sequences = Sequences(*SHAPES[shape], size=16)
    gradients = sequences.gradients(sequences.attend())[-joint:]
    whole = side_by_side(gradients)
    assert whole is not None
    assert whole.data_ptr() == gradients[0].data_ptr()
    assert torch.equal(whole, torch.stack(gradients, 1))


@interpreted
@pytest.mark.parametrize("shape", ["phase 1", "a tile and one", "rows that heads read"])
def test_the_backward_pass_draws_the_mask_of_the_forward_pass(shape: str) -> None:
    sequences = Sequences(*SHAPES[shape])
    dropped = sequences.dropped_probabilities(11)
    share = round(DROPOUT * 65536) / 65536
    factors = [(one > 0) / (1 - share) for one in dropped]
    assert_close(dropped, sequences.probabilities(factors))
    actual, expected = sequences.attend(DROPOUT, 11), sequences.expected(factors)
    assert_close([actual, *sequences.gradients(actual)], [expected, *sequences.gradients(expected)])


@interpreted
def test_masks_have_the_keep_rate_in_each_row_column_and_bit_and_no_two_are_alike() -> None:
    """Five standard deviations."""
    sequences = Sequences([160, 160], [160, 160])
    masks = torch.stack([one > 0 for one in sequences.dropped_probabilities(5)]).flatten(0, 1).double()
    count = masks.numel()
    deviation = math.sqrt(DROPOUT * (1 - DROPOUT))
    assert abs(masks.mean() - (1 - DROPOUT)) < 5 * deviation / math.sqrt(count)
    for sums in (masks.mean((0, 1)), masks.mean((0, 2)), masks.mean((1, 2))):
        bound = 5 * deviation / math.sqrt(count / len(sums))
        assert (sums - (1 - DROPOUT)).abs().max() < bound
    centred = (masks - masks.mean()) / deviation
    alike = torch.einsum("aqk,bqk->ab", centred, centred) / masks[0].numel()
    assert (alike - torch.eye(len(masks))).abs().max() < 5 / math.sqrt(masks[0].numel())
    for lag in (1, 2, 8, 16, 64):  # 8: neighbours in one draw of Philox
        for pairs in (centred[:, :, lag:] * centred[:, :, :-lag], centred[:, lag:] * centred[:, :-lag]):
            assert pairs.mean().abs() < 5 / math.sqrt(pairs.numel()), lag


@interpreted
def test_the_mean_over_seeds_is_the_output_without_dropout() -> None:
    sequences = Sequences([40], [40], size=16)
    plain, runs = sequences.attend().detach(), 60
    outputs = torch.stack([sequences.attend(DROPOUT, seed).detach() for seed in range(runs)])
    error = (outputs.mean(0) - plain) / (outputs.std(0) / math.sqrt(runs))
    assert error.abs().max() < 5
    assert error.std() < 1.2


@interpreted
def test_the_seed_fixes_every_bit() -> None:
    sequences = Sequences([129], [129])

    def run(seed: int | Tensor) -> tuple[Tensor, ...]:
        output = sequences.attend(DROPOUT, seed)
        return output, *sequences.gradients(output)

    large = (1 << 40) + 3
    first, again, other = run(large), run(torch.tensor([large])), run(3)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


@interpreted
def test_a_compiler_sees_one_operation() -> None:
    """With its shapes, strides and gradients; no graph break, and the seed is read again."""
    sequences = Sequences([40, 3], [40, 3], size=16)
    compiled = torch.compile(lambda seed: sequences.attend(DROPOUT, seed), backend="aot_eager", fullgraph=True)
    for seed in (torch.tensor([4]), torch.tensor([9])):
        actual, expected = compiled(seed), sequences.attend(DROPOUT, seed)
        for one, other in zip(sequences.gradients(actual), sequences.gradients(expected), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(actual, expected)
    arguments = (*sequences.inputs, *sequences.starts, 40, DROPOUT, torch.tensor([4]))
    torch.library.opcheck(torch.ops.bertjobs.varlen_attention.default, arguments)


def wrong(**changes: object) -> dict[str, object]:
    rows, starts = torch.zeros(4, 1, 16), torch.tensor([0, 4], dtype=torch.int32)
    return {"query": rows, "key": rows, "value": rows, "cumulative_q": starts, "cumulative_k": starts, "max_q": 4,
            "dropout_p": 0.1, "seed": 0, **changes}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(4, 16)}, "do not fit"),
        ({"value": torch.zeros(3, 1, 16)}, "do not fit"),
        ({"query": torch.zeros(4, 2, 16)}, "do not fit"),
        ({name: torch.zeros(4, 1, 24) for name in ("query", "key", "value")}, "size 24"),
        ({name: torch.zeros(4, 1, 16, dtype=torch.float64) for name in ("query", "key", "value")}, "float64"),
        ({"key": torch.zeros(4, 1, 16, dtype=torch.float16)}, "float16"),
        ({"cumulative_q": torch.tensor([0, 4])}, "int32"),
        ({"cumulative_k": torch.tensor([0, 2, 4], dtype=torch.int32)}, "one length"),
        ({"max_q": 0}, "at least 1"),
        ({"dropout_p": 1.0}, r"\[0, 1\)"),
        ({"dropout_p": math.nan}, r"\[0, 1\)"),
        ({"seed": torch.zeros(2, dtype=torch.int64)}, "one int64"),
        ({"seed": torch.zeros(1)}, "one int64"),
    ],
)
def test_it_refuses_what_the_kernels_would_misread(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        varlen_attention(**wrong(**changes))  # type: ignore[arg-type]


COMPILE = """
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bertjobs.model import triton_attention_kernels as kernels
from bertjobs.model.triton_attention import BACKWARD, FORWARD

TYPES = {"query_starts": "*i32", "key_starts": "*i32", "seed": "*i64"}
TYPES |= dict.fromkeys(("log_sums", "key_sums", "value_sums"), "*fp32")
TYPES |= dict.fromkeys(("scale", "score_scale", "kept_scale"), "fp32")
TYPES |= dict.fromkeys(("rows", "query_rows", "key_rows", "dropped"), "i32")
CAPABILITY = int(sys.argv[1])
SHARED = {80: 163 * 1024, 90: 227 * 1024}


def type_of(name, constants):
    if name in constants:
        return "constexpr"
    return TYPES.get(name, "i32" if name.endswith("stride") else "*bf16")


for kernel, tiles, one_tile in ((kernels.forward, FORWARD, {}), (kernels.backward, BACKWARD, {"ONE_TILE": True}),
                                (kernels.backward, BACKWARD, {"ONE_TILE": False})):
    constants = {"DROPOUT": True, "SIZE": 64, "QUERIES": tiles.queries, "KEYS": tiles.keys, **one_tile}
    signature = {name: type_of(name, constants) for name in kernel.arg_names}
    aligned = [n for n, name in enumerate(kernel.arg_names) if signature[name][0] == "*" or name.endswith("stride")]
    source = ASTSource(kernel, signature, constants, {(n,): [["tt.divisibility", 16]] for n in aligned})
    target = GPUTarget("cuda", CAPABILITY, 32)
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    compiled = triton.compile(source, target=target, options=options)
    assert len(compiled.asm["cubin"]) > 1000
    assert compiled.metadata.shared <= SHARED[CAPABILITY], compiled.metadata.shared
    masks = [line for line in compiled.asm["ttgir"].splitlines() if "convert_layout" in line and "xi" in line]
    assert not masks, masks  # what Philox draws is never moved between threads
print("compiled")
"""


@for_each_gpu
def test_the_kernels_compile(capability: int, tmp_path: Path) -> None:
    compiles(COMPILE, capability, tmp_path)
