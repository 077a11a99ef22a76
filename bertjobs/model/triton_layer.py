"""What lies between a layer's matrix products, in Triton: few passes over memory, of 16-bit numbers under autocast.

- `add_norm`: dropout, residual sum and LayerNorm in one kernel. Its backward kernel draws the dropout mask again and
  sums the gradients of LayerNorm's weight and bias, and that of the bias of the projection before, on the way.
- GELU's backward pass sums the gradient of the bias before it.
- The gradients of query, key and value are read where attention left them if they lie in one matrix; else one kernel
  copies them into one and sums them.
- A gradient that comes by two ways is added up by the product that computes the second.

`project` and `finish` compute what `bertjobs.model.packed` computes by the same names. The products are torch's.
Dropout draws a seed from torch's generator and decides each element by 16 bits, as in `triton_attention`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.model.packed import Affine, Normalised, side_by_side
from bertjobs.model.triton_attention import Levels

LARGEST = 4096
"""Hidden sizes above are not supported: two rows would not fit the registers."""

ROW_WARPS, BLOCK_PROGRAMS = 16, 6
"""Per multiprocessor, of the kernels that sum over rows: warps of the tiles of whole rows, at up to 128 registers a
thread, and programs of the others, of 4 warps at up to 80. All of them run at once, so that none is left for later."""


def _columns(size: int) -> int:
    """The power of two that is at least ``size``, and 16."""
    return max(16, 1 << (size - 1).bit_length())


def _row_settings(size: int) -> dict[str, int]:
    """Tiles of two whole rows, 8 neighbours of each in a thread: what is summed over both does not leave it."""
    columns = _columns(size)
    return {"SIZE": size, "COLUMNS": columns, "ROWS": 2, "num_warps": max(1, columns // 256)}


def _block_settings(size: int) -> dict[str, int]:
    """Tiles of at most 512 columns, 16 elements in a thread."""
    columns = min(512, _columns(size))
    return {"SIZE": size, "COLUMNS": columns, "ROWS": 2048 // columns, "num_warps": 4}


@functools.cache
def _processors(device: torch.device) -> int:
    """Sums over rows depend on it: they are the same on equal devices."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _row_programs(device: torch.device, settings: dict[str, int]) -> int:
    return _processors(device) * max(1, ROW_WARPS // settings["num_warps"])


def _block_programs(device: torch.device, blocks: int) -> int:
    """For each block of columns."""
    return max(1, _processors(device) * BLOCK_PROGRAMS // blocks)


@torch.library.custom_op("bertjobs::add_norm", mutates_args=())
def add_norm(
    vectors: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dropout_p: float, seed: Tensor,
    place: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """LayerNorm(dropout(vectors) + residual), it without weight and bias, and 1 / standard deviation, float32 [N].

    Args:
        vectors, residual: [N, H] of one type, contiguous.
        weight, bias: [H], LayerNorm's.
        dropout_p: at least 0 and under 1; rounded to 16 bits.
        seed: int64 [1].
        place: masks of two places with one seed have nothing in common.
    """
    from bertjobs.model import triton_layer_kernels as kernels

    rows, size = residual.shape
    outputs = _normalised(vectors, residual)
    levels, settings = Levels.of(dropout_p), _row_settings(size)
    if rows:
        with torch.cuda.device_of(residual):
            kernels.add_norm[(-(-rows // settings["ROWS"]),)](
                *(vectors, residual, weight, bias, *outputs, seed, rows, epsilon),
                *(levels.dropped, levels.kept_scale, place),
                DROPOUT=levels.dropped > 0,
                **settings,
            )
    return outputs


@add_norm.register_fake
def _normalised(_vectors: Tensor, residual: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    scales = residual.new_empty(len(residual), dtype=torch.float32)
    return residual.new_empty(residual.shape), residual.new_empty(residual.shape), scales


@torch.library.custom_op("bertjobs::add_norm_backward", mutates_args=())
def add_norm_backward(
    gradient: Tensor, normalised: Tensor, scales: Tensor, weight: Tensor, dropout_p: float, seed: Tensor, place: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of vectors [N, H] (without dropout empty: those of the residual) and residual [N, H]; and float32
    [3, H]: of weight and bias, and the sum of the vectors' over the rows."""
    from bertjobs.model import triton_layer_kernels as kernels

    rows, size = gradient.shape
    levels, settings = Levels.of(dropout_p), _row_settings(size)
    of_vectors, of_residual, _ = _norm_gradients(gradient, normalised, scales, weight, dropout_p)
    programs = _row_programs(gradient.device, settings)
    sums = scales.new_empty((programs, 3, size))
    with torch.cuda.device_of(gradient):
        kernels.add_norm_backward[(programs,)](
            *(gradient.contiguous(), normalised, scales, weight, of_vectors, of_residual, sums, seed, rows),
            *(levels.dropped, levels.kept_scale, place),
            DROPOUT=levels.dropped > 0,
            **settings,
        )
    return of_vectors, of_residual, sums.sum(0)


@add_norm_backward.register_fake
def _norm_gradients(
    gradient: Tensor, _normalised: Tensor, scales: Tensor, _weight: Tensor, dropout_p: float, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    vectors = gradient.new_empty(gradient.shape if Levels.of(dropout_p).dropped else (0, gradient.shape[1]))
    return vectors, gradient.new_empty(gradient.shape), scales.new_empty((3, gradient.shape[1]))


@torch.library.custom_op("bertjobs::gelu_backward", mutates_args=())
def gelu_backward(gradient: Tensor, inputs: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """GELU's gradient [N, W] at ``inputs`` [N, W], and its float32 sum [W] over the rows."""
    from bertjobs.model import triton_layer_kernels as kernels

    rows, size = inputs.shape
    settings = _block_settings(size)
    blocks = -(-size // settings["COLUMNS"])
    result, _ = _gelu_gradients(gradient, inputs)
    sums = inputs.new_empty((_block_programs(inputs.device, blocks), size), dtype=torch.float32)
    with torch.cuda.device_of(inputs):
        kernels.gelu_backward[(blocks, len(sums))](
            *(gradient.contiguous(), inputs, result, sums, rows), TANH=approximate == "tanh", **settings
        )
    return result, sums.sum(0)


@gelu_backward.register_fake
def _gelu_gradients(_gradient: Tensor, inputs: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return inputs.new_empty(inputs.shape), inputs.new_empty(inputs.shape[1], dtype=torch.float32)


@torch.library.custom_op("bertjobs::join_gradients", mutates_args=())
def join_gradients(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Two or three matrices [N, H], contiguous rows at any stride, side by side: [N, parts * H]; and its float32 sum
    over the rows."""
    from bertjobs.model import triton_layer_kernels as kernels

    parts = [part if part.stride(1) == 1 else part.contiguous() for part in parts]
    rows, size = parts[0].shape
    settings = _block_settings(size)
    blocks = len(parts) * -(-size // settings["COLUMNS"])
    result, _ = _joined(parts)
    sums = result.new_empty((_block_programs(result.device, blocks), result.shape[1]), dtype=torch.float32)
    sources = [*parts, parts[-1]][:3]
    with torch.cuda.device_of(result):
        kernels.join[(blocks, len(sums))](
            *(*sources, result, sums, *(each.stride(0) for each in sources), rows), PARTS=len(parts), **settings
        )
    return result, sums.sum(0)


@join_gradients.register_fake
def _joined(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    width = sum(part.shape[1] for part in parts)
    return parts[0].new_empty((len(parts[0]), width)), parts[0].new_empty(width, dtype=torch.float32)


class _Project(torch.autograd.Function):
    """Several projections as one product, by head; and what they project, to be used further.

    The gradient of that further use ends here, so that this function's product adds to it in place.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, heads: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        weights, biases = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.save_for_backward(hidden, *weights)
        joint = F.linear(hidden, _joint(weights, hidden.dtype), _joint(biases, hidden.dtype))
        return (*joint.unflatten(1, (len(weights), heads, -1)).unbind(1), hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *parts, further = gradients
        hidden, *weights = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            if (joint := side_by_side(parts)) is not None:
                joint = joint.flatten(1)
                sums = joint.sum(0, dtype=torch.float32)
            else:
                joint, sums = join_gradients([part.flatten(1) for part in parts])
            of_weights = (joint.t() @ hidden).to(weights[0].dtype)
            add = further.addmm_ if further.is_contiguous() else further.addmm
            of_hidden = add(joint, _joint(weights, hidden.dtype))
        count = len(weights)
        return of_hidden, None, *of_weights.chunk(count), *sums.to(weights[0].dtype).chunk(count)


def _joint(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([tensor.to(dtype) for tensor in tensors])


def project(hidden: Tensor, parts: tuple[Affine, ...], heads: int) -> tuple[Tensor, ...]:
    """As `bertjobs.model.packed.by_head` makes it."""
    return _Project.apply(hidden, heads, *(part.weight for part in parts), *(part.bias for part in parts))


@dataclass(frozen=True)
class _Numbers:
    """What `finish` takes besides tensors."""

    epsilons: tuple[float, float]
    dropout_p: float
    approximate: str


class _Finish(torch.autograd.Function):
    """A layer after attention."""

    @staticmethod
    def forward(
        ctx: Any, numbers: _Numbers, seed: Tensor, attended: Tensor, residual: Tensor, *parameters: Tensor
    ) -> Tensor:
        output, output_bias, weight, bias, widen, widen_bias, narrow, narrow_bias, last_weight, last_bias = parameters
        ctx.numbers, dtype = numbers, residual.dtype
        with torch.autocast(residual.device.type, enabled=False):
            vectors = F.linear(attended, output.to(dtype), output_bias.to(dtype))
            dropped = (numbers.dropout_p, seed)
            middle, *first = add_norm(vectors, residual, weight, bias, numbers.epsilons[0], *dropped, 0)
            inner = F.linear(middle, widen.to(dtype), widen_bias.to(dtype))
            wide = F.gelu(inner, approximate=numbers.approximate)
            vectors = F.linear(wide, narrow.to(dtype), narrow_bias.to(dtype))
            hidden, *second = add_norm(vectors, middle, last_weight, last_bias, numbers.epsilons[1], *dropped, 1)
        norms = (weight, last_weight)
        ctx.save_for_backward(seed, attended, middle, inner, wide, *first, *second, output, widen, narrow, *norms)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        numbers = ctx.numbers
        seed, attended, middle, inner, wide, *rest = ctx.saved_tensors
        first, second, (output, widen, narrow, weight, last_weight) = rest[:2], rest[2:4], rest[4:]
        dtype, kept = gradient.dtype, output.dtype
        with torch.autocast(gradient.device.type, enabled=False):
            dropped = (numbers.dropout_p, seed)
            vectors, to_middle, last_sums = add_norm_backward(gradient, *second, last_weight, *dropped, 1)
            vectors = vectors if len(vectors) else to_middle
            of_narrow = (vectors.t() @ wide).to(kept)
            to_inner, inner_sums = gelu_backward(vectors @ narrow.to(dtype), inner, numbers.approximate)
            of_widen = (to_inner.t() @ middle).to(kept)
            to_middle.addmm_(to_inner, widen.to(dtype))
            del to_inner
            vectors, to_residual, sums = add_norm_backward(to_middle, *first, weight, *dropped, 0)
            vectors = vectors if len(vectors) else to_residual
            of_output = (vectors.t() @ attended).to(kept)
            to_attended = vectors @ output.to(dtype)
        of_weight, of_bias, of_output_bias = sums.to(kept)
        of_last_weight, of_last_bias, of_narrow_bias = last_sums.to(kept)
        return (
            *(None, None, to_attended, to_residual, of_output, of_output_bias, of_weight, of_bias),
            *(of_widen, inner_sums.to(kept), of_narrow, of_narrow_bias, of_last_weight, of_last_bias),
        )


def finish(
    attended: Tensor, residual: Tensor, output: Affine, output_norm: Normalised, widen: Affine, narrow: Affine,
    norm: Normalised, probability: float, approximate: str,
) -> Tensor:  # fmt: skip
    """As `bertjobs.model.packed.finish`."""
    # Drawn and kept on the device: nothing waits for it.
    seed = torch.zeros(1, dtype=torch.int64, device=residual.device)
    if probability:
        seed.random_(0, 1 << 62)
    numbers = _Numbers((output_norm.epsilon, norm.epsilon), probability, approximate)
    parameters = (*output, *output_norm[:2], *widen, *narrow, *norm[:2])
    return _Finish.apply(numbers, seed, attended.to(residual.dtype), residual.contiguous(), *parameters)
