"""Number formats of the step (weights always in float32, products in fp32, tf32, bf16 or fp16), and whether a GPU has
to give the same bits each time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from bertjobs.errors import InputError
from bertjobs.model.attention import ChosenAttention, choose_attention
from bertjobs.recipe.spec import ModelSpec

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

OLDEST_CAPABILITY = {"fp32": (0, 0), "fp16": (5, 3), "tf32": (8, 0), "bf16": (8, 0)}
"""Compute capability of the first GPUs with a format (CUDA C++ programming guide, "Compute Capabilities")."""

DETERMINISTIC_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device lacks.

    Raises:
        InputError: names those that it has.
    """
    if device.type == "cuda":
        check_gpu(precision, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    elif precision == "tf32":
        raise _lacking("a CPU", precision, ["fp32", "bf16", "fp16"])


def check_gpu(precision: str, name: str, capability: tuple[int, int]) -> None:
    """`check_precision` for a GPU of this name and compute capability."""
    has = [other for other, oldest in OLDEST_CAPABILITY.items() if capability >= oldest]
    if precision not in has:
        raise _lacking(name, precision, has)


def _lacking(name: str, precision: str, has: list[str]) -> InputError:
    return InputError(
        f"{name} does not support {precision}",
        where="precision",
        hint=f"set PRECISION to one that it supports: {', '.join(has)}",
    )


def use_precision(precision: str) -> None:
    """Set torch's global switch: whether float32 products may be rounded to tf32."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")


def attention_for(name: str, model: ModelSpec, precision: str, device: torch.device) -> ChosenAttention:
    """The attention of this name for a model's heads, in a precision.

    Raises:
        InputError: as in `choose_attention`.
    """
    dtype = AUTOCAST.get(precision, torch.float32)
    return choose_attention(name, device, dtype, model.hidden_size // model.num_attention_heads)


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass."""
    if precision not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def deterministic_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a deterministic run has to add to ``environ`` before it first uses a GPU; variables that are set are kept.

    cuBLAS then uses fixed workspaces ("Results reproducibility" in its manual), and NCCL does not sum inside the
    switches, whose order varies (NVIDIA/nccl issue 1497). Ring and tree sum in an order that follows from the
    topology: the same nodes give the same bits.
    """
    return {name: value for name, value in DETERMINISTIC_ENVIRONMENT.items() if name not in environ}


def use_deterministic(on: bool) -> None:
    """Set torch's global switches: whether to use only kernels that give the same bits each time; an operation without
    such a kernel then raises RuntimeError.

    Of the kernels of scaled_dot_product_attention, torch leaves out cuDNN's, and runs flash (which takes no mask, so
    not for padded batches) and memory-efficient attention with a backward pass that adds in a fixed order; the plain
    one ("math") consists of matrix products only. Products do not add up in 16 bits, and torch.compile chooses its
    kernels without measuring them. On a CPU all are deterministic anyway.
    """
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = not on
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = not on
    _use_deterministic_inductor(on)
    # Nothing here reads memory before writing it: filling it costs time and would reveal nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _use_deterministic_inductor(on: bool) -> None:
    """Whether torch.compile's backend may let measurements, which vary, choose among kernels that round differently."""
    if not on and "torch._inductor.config" not in sys.modules:
        return  # nothing has been set: spare the import
    from torch._inductor import config

    if hasattr(config, "deterministic"):
        config.deterministic = on
    if on:
        config.max_autotune = config.max_autotune_pointwise = config.max_autotune_gemm = False
        config.coordinate_descent_tuning = False
