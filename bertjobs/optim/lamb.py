"""LAMB (You et al., arXiv 1904.00962) as NVIDIA runs it for BERT (lamb_amp_opt)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Parameters updated together: on a CPU as many as stay in its cache, on a GPU enough to fill it while the
temporaries stay small."""


class StepResult(NamedTuple):
    """What one optimizer step found.

    Attributes:
        gradient_norm: global L2 norm of the unscaled gradients before clipping, a float32 scalar.
        skipped: a gradient was not finite, so nothing was changed.
    """

    gradient_norm: Tensor
    skipped: bool


class Lamb(torch.optim.Optimizer):
    """LAMB on float32 master weights, with global-norm clipping before and bias correction.

    With gradients g multiplied by the loss scale S and c = max(1, |g / S| / clip_norm), one step is::

        t += 1;  g = g / S / c
        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay p
        r = lr |p| / |u|  where the group decays and both norms are not 0, else lr
        p -= r u

    Constants are rounded to float32 first, as in apex's FusedMixedPrecisionLamb. A gradient that is not
    finite anywhere leaves t, m, v and p as they are. Clipping and unscaling are done in place: after a step,
    the gradients are spent.

    Args:
        parameters: tensors or parameter groups (``weight_decay`` and ``lr`` by group).
        lr: learning rate.
        betas: decay rates of the first and the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled from the gradient; 0 in a group also turns its trust ratio off.
        clip_norm: largest global norm of the gradients.
        use_nvlamb: scale by the trust ratio also where ``weight_decay`` is 0.
    """

    last_gradient_norm: Tensor | None = None

    def __init__(
        self,
        parameters: Any,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
        clip_norm: float = 1.0,
        use_nvlamb: bool = False,
    ):
        self.clip_norm = clip_norm
        self.use_nvlamb = use_nvlamb
        defaults = {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, gradient_scale: float = 1.0) -> StepResult:  # type: ignore[override]
        """One update from the gradients in ``.grad``, which are the true ones times ``gradient_scale``."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            raise ValueError("no parameter has a gradient: call backward before step")
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) / gradient_scale
        self.last_gradient_norm = norm
        size = norm.item()
        if not math.isfinite(size):
            return StepResult(norm, skipped=True)
        divisor = gradient_scale * max(1.0, size / self.clip_norm)
        for group in self.param_groups:
            group["step"] += 1
            for chunk in _chunks([p for p in group["params"] if p.grad is not None]):
                self._update(chunk, group, divisor)
        return StepResult(norm, skipped=False)

    def _update(self, parameters: list[Tensor], group: dict[str, Any], divisor: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        first, second = self._moments(parameters)
        beta1, beta2 = (_float32(beta) for beta in group["betas"])
        if divisor != 1.0:
            torch._foreach_div_(gradients, divisor)
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, gradients, alpha=_float32(1.0 - beta1))
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=_float32(1.0 - beta2))

        denominator = torch._foreach_div(second, _float32(1.0 - beta2 ** group["step"]))
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, _float32(group["epsilon"]))
        update = torch._foreach_div(first, _float32(1.0 - beta1 ** group["step"]))
        torch._foreach_div_(update, denominator)
        if group["weight_decay"] != 0:
            torch._foreach_add_(update, parameters, alpha=_float32(group["weight_decay"]))
        self._apply(parameters, list(update), group)

    def _apply(self, parameters: list[Tensor], update: list[Tensor], group: dict[str, Any]) -> None:
        """p -= r u, with LAMB's trust ratio in r."""
        lr = _float32(group["lr"])
        if group["weight_decay"] == 0 and not self.use_nvlamb:
            torch._foreach_add_(parameters, update, alpha=-lr)
            return
        weights = torch.stack(torch._foreach_norm(parameters))
        updates = torch.stack(torch._foreach_norm(update))
        rates = torch.where((weights != 0) & (updates != 0), lr * (weights / updates), lr)
        torch._foreach_mul_(update, list(rates.unbind()))
        torch._foreach_sub_(parameters, update)

    def _moments(self, parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        return [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the next steps, for all groups."""
        for group in self.param_groups:
            group["lr"] = lr

    def reset_step_count(self) -> None:
        """Start t, and so the bias correction, from 0 again with the moments kept: what phase 2 does."""
        for group in self.param_groups:
            group["step"] = 0


def _float32(value: float) -> float:
    """``value`` rounded to the nearest float32."""
    return struct.unpack("f", struct.pack("f", value))[0]


def _chunks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list of parameters into runs of at most ``CHUNK_ELEMENTS`` elements, or one larger parameter."""
    chunk: list[Tensor] = []
    elements = 0
    for parameter in parameters:
        if chunk and elements + parameter.numel() > CHUNK_ELEMENTS.get(parameter.device.type, 1 << 25):
            yield chunk
            chunk, elements = [], 0
        chunk.append(parameter)
        elements += parameter.numel()
    if chunk:
        yield chunk
