"""The device that a benchmark runs on: what it is, how fast its matrix products are, how much memory is left."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bertjobs.errors import InputError
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.precision import (
    AUTOCAST,
    check_precision,
    deterministic_environment,
    use_deterministic,
    use_precision,
)


@dataclass(frozen=True)
class Device:
    """What is measured on.

    Attributes:
        kind: "cuda" or "cpu".
        name: the GPU's, as its driver calls it; else the processor's.
        memory_gb: all that it has, in GB (10^9 bytes).
        threads: of the process, on a CPU; 0 on a GPU.
    """

    kind: str
    name: str
    memory_gb: float
    threads: int

    @classmethod
    def of(cls, device: torch.device) -> Device:
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            return cls("cuda", properties.name, round(properties.total_memory / 1e9, 1), 0)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls("cpu", processor(), round(memory / 1e9, 1), torch.get_num_threads())

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name}, {self.memory_gb:g} GB" + (f", {self.threads} threads" if self.threads else "")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as far as the system says."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def open_bench_device(spec: RunSpec) -> torch.device:
    """The device of one rank of the recipe on this machine, with the threads that such a rank would have.

    Raises:
        InputError: the recipe asks for a GPU and there is none, or for a precision that the device lacks.
    """
    if spec.gpus and not torch.cuda.is_available():
        raise InputError(
            f"recipe {spec.recipe} trains on GPUs, and torch sees none here",
            where="bertjobs bench",
            hint="run it on such a node (srun --gpus=1 bertjobs bench ...), or measure the CPU with --gpus 0",
        )
    device = torch.device("cuda", 0) if spec.gpus else torch.device("cpu")
    check_precision(spec.precision, device)
    if device.type == "cpu":
        of_a_rank = max(1, len(os.sched_getaffinity(0)) // spec.tasks_per_node)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or of_a_rank))
    if spec.deterministic:
        os.environ.update(deterministic_environment(os.environ))  # before a GPU is used
        use_deterministic(True)
    use_precision(spec.precision)
    return device


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_GROUPS = 5
_MOST_CALLS = 64  # of a group: a GPU's queue holds about a thousand launches, and a call makes a few
_CYCLES_PER_S = 2e9  # of a GPU's clock, at most


def time_calls(call: Callable[[], object], device: torch.device, seconds: float = 0.2) -> float:
    """Seconds that a call takes on a device: the median of five groups of calls, after a warm-up.

    On a GPU, events around a group time its kernels alone: the GPU is kept busy until the whole group is queued, so
    that calls shorter than what it costs the host to launch them are timed as well.

    Args:
        call: makes no use of what the previous call has left in caches, if it moves more than they hold.
        seconds: that all groups together take, about; each has at least one call.
    """
    for _ in range(2):
        call()
    wait_for(device)
    started = time.perf_counter()
    call()
    launching = time.perf_counter() - started
    wait_for(device)
    whole = time.perf_counter() - started
    count = max(1, min(_MOST_CALLS, int(seconds / _GROUPS / whole)))
    group = _group_on_gpu if device.type == "cuda" else _group_on_cpu
    return statistics.median(group(call, count, launching) for _ in range(_GROUPS))


def _group_on_cpu(call: Callable[[], object], count: int, _launching: float) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


def _group_on_gpu(call: Callable[[], object], count: int, launching: float) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(int(min(0.1, 2 * count * launching) * _CYCLES_PER_S))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def product_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of a large square matrix product in a number format, the best of many: the most that a device can do."""
    use_precision(precision)
    size, together = (8192, 10) if device.type == "cuda" else (2048, 1)
    dtype = AUTOCAST.get(precision, torch.float32)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = left @ right
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < seconds:
        wait_for(device)
        began = time.perf_counter()
        for _ in range(together):
            torch.mm(left, right, out=out)
        wait_for(device)
        best = min(best, (time.perf_counter() - began) / together)
    return 2.0 * size**3 / best


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch means that memory ran out."""
    words = ("out of memory", "alloc_failed", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def available_gb(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Memory that this machine's processes can still get, in GB; infinite where the system does not say."""
    lines = meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(available[0]) * 1024 / 1e9 if available else float("inf")
