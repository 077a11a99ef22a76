"""Peak rates by the names that drivers report, and peak memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bertjobs.recipe.setting import PRECISIONS
from bertjobs.train.device import PEAK_TFLOPS, device_peak_flops, is_busy, peak_flops, peak_memory_gb
from bertjobs.train.worker import gpu_index


@pytest.mark.parametrize(
    ("name", "half", "tf32", "fp32"),
    [
        ("Tesla V100-SXM2-16GB", 125, None, 15.7),
        ("Tesla V100-SXM3-32GB", 125, None, 15.7),
        ("Tesla V100-PCIE-32GB", 112, None, 14),
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 67),
        ("NVIDIA H100 PCIe", 756, 378, 51),
        ("NVIDIA H100 NVL", 835.5, 417.5, 60),
        ("NVIDIA H200", 989.4, 494.7, 67),
        ("NVIDIA H200 NVL", 835.5, 417.5, 60),
        ("NVIDIA GH200 480GB", 989.4, 494.7, 67),
        ("NVIDIA B200", 2250, 1100, 75),
        ("NVIDIA GB200", 2500, 1250, 80),
        ("NVIDIA L40S", 362.05, 183, 91.6),
        ("NVIDIA L40", 181.05, 90.5, 90.5),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA A40", 149.7, 74.8, 37.4),
        ("NVIDIA A10", 125, 62.5, 31.2),
        ("Tesla T4", 65, None, 8.1),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
    ],
)
def test_known_gpus(name: str, half: float, tf32: float | None, fp32: float) -> None:
    peaks = [peak_flops(name, precision) for precision in ("fp16", "bf16", "tf32", "fp32")]
    expected = [half, None if tf32 is None else half, tf32, fp32]
    assert peaks == [None if rate is None else pytest.approx(rate * 1e12) for rate in expected]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA RTX A4000",
        "NVIDIA A10G",
        "GRID A100-40C",
        "AMD Instinct MI300X",
        "",
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_parts_of_gpus_and_unknown_ones_have_no_peak(name: str, precision: str) -> None:
    assert peak_flops(name, precision) is None


def test_sparsity_is_never_counted() -> None:
    """Tensor cores compute 16-bit products at most 2.1 times as fast as tf32 ones."""
    for chip, (half, tf32, fp32) in PEAK_TFLOPS.items():
        assert fp32 <= half, chip
        if tf32 is not None:
            assert 1.9 < half / tf32 < 2.1, chip


def test_a_cpu_has_no_known_peak_and_its_memory_is_the_process() -> None:
    cpu = torch.device("cpu")
    assert device_peak_flops(cpu, "fp32") is None
    before = peak_memory_gb(cpu)
    assert 0.05 < before < 100
    block = torch.ones(100_000_000, dtype=torch.uint8)
    assert peak_memory_gb(cpu) >= before
    assert len(block) == 100_000_000
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    assert peak_memory_gb(cpu) == pytest.approx(peak, rel=0.01)


def test_a_cpu_has_computed_what_it_was_told() -> None:
    assert not is_busy(torch.device("cpu"))


def test_a_rank_takes_the_gpu_of_its_number_or_the_one_that_slurm_shows_it() -> None:
    assert [gpu_index(rank, 8) for rank in range(8)] == list(range(8))
    assert [gpu_index(rank, 1) for rank in range(8)] == [0] * 8
