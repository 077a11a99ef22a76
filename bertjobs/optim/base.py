"""What all optimizers share: unscaling, clipping, skipping, sharded states, and the moments."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.sharding import WHOLE, StateShare, runs, spread

CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Parameters updated together: on a CPU as many as stay in its cache, on a GPU enough to fill it while the
temporaries stay small."""


@dataclass(frozen=True)
class Update:
    """What one optimizer step reports.

    Attributes:
        gradient_norm: global L2 norm of the unscaled gradients before clipping, a float32 scalar where the
            parameters are.
    """

    gradient_norm: Tensor

    @property
    def skipped(self) -> bool:
        """Whether a gradient was not finite, so that nothing was changed. Waits for the device."""
        return not math.isfinite(self.gradient_norm.item())


class Optimizer(torch.optim.Optimizer):
    """A step on float32 master weights, from gradients of a scaled loss.

    The gradients are divided by the loss scale, then clipped by their global norm N: multiplied by
    clip_norm / N where N is larger. A gradient that is not finite anywhere leaves the step count, the moments
    and the parameters as they are. Everything is done in place: after a step, the gradients are used up.

    ``state[parameter]`` holds the moments "exp_avg" and "exp_avg_sq", float32, once a step was taken; a group's
    "step" counts its updates: a number, or where ``backend`` counts on the device, a tensor of one.

    With a ``shard`` of several ranks, each keeps the moments of the parameters that it owns, updates these, and
    sends them to the others. All ranks have the same gradients, so norm and skipping are the same on all, and
    the result has the bits of one that is not sharded.

    Args:
        parameters: tensors or parameter groups (``weight_decay`` and ``lr`` by group).
        lr: learning rate.
        betas: decay rates of the first and the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: as the subclass says.
        clip_norm: largest global norm of the gradients.
        shard: this rank's share of the states.
    """

    backend = "torch"

    def __init__(
        self,
        parameters: Any,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
        clip_norm: float = 1.0,
        shard: StateShare = WHOLE,
    ):
        self.clip_norm = clip_norm
        self.shard = shard
        defaults = {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters, defaults)
        self._parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._owners = spread([parameter.numel() for parameter in self._parameters], shard.size)
        self.owned = frozenset(
            parameter for parameter, owner in zip(self._parameters, self._owners, strict=True) if owner == shard.rank
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's own, without what torch wraps around it for its compiler: that would import the compiler, seconds
        of CPU time, in each process of a run that compiles nothing."""
        add = torch.optim.Optimizer.add_param_group
        getattr(add, "__wrapped__", add)(self, param_group)

    @torch.no_grad()
    def zero_grad(self, set_to_none: bool = False) -> None:
        """Begin a step: set the gradients that there are to 0, in place.

        They stay where they are, between steps too. Several ranks' gradients are views of the buffers that are sent
        (`bertjobs.train.ranks`): new ones in each step would be copied there, and need their memory twice. And kernels
        that take a table of addresses can keep theirs.

        Args:
            set_to_none: free them instead, as torch's optimizers do.
        """
        if set_to_none:
            super().zero_grad(set_to_none)
            return
        with torch.autograd.profiler.record_function("zero_grad"):
            if gradients := [parameter.grad for parameter in self._parameters if parameter.grad is not None]:
                torch._foreach_zero_(gradients)

    @torch.no_grad()
    def step(self, gradient_scale: float = 1.0) -> Update:  # type: ignore[override]
        """One update from the gradients in ``.grad``, which are the true ones times ``gradient_scale``."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients()))) / gradient_scale
        size = norm.item()
        if not math.isfinite(size):
            return Update(norm)
        divisor = gradient_scale * max(1.0, size / self.clip_norm)
        for group in self.param_groups:
            group["step"] += 1
            for parameters in runs(self._to_update(group), CHUNK_ELEMENTS.get(norm.device.type, 1 << 25)):
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                if divisor != 1.0:
                    torch._foreach_div_(gradients, divisor)
                self._update(parameters, gradients, group)
        self.shard.exchange(self._parameters, self._owners)
        return Update(norm)

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Change moments and parameters by the clipped ``gradients``, which may be overwritten."""
        raise NotImplementedError

    def _gradients(self) -> list[Tensor]:
        """All existing gradients, those of other ranks' parameters too."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if not gradients:
            raise ValueError("no parameter has a gradient: call backward before step")
        return gradients

    def _to_update(self, group: dict[str, Any]) -> list[Tensor]:
        """The group's parameters that are this rank's to update."""
        return [p for p in group["params"] if p.grad is not None and p in self.owned]

    def _moments_of(self, parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """First and second moments, zeros before a parameter's first step."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        return [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]

    def moments(self) -> dict[Tensor, tuple[Tensor, Tensor]]:
        """First and second moments by parameter, of those that this rank owns and has updated before."""
        return {
            parameter: (self.state[parameter]["exp_avg"], self.state[parameter]["exp_avg_sq"])
            for parameter in self._parameters
            if self.state.get(parameter)
        }

    def load_moments(self, moments: Mapping[Tensor, tuple[Tensor, Tensor]], step_count: int) -> None:
        """Continue from these moments after ``step_count`` updates; other ranks' parameters are skipped.

        Tensors that are in the parameter's place already are kept, not copied.
        """
        for parameter, (first, second) in moments.items():
            if parameter in self.owned:
                self.state[parameter] = {
                    "exp_avg": first.to(parameter.device, torch.float32),
                    "exp_avg_sq": second.to(parameter.device, torch.float32),
                }
        self._count_from(step_count)

    @property
    def step_count(self) -> int:
        """t, the updates that the bias correction counts. Waits for the device where ``backend`` counts there."""
        return int(self.param_groups[0]["step"])

    def reset_step_count(self) -> None:
        """Restart t, and so the bias correction, from 0, keeping the moments: what phase 2 does."""
        self._count_from(0)

    def _count_from(self, step: int) -> None:
        for group in self.param_groups:
            group["step"] = step

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the next steps, for all groups."""
        for group in self.param_groups:
            group["lr"] = lr


@dataclass(frozen=True)
class Constants:
    """A group's numbers, each rounded to float32 first, as apex's FusedMixedPrecisionLamb takes them."""

    lr: float
    beta1: float
    beta2: float
    rest1: float
    rest2: float
    epsilon: float
    weight_decay: float

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Constants:
        beta1, beta2 = (_float32(beta) for beta in group["betas"])
        others = (1.0 - beta1, 1.0 - beta2, group["epsilon"], group["weight_decay"])
        return cls(_float32(group["lr"]), beta1, beta2, *map(_float32, others))


def adam_direction(
    gradients: list[Tensor], first: list[Tensor], second: list[Tensor], constants: Constants, step: int
) -> list[Tensor]:
    """Adam's direction (Kingma and Ba, arXiv 1412.6980), updating the moments in place::

    m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
    (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
    """
    torch._foreach_mul_(first, constants.beta1)
    torch._foreach_add_(first, gradients, alpha=constants.rest1)
    torch._foreach_mul_(second, constants.beta2)
    torch._foreach_addcmul_(second, gradients, gradients, value=constants.rest2)

    denominator = torch._foreach_div(second, _float32(1.0 - constants.beta2**step))
    torch._foreach_sqrt_(denominator)
    torch._foreach_add_(denominator, constants.epsilon)
    direction = torch._foreach_div(first, _float32(1.0 - constants.beta1**step))
    torch._foreach_div_(direction, denominator)
    return list(direction)


def _float32(value: float) -> float:
    """``value`` rounded to the nearest float32."""
    return struct.unpack("f", struct.pack("f", value))[0]
