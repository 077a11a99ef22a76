"""From a recipe's optimizer settings to the optimizer."""

from __future__ import annotations

from torch import nn

from bertjobs.errors import InputError, nearest
from bertjobs.optim.adamw import AdamW
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.spec import OptimizerSpec

OPTIMIZERS: dict[str, type[Lamb]] = {"lamb": Lamb, "adamw": AdamW}


def build_optimizer(model: nn.Module, spec: OptimizerSpec, lr: float) -> Lamb:
    """The optimizer named by ``spec`` over all of ``model``'s float32 parameters.

    Raises:
        InputError: no optimizer has that name.
    """
    if spec.name not in OPTIMIZERS:
        raise InputError(f"optimizer {spec.name!r} is not known", hint=nearest(spec.name, OPTIMIZERS))
    return OPTIMIZERS[spec.name](
        parameter_groups(model, spec.weight_decay),
        lr,
        betas=(spec.beta1, spec.beta2),
        epsilon=spec.epsilon,
        weight_decay=spec.weight_decay,
        clip_norm=spec.clip_norm,
    )
