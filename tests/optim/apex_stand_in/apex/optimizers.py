"""What a caller of apex.optimizers.FusedMixedPrecisionLamb sees and passes, computed in torch on any device."""

from __future__ import annotations

from typing import Any

import torch


class FusedMixedPrecisionLamb(torch.optim.Optimizer):
    """Rate and step count are tensors of each group; the scaler says, on the device, whether a step is taken."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        step: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        use_nvlamb: bool = False,
    ):
        defaults = {
            "lr": torch.tensor(lr, dtype=torch.float32),
            "step": torch.tensor([step], dtype=torch.int),
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for key in ("lr", "step"):
                group[key] = group[key].clone()
        self.use_nvlamb = use_nvlamb

    @torch.no_grad()
    def step(self, closure: None = None, grad_scaler: Any = None) -> None:
        assert closure is None
        device = self.param_groups[0]["params"][0].device
        found_inf = grad_scaler._check_inf_per_device(self)[device]
        scale = grad_scaler._get_scale_async()
        assert found_inf.dtype == scale.dtype == torch.float32
        assert found_inf.numel() == scale.numel() == 1
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.cat([gradient.view(-1) for gradient in gradients]).norm()
        divisor = (norm / (self.defaults["max_grad_norm"] * scale)).clamp(min=1.0)
        for group in self.param_groups:
            assert (group["lr"].dtype, group["lr"].shape) == (torch.float32, ())
            assert (group["step"].dtype, group["step"].shape) == (torch.int32, (1,))
            group["step"] += (found_inf != 1).to(torch.int)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, parameter.grad / scale / divisor, taken=not found_inf)

    def _move(self, parameter: torch.nn.Parameter, group: dict[str, Any], gradient: torch.Tensor, taken: bool) -> None:
        state = self.state[parameter]
        if len(state) == 0:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        if not taken:
            return
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        first = state["exp_avg"] / (1 - beta1 ** group["step"].double()).float()
        second = state["exp_avg_sq"] / (1 - beta2 ** group["step"].double()).float()
        update = first / (second.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        rate = group["lr"]
        if (self.use_nvlamb or group["weight_decay"] != 0) and parameter.norm() != 0 and update.norm() != 0:
            rate = rate * parameter.norm() / update.norm()
        parameter.sub_(rate * update)
        parameter.grad.copy_(update)
