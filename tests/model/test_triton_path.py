"""The whole unpadded path with the Triton parts: its numbers in the interpreter, its shapes and traffic at full size.

Traffic is counted on fake tensors, which have shapes and types but no contents: in 16-bit numbers per token and hidden
unit of BERT-large. What views and products move is not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton is not installed")

from bertjobs.model.attention import ATTENTIONS, SequenceLayout
from bertjobs.model.bert import BertForPreTraining, Layer, PretrainingSums
from bertjobs.model.compiled import choose_parts
from bertjobs.model.packed import packed_sums, run_layer, score_aligned
from bertjobs.recipe.spec import ModelSpec
from tests.model.interpreter import interpreted
from tests.model.packs import make_pack
from tests.model.test_packed import assert_same, losses_and_gradients, model_of, pack_of

CPU = torch.device("cpu")
PARTS = replace(choose_parts(CPU, "triton"), score=score_aligned, fixed_shapes=True)
ATTEND = ATTENTIONS["per_sequence"]
LARGE = ModelSpec("large", 1024, 2, 16, 4096, vocab_size=30522)
TOKENS = 65536


@interpreted
@pytest.mark.usefixtures("tall_tiles")
@pytest.mark.parametrize("lengths", [[24, 9, 3, 3, 17], []])
def test_losses_and_gradients_are_those_of_torchs_parts(lengths: list[int]) -> None:
    """Also of a pack without sequences, in which all parameters take part."""
    model, pack = model_of(), pack_of(lengths)
    expected = losses_and_gradients(model, lambda: packed_sums(model, pack, ATTEND))
    assert_same(expected, losses_and_gradients(model, lambda: packed_sums(model, pack, ATTEND, PARTS)))


@interpreted
@pytest.mark.usefixtures("tall_tiles")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_recomputed_activations_have_the_same_bits(dtype: torch.dtype | None) -> None:
    """Gradients are added in place where they come by two ways: into none that is needed again."""
    pack = pack_of([24, 3, 17], tokens=48)

    def sums(model: BertForPreTraining) -> PretrainingSums:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            return packed_sums(model, pack, ATTEND, PARTS)

    plain, saving = model_of(0.1), model_of(0.1, activation_checkpointing=True)
    expected, actual = (
        losses_and_gradients(model, functools.partial(sums, model), seed=5) for model in (plain, saving)
    )
    torch.manual_seed(6)
    other = sums(plain)
    assert all(torch.equal(actual[1][name], gradient) for name, gradient in expected[1].items())
    assert actual[0].mlm_loss_sum.item() == expected[0].mlm_loss_sum.item() != other.mlm_loss_sum.item()


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@pytest.mark.parametrize("attention", ["triton", "flash"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("fake")
def test_shapes_and_types_of_a_large_packed_step(attention: str, dtype: torch.dtype) -> None:
    model = BertForPreTraining(LARGE)
    pack = make_pack([128], tokens=TOKENS, slots=800, predictions=10240, max_length=128, vocabulary=30522)
    products: list[tuple[int, ...]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
                products.append(tuple(result.shape))
            return result

    with Products():
        with torch.autocast("cpu", dtype=dtype):
            sums = packed_sums(model, pack, ATTENTIONS[attention], PARTS)
        assert sums.mlm_loss_sum.dtype == torch.float32
        gradients = torch.autograd.grad(sums.mlm_loss_sum + sums.nsp_loss_sum, [*model.parameters()])
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert (gradient.shape, gradient.dtype) == (parameter.shape, torch.float32), name
    assert (10240, 30528) in products  # the logits, 6 columns more
    assert (TOKENS, 3072) in products
    assert not [shape for shape in products if 30522 in shape]


MOVES_NOTHING = ("view", "as_strided", "transpose", "t.", "unbind", "detach", "alias", "expand", "empty", "unsqueeze",
                 "split", "select", "slice", "permute", "device", "new_empty", "sym_")  # fmt: skip
PRODUCTS = ("mm.", "addmm")


class Traffic(TorchDispatchMode):
    """Counts the bytes of what operations other than products read and write, of tensors with a row per token."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        name = func.__name__
        if not name.startswith((*MOVES_NOTHING, *PRODUCTS)):
            self.bytes += sum(map(_bytes, (*_tensors(args), *_tensors((result,)))))
        return result


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _bytes(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.dim() and len(tensor) == TOKENS else 0


class _Attention(torch.autograd.Function):
    """Copies the values; the gradients come in one matrix, or apart."""

    @staticmethod
    def forward(ctx: Any, _query: Tensor, _key: Tensor, value: Tensor, joint: bool) -> Tensor:
        ctx.joint = joint
        return value.new_empty(value.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.joint:
            return (*gradient.new_empty((TOKENS, 3, *gradient.shape[1:])).unbind(1), None)
        return (*(gradient.new_empty(gradient.shape) for _ in range(3)), None)


def layer_traffic(joint: bool) -> tuple[float, float, float]:
    """Of a layer without attention: moved forward, backward, and kept for the backward pass."""

    def attend(query: Tensor, key: Tensor, value: Tensor, _layout: SequenceLayout, _dropout: float) -> Tensor:
        return _Attention.apply(query, key, value, joint)

    layer, empty = Layer(LARGE), torch.zeros(1, dtype=torch.int32)
    hidden = torch.zeros(TOKENS, 1024, dtype=torch.bfloat16, requires_grad=True)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _bytes(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with autocast, saved_tensors_hooks(keep, lambda tensor: tensor), Traffic() as forward:
        output = run_layer(layer, hidden, SequenceLayout(empty, empty, 0, 0, 0), attend, PARTS)
    gradient = torch.zeros_like(output)
    with Traffic() as backward:
        torch.autograd.grad(output, [hidden, *layer.parameters()], gradient)
    unit = 2 * TOKENS * 1024
    return forward.bytes / unit, backward.bytes / unit, sum(kept.values()) / unit


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.usefixtures("fake")
def test_what_a_layer_moves_and_keeps(joint: bool) -> None:
    """Forward: 4 for each sum and LayerNorm, 8 for GELU. Backward: 4 for each (two read, two written), 12 for GELU, and
    3 to sum the gradients of the three projections, or 6 to join them as well. Kept besides what attention keeps: the
    layer's input, attended values, the sum in the middle, both normalised sums, GELU's input and output."""
    assert layer_traffic(joint) == pytest.approx((16, 23 if joint else 26, 13), abs=0.01)
