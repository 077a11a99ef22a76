"""Number formats of the step: float32 masters always; products in fp32, tf32, bf16 or fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from bertjobs.errors import InputError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what the device does not have.

    Raises:
        InputError: names what it has instead.
    """
    lacking = None
    if precision == "tf32" and device.type == "cpu":
        lacking, instead = "a CPU has no tf32", "fp32, bf16 or fp16"
    elif precision in ("tf32", "bf16") and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        lacking, instead = f"{torch.cuda.get_device_name(device)} has no {precision}", "fp32 or fp16"
    if lacking:
        raise InputError(lacking, where="precision", hint=f"set PRECISION to {instead}")


def use_precision(precision: str) -> None:
    """Set what is global in torch: whether float32 products may round to tf32."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass."""
    if precision not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])
