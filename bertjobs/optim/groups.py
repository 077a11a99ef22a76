"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn

UNDECAYED = ("bias", "gamma", "beta", "LayerNorm")
"""A parameter whose name holds one of these does not decay (BERT's and NVIDIA's rule)."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimizer groups: the parameters that decay, and those that do not.

    A tied parameter is in once, under its first name. Each group keeps the model's order, so that an
    optimizer's state fits the same model again.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (undecayed if any(part in name for part in UNDECAYED) else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
