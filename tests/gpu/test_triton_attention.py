"""The Triton attention on a GPU, in 16 bits, against an explicit one in float32 on the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.gpu.conftest import GPU, no_waiting

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.model.triton_attention import HEAD_SIZES, varlen_attention

HEADS = 4
DROPOUT = 0.1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Of a tensor's length: two roundings of 2^-9 and 2^-12, and sums of such."""

PHASE1 = [int(8 + 120 * (n % 7) / 6) for n in range(40)]
PHASE2 = [512, 511, 300, 257, 256, 129, 128, 65, 64, 63, 1]
SHAPES = {
    "phase 1": (PHASE1, PHASE1),
    "phase 2": (PHASE2, PHASE2),
    "empty slots": ([0, 0, 7, 0, 130, 0], [0, 0, 7, 0, 130, 0]),
    "rows that heads read": ([17, 1, 0, 78, 40], [128, 17, 40, 512, 300]),
    "more queries than keys": ([200, 9], [33, 2]),
    "no keys": ([5, 0, 3], [0, 9, 4]),
}


class Sequences:
    """Random rows of sequences of the given lengths, of which query, key and value are parts of one tensor."""

    def __init__(
        self, queries: Sequence[int], keys: Sequence[int], dtype: torch.dtype = torch.bfloat16, size: int = 64
    ):
        generator = torch.Generator(GPU).manual_seed(sum(queries) + size)

        def rows(count: int, parts: int) -> Tensor:
            return torch.randn(count, parts, HEADS, size, generator=generator, device=GPU).to(dtype)

        of_queries, of_keys = rows(sum(queries), 3), rows(sum(keys), 3)
        self.inputs = [part.requires_grad_() for part in (of_queries[:, 0], of_keys[:, 1], of_keys[:, 2])]
        self.gradient = rows(sum(queries), 1)[:, 0]
        self.max_q = max(queries)
        self.starts = [torch.tensor([0, *lengths]).cumsum(0).int().to(GPU) for lengths in (queries, keys)]
        edges = [starts.tolist() for starts in self.starts]
        self.slices = [tuple(slice(*edge[i : i + 2]) for edge in edges) for i in range(len(queries))]

    def attend(self, dropout: float = 0.0, seed: int | Tensor = 0, value: Tensor | None = None) -> Tensor:
        query, key, own = self.inputs
        return varlen_attention(query, key, own if value is None else value, *self.starts, self.max_q, dropout, seed)

    def results(self, dropout: float = 0.0, seed: int | Tensor = 0) -> list[Tensor]:
        output = self.attend(dropout, seed)
        return [output.detach(), *torch.autograd.grad(output, self.inputs, self.gradient)]

    def expected(self, kept: list[Tensor] | None = None) -> list[Tensor]:
        """In float32: by torch's math, or, given factors [h, queries, keys] of the probabilities, by the definition."""
        query, key, value = inputs = [tensor.detach().float().requires_grad_() for tensor in self.inputs]
        outputs = []
        for number, (rows, places) in enumerate(self.slices):
            q, k, v = (each.transpose(0, 1) for each in (query[rows], key[places], value[places]))
            if kept is None:
                with sdpa_kernel(SDPBackend.MATH):
                    outputs.append(F.scaled_dot_product_attention(q[None], k[None], v[None])[0])
            else:
                outputs.append(((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) * kept[number]) @ v)
        output = torch.cat(outputs, 1).transpose(0, 1)
        return [output.detach(), *torch.autograd.grad(output, inputs, self.gradient.float())]

    def masks(self, dropout: float, seed: int) -> list[Tensor]:
        """What dropout keeps in the forward pass, [h, queries, keys] of each sequence: the values pick out keys."""
        value, parts = self.inputs[2], []
        size = value.shape[-1]
        for first in range(0, int(self.starts[1].diff().max()), size):
            picked = torch.zeros_like(value)
            for _rows, places in self.slices:
                here = range(places.start + first, min(places.stop, places.start + first + size))
                picked[here, :, torch.arange(len(here))] = 1.0
            parts.append(self.attend(dropout, seed, picked).detach())
        whole = torch.cat(parts, -1).transpose(0, 1)
        return [(whole[:, rows, : places.stop - places.start] > 0).float() for rows, places in self.slices]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for what, one, other in zip(("output", "query", "key", "value"), actual, expected, strict=True):
        assert one.isfinite().all(), what
        assert (one.float() - other).norm() <= tolerance * other.norm(), what


@pytest.fixture(autouse=True)
def _whole_float32() -> None:
    """In the reference's products; the folder's conftest resets it."""
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_torchs_math(shape: str, precision: str) -> None:
    dtype = DTYPES[precision]
    sequences = Sequences(*SHAPES[shape], dtype)
    assert_close(sequences.results(), sequences.expected(), TOLERANCE[dtype])


@pytest.mark.parametrize("size", HEAD_SIZES)
def test_each_head_size(size: int) -> None:
    sequences = Sequences([70, 4, 200], [70, 4, 200], size=size)
    assert_close(sequences.results(), sequences.expected(), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("shape", ["phase 1", "phase 2", "rows that heads read"])
def test_the_backward_pass_draws_the_mask_of_the_forward_pass(shape: str) -> None:
    sequences = Sequences(*SHAPES[shape])
    assert all(mask.all() for mask in sequences.masks(0.0, 0))
    masks = sequences.masks(DROPOUT, 7)
    share = round(DROPOUT * 65536) / 65536
    count = sum(mask.numel() for mask in masks)
    dropped = 1 - sum(float(mask.sum()) for mask in masks) / count
    assert abs(dropped - share) < 5 * math.sqrt(share * (1 - share) / count)
    expected = sequences.expected([mask / (1 - share) for mask in masks])
    assert_close(sequences.results(DROPOUT, 7), expected, TOLERANCE[torch.bfloat16])


def test_the_seed_fixes_every_bit() -> None:
    """Many times, because threads that do not wait for each other would not go wrong every time."""
    sequences = Sequences(PHASE2 * 8, PHASE2 * 8)
    first, other = sequences.results(DROPOUT, 5), sequences.results(DROPOUT, 6)
    for _ in range(20):
        again = sequences.results(DROPOUT, torch.tensor([5], device=GPU))
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_rows_after_the_last_sequence_are_zero() -> None:
    sequences = Sequences([70, 300], [70, 300])
    sequences.starts = [starts[:2] for starts in sequences.starts]
    sequences.max_q = 70
    for tensor in sequences.results(DROPOUT, 5):
        assert not tensor[70:].any()
        assert tensor[:70].any()


def test_nothing_waits_for_the_gpu() -> None:
    sequences = Sequences(PHASE1, PHASE1)
    sequences.results(DROPOUT, 1)
    with no_waiting():
        sequences.results(DROPOUT, 2)


def test_a_captured_call_rereads_the_seed() -> None:
    sequences = Sequences(PHASE1, PHASE1)
    seed = torch.tensor([1], device=GPU)
    sequences.results(DROPOUT, seed)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = sequences.results(DROPOUT, seed)
    for number in (3, 4):
        seed.fill_(number)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, sequences.results(DROPOUT, number), strict=True))
