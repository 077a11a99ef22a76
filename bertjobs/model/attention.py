"""Self-attention within sequences that lie one after the other, without padding between them.

Scaled dot-product attention (Vaswani et al., arXiv 1706.03762) with dropout on the probabilities, in several ways that
compute the same; `choose_attention` takes one at run start. Shapes: N queries, T keys, h heads of d numbers each,
S slots. Dropout draws from torch's generators, so `torch.manual_seed` before a micro-batch fixes its masks.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.errors import InputError, nearest
from bertjobs.model.dropout import drop_draws, rounded_rate


@dataclass(frozen=True)
class SequenceLayout:
    """Which keys each query sees: those of its own sequence.

    Attributes:
        cumulative_queries, cumulative_keys: int32 ``[S + 1]``, on the device: slot i's queries are rows
            ``cumulative_queries[i]`` to ``cumulative_queries[i + 1]``, its keys likewise. Slots may be empty;
            the last entries are N and T.
        max_queries, max_keys: no slot has more.
        sequences: slots that hold real sequences; what comes after them need not be computed.
    """

    cumulative_queries: Tensor
    cumulative_keys: Tensor
    max_queries: int
    max_keys: int
    sequences: int


Attend = Callable[[Tensor, Tensor, Tensor, SequenceLayout, float], Tensor]
"""``(query [N, h, d], key [T, h, d], value [T, h, d], layout, dropout probability) -> [N, h, d]``"""


def _places(cumulative: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Slot and place in the slot of each row, both int64 ``[rows]``; without waiting for the device."""
    row = torch.arange(rows, device=cumulative.device, dtype=cumulative.dtype)
    slot = torch.searchsorted(cumulative[1:], row, right=True)
    return slot, row - cumulative[slot]


def padded(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
    """The reference: each slot padded to the longest, then torch's scaled_dot_product_attention with a mask."""
    slots = len(layout.cumulative_keys) - 1

    def pad(rows: Tensor, slot_and_place: tuple[Tensor, Tensor], length: int) -> Tensor:
        empty = rows.new_zeros(slots, length, *rows.shape[1:])
        return empty.index_put(slot_and_place, rows).transpose(1, 2)

    of_queries = _places(layout.cumulative_queries, len(query))
    of_keys = _places(layout.cumulative_keys, len(key))
    length = layout.cumulative_keys.diff().clamp(min=1)  # a row without any key would be 0 / 0
    mask = torch.arange(layout.max_keys, device=key.device) < length[:, None]
    attended = F.scaled_dot_product_attention(
        pad(query, of_queries, layout.max_queries),
        pad(key, of_keys, layout.max_keys),
        pad(value, of_keys, layout.max_keys),
        attn_mask=mask[:, None, None, :],
        dropout_p=dropout,
    )
    return attended.transpose(1, 2)[of_queries]


class _PerSequence(torch.autograd.Function):
    """Keeps one matrix per sequence and head: the probabilities, negative where dropout drops them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: list[tuple[slice, slice]], dropout: float
    ) -> Tensor:
        ctx.spans, ctx.scale, ctx.kept = spans, 1 / math.sqrt(query.shape[-1]), 1 / (1 - rounded_rate(dropout))
        out = torch.zeros_like(query, memory_format=torch.contiguous_format)
        signed = []
        for rows, span in spans:
            q, k, v = query[rows].transpose(0, 1), key[span].permute(1, 2, 0), value[span].transpose(0, 1)
            probability = torch.softmax(_product(q, k, ctx.scale), -1, dtype=torch.float32)
            if dropout:
                probability.copysign_(drop_draws(probability.shape, dropout))
            probability = probability.to(query.dtype)
            signed.append(probability)
            out[rows] = _product(probability.relu() if dropout else probability, v, ctx.kept).transpose(0, 1)
        ctx.save_for_backward(query, key, value, out, *signed)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *signed = ctx.saved_tensors
        # With A the dropped and scaled probabilities P, and dA = grad V^T: the sum over a row of A dA is that of
        # grad times out (Dao et al., arXiv 2205.14135, appendix B), so dS = A dA - P (that sum).
        total = (grad * out).sum(-1, dtype=torch.float32).t().unsqueeze(-1)
        grads = tuple(torch.zeros_like(rows, memory_format=torch.contiguous_format) for rows in (query, key, value))
        for (rows, span), probability in zip(ctx.spans, signed, strict=True):
            g, kept = grad[rows].transpose(0, 1), probability.relu()
            grads[2][span] = _product(kept.mT, g, ctx.kept).transpose(0, 1)
            d = _product(g, value[span].permute(1, 2, 0), ctx.kept).mul_(kept)
            d.addcmul_(probability.abs(), total[:, rows].to(d.dtype), value=-1)
            grads[0][rows] = _product(d, key[span].transpose(0, 1), ctx.scale).transpose(0, 1)
            grads[1][span] = _product(d.mT, query[rows].transpose(0, 1), ctx.scale).transpose(0, 1)
        return (*grads, None, None)


def _product(one: Tensor, other: Tensor, scale: float) -> Tensor:
    """``scale * one @ other`` over heads, in one pass."""
    result = one.new_empty(one.shape[0], one.shape[1], other.shape[2])
    return result.baddbmm_(one, other, beta=0, alpha=scale)


def per_sequence(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
    """For CPUs: one sequence after the other, all its heads at once; the rows of other slots are zero."""
    queries = layout.cumulative_queries[: layout.sequences + 1].tolist()
    keys = layout.cumulative_keys[: layout.sequences + 1].tolist()
    spans = [
        (slice(*rows), slice(*span))
        for rows, span in zip(itertools.pairwise(queries), itertools.pairwise(keys), strict=True)
        if rows[0] < rows[1]
    ]
    return _PerSequence.apply(query, key, value, spans, dropout)


def nested(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
    """torch's scaled_dot_product_attention of jagged nested tensors."""

    def jagged(rows: Tensor, cumulative: Tensor, longest: int) -> Tensor:
        # Both lengths are given, else torch would wait for the device to know them.
        rows = rows if rows.is_cuda else rows.contiguous()  # as its implementation for CPUs requires
        make = torch.nested.nested_tensor_from_jagged
        return make(rows, cumulative.long(), min_seqlen=1, max_seqlen=longest).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        jagged(query, layout.cumulative_queries, layout.max_queries),
        jagged(key, layout.cumulative_keys, layout.max_keys),
        jagged(value, layout.cumulative_keys, layout.max_keys),
        dropout_p=dropout,
    )
    return attended.transpose(1, 2).values()


def flash(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
    """torch's flash kernel on cumulative lengths (Dao, arXiv 2307.08691), in bf16 or fp16 on a GPU.

    By a private operator: the public `torch.nn.attention.varlen.varlen_attn` of torch 2.11 to 2.13 calls the same one
    with a dropout of 0. `choose_attention` compares it with the reference before it is used.
    """
    return torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        layout.cumulative_queries,
        layout.cumulative_keys,
        layout.max_queries,
        layout.max_keys,
        dropout,
        False,  # not causal
        False,  # no debug mask
    )[0]


def triton(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
    """This project's own kernel, on a GPU with Triton."""
    from bertjobs.model.triton_attention import varlen_attention

    # Drawn and kept on the device: nothing waits for it.
    seed = torch.randint(1 << 62, (1,), device=query.device) if dropout else 0
    cumulative = layout.cumulative_queries, layout.cumulative_keys
    return varlen_attention(query, key, value, *cumulative, layout.max_queries, dropout, seed)


ATTENTIONS: dict[str, Attend] = {
    "padded": padded,
    "per_sequence": per_sequence,
    "nested": nested,
    "flash": flash,
    "triton": triton,
}

PREFERRED = {"cpu": ("per_sequence",), "cuda": ("flash", "nested", "padded")}
"""What "auto" tries, the fastest first, by kind of device.

On a CPU (float32, 12 heads of 64, one thread, forward and backward, dropout 0.1 / 0), times of "per_sequence": at mean
length 106 of 128 "padded" takes 2.6 / 1.5, "nested" 3.8 / 4.1; at 254 of 512 "padded" 6.3 / 2.7, "nested" 8.8 / 8.6.
"""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class ChosenAttention:
    """The way that a run computes attention; call it as `Attend`.

    Attributes:
        name: one of `ATTENTIONS`.
        why: how it was chosen, for people.
    """

    name: str
    why: str

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
        return ATTENTIONS[self.name](query, key, value, layout, dropout)

    def describe(self) -> str:
        """One line for the log."""
        return f"attention: {self.name} ({self.why})"


def choose_attention(name: str, device: torch.device, dtype: torch.dtype, head_size: int) -> ChosenAttention:
    """The attention of a run; what is chosen has just agreed with the reference on this device.

    Args:
        name: one of `ATTENTIONS`, or "auto" for the first of `PREFERRED` that works.
        dtype: of the queries: that of autocast, else float32.
        head_size: numbers per head.

    Raises:
        InputError: the name is not known, or what it names does not work here.
    """
    if name == "auto":
        refused: list[str] = []
        for candidate in PREFERRED.get(device.type, ("padded",)):
            problem = _problem(candidate, device, dtype, head_size)
            if problem is None:
                return ChosenAttention(candidate, "; ".join(["the fastest that works here", *refused]))
            refused.append(f"not {candidate}: {problem}")
        raise InputError("no attention works here", where=str(device), hint="; ".join(refused))
    if name not in ATTENTIONS:
        raise InputError(f"attention {name!r} is not known", hint=nearest(name, [*ATTENTIONS, "auto"]))
    problem = _problem(name, device, dtype, head_size)
    if problem is not None:
        where = f"{device}, {dtype}, heads of {head_size}"
        raise InputError(f"attention {name!r} does not work: {problem}", where=where, hint="choose attention 'auto'")
    return ChosenAttention(name, "as asked for")


def _problem(name: str, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Why a candidate cannot be used: it fails, or its output or gradients are not the reference's."""
    if name == "padded":
        return None
    if name == "per_sequence" and device.type != "cpu":
        return "it runs on CPUs only"
    try:
        expected, actual = (_sample(ATTENTIONS[way], device, dtype, head_size) for way in ("padded", name))
    except (ImportError, RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as failure:
        return re.split(r"\. |\n", str(failure).strip())[0] or type(failure).__name__
    names = ("output", "gradient of the query", "gradient of the key", "gradient of the value")
    for what, right, tried in zip(names, expected, actual, strict=True):
        error = float((tried.float() - right.float()).abs().max() / right.float().abs().max())
        if not error <= _TOLERANCE[dtype]:
            return f"{what} differs from the reference by {error:.1e}"
    return None


def _sample(attend: Attend, device: torch.device, dtype: torch.dtype, head_size: int) -> tuple[Tensor, ...]:
    """Output and gradients for three short sequences, fewer queries than keys, and empty slots, without dropout."""
    generator = torch.Generator().manual_seed(0)
    layout = SequenceLayout(
        cumulative_queries=torch.tensor([0, 2, 5, 13, 13, 13], device=device, dtype=torch.int32),
        cumulative_keys=torch.tensor([0, 5, 8, 25, 25, 25], device=device, dtype=torch.int32),
        max_queries=8,
        max_keys=17,
        sequences=3,
    )

    def rows(count: int) -> Tensor:
        return torch.randn(count, 2, head_size, generator=generator).to(device, dtype)

    query, key, value = (rows(count).requires_grad_() for count in (13, 25, 25))
    with torch.autocast(device.type, enabled=False):
        out = attend(query, key, value, layout, 0.0)
        # A product's sum, since torch imports its compiler, seconds of CPU time, to check a gradient that is given.
        return out.detach(), *torch.autograd.grad((out * rows(13)).sum(), (query, key, value))
