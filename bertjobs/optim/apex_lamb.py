"""NVIDIA APEX's LAMB behind the common interface."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bertjobs.optim.base import Update
from bertjobs.optim.lamb import Lamb


def why_not_apex() -> str | None:
    """Why apex's LAMB cannot be used here, or None if it can.

    PyPI's package "apex" is a different one. NVIDIA's brings the compiled module ``amp_C``.
    """
    if find_spec("amp_C") is None:
        return "NVIDIA APEX is not installed with its CUDA extensions (there is no module amp_C)"
    try:
        _apex_class()
    except (ImportError, OSError) as error:
        return f"NVIDIA APEX cannot be imported: {error}"
    return None


def _apex_class() -> Any:
    import amp_C  # noqa: F401
    from apex.optimizers import FusedMixedPrecisionLamb

    return FusedMixedPrecisionLamb


class ApexLamb(Lamb):
    """``Lamb`` computed by ``apex.optimizers.FusedMixedPrecisionLamb``, for float32 parameters on a GPU.

    What is relied on, as read in apex/optimizers/fused_mixed_precision_lamb.py and csrc/multi_tensor_lamb_mp.cu:

    - Constructor: groups with ``params``, ``betas``, ``eps`` and ``weight_decay``; ``lr``, ``max_grad_norm``,
      ``use_nvlamb``. With ``reduced_precision_dtype`` unset there are no second copies of the parameters.
    - ``group["lr"]`` (float32, shape []) and ``group["step"]`` (int32, shape [1]) are tensors on the device, one
      pair per group, and are read there.
    - ``state[parameter]`` holds "exp_avg" and "exp_avg_sq", float32, made at the first step where there are none.
    - ``step(grad_scaler=s)`` asks ``s`` for ``_check_inf_per_device(optimizer)[device]`` (float32, 1: skip) and
      ``_get_scale_async()`` (float32 scalar S), as of torch's GradScaler. The gradients are still scaled: it
      clips by their own norm against ``max_grad_norm * S`` and multiplies them by 1 / S.
    - A skipped step leaves parameters, moments and "step" as they are; one that is taken overwrites the gradients.

    It does not expose the norm, which is therefore computed again; a step never waits for the device.
    """

    backend = "apex"

    def __init__(self, parameters: Any, lr: float, **settings: Any):
        super().__init__(parameters, lr, **settings)
        if self.shard.size > 1:
            raise ValueError("apex's LAMB cannot be sharded: it clips by the norm of what it updates")
        renamed = {"params": "params", "betas": "betas", "epsilon": "eps", "weight_decay": "weight_decay"}
        self._apex = _apex_class()(
            [{theirs: group[ours] for ours, theirs in renamed.items()} for group in self.param_groups],
            lr=lr,
            max_grad_norm=self.clip_norm,
            use_nvlamb=self.use_nvlamb,
        )

    @torch.no_grad()
    def step(self, gradient_scale: float = 1.0) -> Update:  # type: ignore[override]
        """One update from the gradients in ``.grad``, which are the true ones times ``gradient_scale``."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients()))) / gradient_scale
        self._apex.state = self.state
        for ours, theirs in zip(self.param_groups, self._apex.param_groups, strict=True):
            theirs["lr"].fill_(ours["lr"])
            ours["step"] = torch.as_tensor(ours["step"], dtype=torch.int32, device=norm.device).reshape(1)
            theirs["step"] = ours["step"]
        self._apex.step(grad_scaler=_Scale(torch.full_like(norm, gradient_scale), (~norm.isfinite()).float()))
        return Update(norm)


@dataclass(frozen=True)
class _Scale:
    """What apex asks of a ``torch.amp.GradScaler``: the loss scale, and 1 where a gradient is not finite, else 0."""

    scale: Tensor
    found_inf: Tensor

    def _get_scale_async(self) -> Tensor:
        return self.scale

    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[torch.device, Tensor]:  # noqa: ARG002
        return {self.found_inf.device: self.found_inf}
