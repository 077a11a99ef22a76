"""Attention with dropout on concatenated sequences, in Triton: one kernel forward, one backward.

Made for BERT: no mask between tokens of a sequence, sequences of up to some hundred tokens. The backward pass takes one
program per head and sequence, so that scores are computed once for all three gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HEAD_SIZES = (16, 32, 64)

LEVELS = 1 << 16
"""Dropout is decided by 16 bits: its probability is rounded to a multiple of 1 / LEVELS."""


@dataclass(frozen=True)
class Tiles:
    """How a kernel cuts its work.

    Attributes:
        queries, keys: of one tile of scores; a multiple of 64 each, which is what the tensor cores and dropout want.
        num_warps, num_stages: Triton's: warps of a program, and depth of the loads that run ahead.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# As large as registers allow on compute capability 9.0: nothing spills, and two forward programs fit a multiprocessor.
# Phase 1's sequences of up to 128 tokens are one tile of queries, so that nothing is summed in memory.
FORWARD = Tiles(queries=128, keys=64, num_warps=8, num_stages=2)
BACKWARD = Tiles(queries=128, keys=64, num_warps=8, num_stages=2)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cumulative_q: Tensor,
    cumulative_k: Tensor,
    max_q: int,
    dropout_p: float,
    seed: int | Tensor,
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V within each of S sequences, with dropout of the probabilities.

    Sums and softmax are float32. Each pass draws dropout's mask from (seed, sequence, head, query, key) with Philox, so
    none is stored, and the same arguments give the same bits, gradients included. Differentiable once, in query, key
    and value. Nothing waits for the device.

    Args:
        query: [N, h, d] of bfloat16 or float16 (in Triton's interpreter float32 too), d one of `HEAD_SIZES`; best
            with d contiguous, as in a slice of a joint projection.
        key, value: [T, h, d], as ``query``.
        cumulative_q: int32 [S + 1], ascending from 0, on the device: sequence s owns the queries from cumulative_q[s]
            to cumulative_q[s + 1], or none. Queries after the last sequence get zeros.
        cumulative_k: the same for keys and values. A query of a sequence without keys gets zeros.
        max_q: no sequence has more queries. At most BACKWARD.queries is fastest, and longest sequences first.
        dropout_p: probability to drop, at least 0 and under 1; rounded to 16 bits, and the scale of what is kept is the
            rounded one's, so that the mean is exact.
        seed: an integer, or an int64 tensor of one element on the device, which a compiled or captured call reads again
            each time.

    Returns:
        [N, h, d], contiguous.

    Raises:
        ValueError: tensors of shapes or types that the kernels would misread.
    """
    _check(query, key, value, cumulative_q, cumulative_k)
    if max_q < 1 or not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"max_q {max_q} must be at least 1, and dropout_p {dropout_p} in [0, 1)")
    if isinstance(seed, int):
        seed = torch.full((1,), seed, dtype=torch.int64, device=query.device)
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(f"the seed is {tuple(seed.shape)} {seed.dtype}; it must be one int64")
    return _forward(query, key, value, cumulative_q, cumulative_k, max_q, dropout_p, seed)[0]


def _check(query: Tensor, key: Tensor, value: Tensor, cumulative_q: Tensor, cumulative_k: Tensor) -> None:
    if query.dim() != 3 or key.shape != value.shape or key.shape[1:] != query.shape[1:]:
        raise ValueError(f"shapes {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)} do not fit")
    if query.shape[-1] not in HEAD_SIZES:
        raise ValueError(f"a head of size {query.shape[-1]}; the kernels take {HEAD_SIZES}")
    allowed = {torch.bfloat16, torch.float16} | ({torch.float32} if query.device.type == "cpu" else set())
    if query.dtype not in allowed or {key.dtype, value.dtype} != {query.dtype}:
        raise ValueError(f"types {query.dtype}, {key.dtype} and {value.dtype}; the kernels take one 16-bit type")
    if not cumulative_q.dtype == cumulative_k.dtype == torch.int32 or cumulative_q.shape != cumulative_k.shape:
        raise ValueError("cumulative_q and cumulative_k must be int32 and of one length")


@dataclass(frozen=True)
class Levels:
    """Dropout as the kernels take it: drops where 16 random bits are under ``dropped``."""

    dropped: int

    @classmethod
    def of(cls, probability: float) -> Levels:
        return cls(min(round(probability * LEVELS), LEVELS - 1))

    @property
    def kept_scale(self) -> float:
        return LEVELS / (LEVELS - self.dropped)


def _strides(*tensors: Tensor) -> list[int]:
    """From row to row, and from head to head."""
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _dense(tensor: Tensor) -> Tensor:
    """With the numbers of one head side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@torch.library.custom_op("bertjobs::varlen_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cumulative_q: Tensor,
    cumulative_k: Tensor,
    max_q: int,
    dropout_p: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp of the rows for the backward pass, [h, N] of float32, to the base 2."""
    from bertjobs.model import triton_attention_kernels as kernels

    query, key, value = _dense(query), _dense(key), _dense(value)
    rows, heads, size = query.shape
    output, log_sums = _outputs(query)
    tiles, dropout = FORWARD, Levels.of(dropout_p)
    with torch.cuda.device_of(query):
        kernels.forward[(math.ceil(max_q / tiles.queries), heads, len(cumulative_q))](
            *(query, key, value, output, log_sums, cumulative_q, cumulative_k, seed),
            *(*_strides(query, key, value), rows, math.log2(math.e) / math.sqrt(size)),
            *(dropout.dropped, dropout.kept_scale),
            **_settings(tiles, size, dropout),
        )
    return output, log_sums


@_forward.register_fake
def _outputs(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows, heads, _size = query.shape
    return query.new_empty(query.shape), query.new_empty((heads, rows), dtype=torch.float32)


@torch.library.custom_op("bertjobs::varlen_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sums: Tensor,
    cumulative_q: Tensor,
    cumulative_k: Tensor,
    max_q: int,
    dropout_p: float,
    seed: Tensor,
) -> Tensor:
    """The gradients of query, key and value, as `_parted` finds them in one tensor."""
    from bertjobs.model import triton_attention_kernels as kernels

    gradient, query, key, value = _dense(gradient), _dense(query), _dense(key), _dense(value)
    rows, heads, size = query.shape
    joint = _gradients(gradient, query, key, value)
    gradients = _parted(joint, query, key)
    tiles, dropout = BACKWARD, Levels.of(dropout_p)
    one_tile = max_q <= tiles.queries
    sums = key.new_empty((2, 0) if one_tile else (2, *key.shape), dtype=torch.float32)
    scale = 1 / math.sqrt(size)
    with torch.cuda.device_of(query):
        kernels.backward[(heads, len(cumulative_q))](
            *(query, key, value, output, log_sums, gradient, *gradients, sums[0], sums[1]),
            *(cumulative_q, cumulative_k, seed, *_strides(query, key, value, gradient)),
            *(each.stride(0) for each in gradients),
            *(rows, len(key), scale, scale * math.log2(math.e), dropout.dropped, dropout.kept_scale),
            ONE_TILE=one_tile,
            **_settings(tiles, size, dropout),
        )
    return joint


@_backward.register_fake
def _gradients(_gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.numel() + key.numel() + value.numel())


def _parted(joint: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients like query, key and key again: side by side in [T, 3, h, d], or, where the queries are not as many as
    the keys, [N, h, d] and then [T, 2, h, d]. So a joint projection finds them as one matrix."""
    if len(query) == len(key):
        return joint.view(len(key), 3, *key.shape[1:]).unbind(1)  # type: ignore[return-value]
    of_query, rest = joint.split((query.numel(), 2 * key.numel()))
    of_key, of_value = rest.view(len(key), 2, *key.shape[1:]).unbind(1)
    return of_query.view(query.shape), of_key, of_value


def _settings(tiles: Tiles, size: int, dropout: Levels) -> dict[str, Any]:
    return {
        "DROPOUT": dropout.dropped > 0,
        "SIZE": size,
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cumulative_q, cumulative_k, ctx.max_q, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(query, key, value, *output, cumulative_q, cumulative_k, seed)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradient: Tensor | None, _log_sums: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 8
    *tensors, seed = ctx.saved_tensors
    joint = _backward(gradient, *tensors, ctx.max_q, ctx.dropout_p, seed)
    return (*_parted(joint, *tensors[:2]), *(None,) * 5)


_forward.register_autograd(_differentiate, setup_context=_keep)
