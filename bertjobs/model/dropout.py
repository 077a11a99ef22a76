"""Dropout on a CPU at a seventh of torch's cost.

torch draws one 32-bit number of its Mersenne twister for each element, in one thread. Here one 64-bit number decides
for four elements, 16 bits each: the keep rate is a multiple of 2^-16, and outputs are scaled by that rate, so their
mean is exact. Drawn from torch's generator, so `torch.manual_seed` fixes the mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LANES = 1 << 16


def rounded_rate(probability: float) -> float:
    """The nearest multiple of 2^-16: what these masks drop."""
    return round(probability * _LANES) / _LANES


def drop_draws(shape: tuple[int, ...] | torch.Size, probability: float) -> Tensor:
    """Whole float32 numbers, on the CPU: negative, at the rounded rate, where an element is to be dropped."""
    count = torch.Size(shape).numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    lanes = words.view(torch.int16)[:count].view(shape)  # uniform in [-2^15, 2^15)
    return lanes.float().sub_(round(probability * _LANES) - _LANES // 2)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, residual: Tensor | None, probability: float) -> Tensor:
        ctx.scale, ctx.sums = 1 / (1 - rounded_rate(probability)), residual is not None
        keep = drop_draws(vectors.shape, probability).add_(1).clamp_(0, 1)  # 0 or 1
        ctx.save_for_backward(keep)
        if residual is None:
            return (vectors * keep).mul_(ctx.scale)
        return torch.addcmul(residual, vectors, keep, value=ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return (keep * grad).mul_(ctx.scale), grad if ctx.sums else None, None


def dropout(vectors: Tensor, probability: float) -> Tensor:
    """torch's dropout of float32 numbers, by these masks on a CPU."""
    if not _by_lanes(vectors, probability):
        return F.dropout(vectors, probability)
    return _Dropout.apply(vectors, None, probability)


def dropout_add(vectors: Tensor, residual: Tensor, probability: float) -> Tensor:
    """``dropout(vectors) + residual``, both float32 and of one shape."""
    if not _by_lanes(vectors, probability):
        return F.dropout(vectors, probability) + residual
    return _Dropout.apply(vectors, residual, probability)


def _by_lanes(vectors: Tensor, probability: float) -> bool:
    """Whether to use these masks; compiled code draws its own as it goes."""
    return probability > 0 and vectors.device.type == "cpu" and not torch.compiler.is_compiling()
