"""The peak performance of a rank's device, the memory that was used, and whether it computes."""

from __future__ import annotations

import re
import resource
import sys

import torch

# NVIDIA's data sheets (HGX B200 and GB200, H200, H100, A100, A40, A30, A10, L40S, L40, L4, V100, V100S, T4) and the
# whitepapers of GA102, Ada and RTX Blackwell; without sparsity, sums of 16-bit products in float32.
PEAK_TFLOPS: dict[tuple[str, ...], tuple[float, float | None, float]] = {
    # words of the driver's name: fp16 and bf16, tf32, fp32; the first matching entry counts
    ("gb200",): (2500, 1250, 80),
    ("b200",): (2250, 1100, 75),
    ("gh200",): (989.4, 494.7, 67),
    ("h200", "nvl"): (835.5, 417.5, 60),
    ("h200",): (989.4, 494.7, 67),
    ("h100", "nvl"): (835.5, 417.5, 60),
    ("h100", "pcie"): (756, 378, 51),
    ("h100", "hbm3"): (989.4, 494.7, 67),  # the SXM module's name
    ("h100", "sxm5"): (989.4, 494.7, 67),
    ("a100",): (312, 156, 19.5),
    ("a40",): (149.7, 74.8, 37.4),
    ("a30",): (165, 82, 10.3),
    ("a10",): (125, 62.5, 31.2),
    ("l40s",): (362.05, 183, 91.6),
    ("l40",): (181.05, 90.5, 90.5),
    ("l4",): (121, 60, 30.3),
    ("rtx", "5090"): (209.5, 104.8, 104.8),
    ("rtx", "4090"): (165.2, 82.6, 82.6),
    ("rtx", "3090"): (71, 35.6, 35.6),
    ("v100s", "pcie"): (130, None, 16.4),
    ("v100", "pcie"): (112, None, 14),
    ("v100", "sxm2"): (125, None, 15.7),
    ("v100", "sxm3"): (125, None, 15.7),
    ("t4",): (65, None, 8.1),
}
"""Peak rates of matrix products in TFLOP/s. GPUs without tf32 have no bf16 either."""

OTHER_CHIPS = {"mig", "grid", "laptop", "max", "d", "ti", "super"}
"""Words in a name that mean a part of a GPU, or a different one."""


def peak_flops(name: str, precision: str) -> float | None:
    """Floating-point operations per second of a GPU's dense matrix products, None if not known.

    Args:
        name: as ``torch.cuda.get_device_name`` returns it.
        precision: one of ``spec.PRECISIONS``.
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & OTHER_CHIPS:
        return None
    for chip, (half, tf32, fp32) in PEAK_TFLOPS.items():
        if words.issuperset(chip):
            bf16 = None if tf32 is None else half
            rate = {"fp16": half, "bf16": bf16, "tf32": tf32, "fp32": fp32}[precision]
            return None if rate is None else rate * 1e12
    return None


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """`peak_flops` of this rank's device; None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def is_busy(device: torch.device) -> bool:
    """Whether a device still computes what it was told; a CPU never does. Does not wait for it."""
    return device.type == "cuda" and not torch.cuda.current_stream(device).query()


def peak_memory_gb(device: torch.device) -> float:
    """The most memory that this process has used so far, in GB (10^9 bytes): tensors on a GPU, else all in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
