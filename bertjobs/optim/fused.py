"""LAMB in a few kernel launches over all parameters, with its decisions made on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.base import Constants, Update
from bertjobs.optim.lamb import Lamb

BLOCK = 1024
"""Elements that one GPU program updates: so few that the registers of a multiprocessor hold seven programs."""

BLOCKS_AT_ONCE = 1024
"""Blocks whose sums of squares one program adds up at a time."""


def why_not_fused(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on ``device``, or None if they can: one is compiled, run, and its result read.

    A kernel that is only started fails at some later operation, if at all; so this waits for the device, once per
    attempt.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        total = _sum_squares([torch.full((3,), 2.0, device=device)]).item()
    except Exception as error:  # compilers, drivers and caches fail in many ways
        return f"Triton cannot run a kernel: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None if total == 12.0 else f"Triton's kernels compute 2^2 + 2^2 + 2^2 = {total:g}"


class FusedLamb(Lamb):
    """``Lamb`` in Triton, for float32 parameters on a GPU; equal up to rounding, and the same bits each time.

    A step reads p, g, m and v, writes m, v and u (in the place of g), then reads u and writes p: the traffic
    of apex's FusedLAMB. Whether it is taken, the clipping and the bias correction are computed on the device, so
    ``step`` never waits for it; a group's "step" is a tensor there.
    """

    backend = "fused"

    def __init__(self, parameters: Any, lr: float, **settings: Any):
        super().__init__(parameters, lr, **settings)
        if not all(p.dtype == torch.float32 and p.is_contiguous() for p in self._parameters):
            raise ValueError("the fused LAMB takes contiguous float32 parameters only")

    @torch.no_grad()
    def step(self, gradient_scale: float = 1.0) -> Update:  # type: ignore[override]
        """One update from the gradients in ``.grad``, which are the true ones times ``gradient_scale``."""
        gradients = [gradient.contiguous() for gradient in self._gradients()]
        device = gradients[0].device
        with torch.cuda.device_of(gradients[0]):
            squares = _sum_squares(gradients)
            norm = (squares.sum(dtype=torch.float64).sqrt() / gradient_scale).float()
            taken = norm.isfinite()
            divisor = gradient_scale * (norm.double() / self.clip_norm).clamp(min=1.0)
            for group in self.param_groups:
                constants = Constants.of(group)
                step = torch.as_tensor(group["step"], dtype=torch.int64, device=device) + taken
                corrections = (1.0 - constants.beta1 ** step.double(), 1.0 - constants.beta2 ** step.double())
                scalars = torch.stack([taken.double(), divisor, *corrections]).float()
                group["step"] = step
                if parameters := self._to_update(group):
                    _update(parameters, *self._moments_of(parameters), scalars, constants, self._adapts(group))
        self.shard.exchange(self._parameters, self._owners)
        return Update(norm)


@dataclass(frozen=True)
class Blocks:
    """How a list of tensors is cut into blocks, on the device.

    Attributes:
        tensors, count: how many tensors and blocks there are.
        sizes: elements of each tensor; int64.
        first_block: number of each tensor's first block, and at the end ``count``; int32.
        tensor_of: which tensor each block is of; int32.
    """

    tensors: int
    count: int
    sizes: Tensor
    first_block: Tensor
    tensor_of: Tensor


@lru_cache(maxsize=16)
def _blocks(sizes: tuple[int, ...], device: torch.device) -> Blocks:
    elements = torch.tensor(sizes, dtype=torch.int64)
    counts = (elements + BLOCK - 1) // BLOCK
    first_block = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    tensor_of = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), counts)
    return Blocks(len(sizes), len(tensor_of), *(table.to(device) for table in (elements, first_block, tensor_of)))


@lru_cache(maxsize=16)
def _table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    """Addresses on the device; sent without waiting for it."""
    table = torch.tensor(addresses, dtype=torch.int64)
    return table if device.type == "cpu" else table.pin_memory().to(device, non_blocking=True)


def _addresses(tensors: list[Tensor]) -> Tensor:
    return _table(tuple(tensor.data_ptr() for tensor in tensors), tensors[0].device)


def _cut(tensors: list[Tensor]) -> Blocks:
    return _blocks(tuple(tensor.numel() for tensor in tensors), tensors[0].device)


def _sum_squares(gradients: list[Tensor]) -> Tensor:
    """Sums of squares of blocks of the gradients; float32."""
    from bertjobs.optim import fused_kernels

    blocks = _cut(gradients)
    squares = gradients[0].new_empty(blocks.count)
    fused_kernels.sum_squares[(blocks.count,)](
        _addresses(gradients), blocks.tensor_of, blocks.first_block, blocks.sizes, squares, BLOCK=BLOCK
    )
    return squares


def _update(
    parameters: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    scalars: Tensor,
    constants: Constants,
    adapts: bool,
) -> None:
    """One group's step, with the ``scalars`` of ``fused_kernels``; the gradients become the update."""
    from bertjobs.optim import fused_kernels

    gradients = [p.grad.contiguous() for p in parameters if p.grad is not None]
    blocks = _cut(parameters)
    layout = (blocks.tensor_of, blocks.first_block, blocks.sizes)
    places, gradient_places = _addresses(parameters), _addresses(gradients)
    weight_squares, update_squares = parameters[0].new_empty(blocks.count), parameters[0].new_empty(blocks.count)
    rates = parameters[0].new_empty(blocks.tensors)
    fused_kernels.move_moments[(blocks.count,)](
        *(places, gradient_places, _addresses(first), _addresses(second)),
        *(*layout, scalars, weight_squares, update_squares),
        *(constants.beta1, constants.beta2, constants.rest1, constants.rest2),
        *(constants.epsilon, constants.weight_decay),
        BLOCK=BLOCK,
    )
    fused_kernels.trust_rates[(blocks.tensors,)](
        *(blocks.first_block, weight_squares, update_squares, rates, constants.lr),
        ADAPTS=adapts,
        BLOCK=BLOCKS_AT_ONCE,
    )
    fused_kernels.apply_update[(blocks.count,)](places, gradient_places, *layout, scalars, rates, BLOCK=BLOCK)
