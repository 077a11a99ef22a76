"""From a recipe's optimizer settings to the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from bertjobs.errors import InputError, nearest
from bertjobs.optim.adam import Adam, AdamW
from bertjobs.optim.apex_lamb import ApexLamb, why_not_apex
from bertjobs.optim.base import Optimizer
from bertjobs.optim.fused import FusedLamb, why_not_fused
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.sharding import WHOLE, StateShare
from bertjobs.recipe.spec import OptimizerSpec

OPTIMIZERS: dict[str, dict[str, type[Optimizer]]] = {
    "lamb": {"apex": ApexLamb, "fused": FusedLamb, "torch": Lamb},
    "adamw": {"torch": AdamW},
    "adam": {"torch": Adam},
}
"""By name and backend; the backends in the order in which "auto" prefers them."""

BACKENDS = ("apex", "fused", "torch")


def build_optimizer(
    model: nn.Module,
    spec: OptimizerSpec,
    lr: float,
    *,
    device: torch.device | None = None,
    group: StateShare = WHOLE,
) -> Optimizer:
    """The optimizer that ``spec`` names, over all of ``model``'s float32 parameters.

    Args:
        model: on ``device`` already.
        lr: learning rate.
        device: where the model is; None: where its first parameter is.
        group: the ranks that share the states, where ``spec.shard_states`` is set.

    Raises:
        InputError: no optimizer has that name, or its backend cannot be used here.
    """
    if spec.name not in OPTIMIZERS:
        raise InputError(
            f"optimizer {spec.name!r} is not known", where="optimizer.name", hint=nearest(spec.name, OPTIMIZERS)
        )
    device = device or next(model.parameters()).device
    shard = group if spec.shard_states else WHOLE
    backend = choose_backend(
        spec,
        gpu=device.type == "cuda",
        sharded=shard.size > 1,
        checks={"apex": why_not_apex, "fused": lambda: why_not_fused(device)},
    )
    return OPTIMIZERS[spec.name][backend](
        parameter_groups(model, spec.weight_decay),
        lr,
        betas=(spec.beta1, spec.beta2),
        epsilon=spec.epsilon,
        weight_decay=spec.weight_decay,
        clip_norm=spec.clip_norm,
        shard=shard,
    )


def choose_backend(
    spec: OptimizerSpec, *, gpu: bool, sharded: bool, checks: Mapping[str, Callable[[], str | None]]
) -> str:
    """The backend that ``spec`` asks for; for "auto", the first of ``OPTIMIZERS`` that can be used.

    Args:
        gpu: the model is on a GPU.
        sharded: several ranks share the states.
        checks: by backend, what says why its software cannot be used, or None; asked last.

    Raises:
        InputError: the backend asked for cannot be used: says why, and names those that can.
    """
    backends = OPTIMIZERS[spec.name]

    def obstacle(backend: str) -> str | None:
        if backend not in backends:
            return f"{spec.name!r} has no such backend"
        if backend == "torch":
            return None
        if not gpu:
            return "it needs a GPU"
        if backend == "apex" and sharded:
            return "it cannot share its states among ranks (optimizer.shard_states)"
        return checks[backend]()

    if spec.backend == "auto":
        return next(backend for backend in backends if obstacle(backend) is None)
    if (why := obstacle(spec.backend)) is not None:
        usable = [backend for backend in backends if obstacle(backend) is None]
        raise InputError(
            f"optimizer backend {spec.backend!r} cannot be used: {why}",
            where="optimizer.backend",
            hint=f"choose one of: auto, {', '.join(usable)}",
        )
    return spec.backend
