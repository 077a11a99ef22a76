"""Adam and AdamW, with the clipping, unscaling, skipping and sharding of ``Optimizer``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.base import Constants, Optimizer, adam_direction


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980): ``weight_decay`` p is added to the clipped gradient (L2 penalty)."""

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        constants = Constants.of(group)
        if constants.weight_decay != 0:
            torch._foreach_add_(gradients, parameters, alpha=constants.weight_decay)
        update = adam_direction(gradients, *self._moments_of(parameters), constants, group["step"])
        torch._foreach_add_(parameters, update, alpha=-constants.lr)


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101): ``weight_decay`` p is added to Adam's direction."""

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        constants = Constants.of(group)
        update = adam_direction(gradients, *self._moments_of(parameters), constants, group["step"])
        if constants.weight_decay != 0:
            torch._foreach_add_(update, parameters, alpha=constants.weight_decay)
        torch._foreach_add_(parameters, update, alpha=-constants.lr)
