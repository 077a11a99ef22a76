"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) with LAMB's clipping, unscaling and skipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.lamb import Lamb


class AdamW(Lamb):
    """AdamW: LAMB's update without its trust ratio, p -= lr u. Arguments and ``step`` as in ``Lamb``."""

    def _apply(self, parameters: list[Tensor], update: list[Tensor], group: dict[str, Any]) -> None:
        torch._foreach_add_(parameters, update, alpha=-group["lr"])
