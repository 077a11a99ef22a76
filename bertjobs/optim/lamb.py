"""LAMB (You et al., arXiv 1904.00962) as NVIDIA runs it for BERT (lamb_amp_opt)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.base import Constants, Optimizer, adam_direction


class Lamb(Optimizer):
    """LAMB with global-norm clipping before and bias correction, in torch: the reference.

    With gradients g multiplied by the loss scale S and c = max(1, |g / S| / clip_norm), one step is::

        t += 1;  g = g / S / c
        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay p
        r = lr |p| / |u|  where the group decays and both norms are not 0, else lr
        p -= r u

    Args:
        parameters, lr, settings: as in ``Optimizer``; ``weight_decay`` is decoupled from the gradient, and 0 in
            a group also turns its trust ratio off.
        use_nvlamb: scale by the trust ratio also where ``weight_decay`` is 0.
    """

    def __init__(self, parameters: Any, lr: float, *, use_nvlamb: bool = False, **settings: Any):
        super().__init__(parameters, lr, **settings)
        self.use_nvlamb = use_nvlamb

    def _adapts(self, group: dict[str, Any]) -> bool:
        """Whether the group's rate is scaled by the trust ratio."""
        return self.use_nvlamb or group["weight_decay"] != 0

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        constants = Constants.of(group)
        update = adam_direction(gradients, *self._moments_of(parameters), constants, group["step"])
        if constants.weight_decay != 0:
            torch._foreach_add_(update, parameters, alpha=constants.weight_decay)
        if not self._adapts(group):
            torch._foreach_add_(parameters, update, alpha=-constants.lr)
            return
        weights = torch.stack(torch._foreach_norm(parameters))
        updates = torch.stack(torch._foreach_norm(update))
        rates = torch.where((weights != 0) & (updates != 0), constants.lr * (weights / updates), constants.lr)
        torch._foreach_mul_(update, list(rates.unbind()))
        torch._foreach_sub_(parameters, update)
