"""Binds each rank to the CPUs near its GPU, so that its host memory and its copies stay on one NUMA node.

Near are those that the kernel calls local to the GPU's PCI device (``/sys/bus/pci/devices/<address>/local_cpulist``).
CPUs near several ranks' GPUs are divided among these ranks in whole cores. If anything is unknown, or the rank is
already bound, nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

SYS = Path("/sys")
TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Node:
    """The CPUs of this node, as one rank sees them.

    Attributes:
        allowed: CPUs that this process may use: its affinity mask, which lies within its cgroup.
        near: for each rank of the node whose GPU is known, by its local rank, the CPUs near that GPU.
        siblings: for each CPU the hardware threads of its core, itself among them.
        share: CPUs that Slurm gave the job here; 0 if it does not say.
    """

    allowed: Set[int]
    near: Mapping[int, Set[int]]
    siblings: Mapping[int, Set[int]]
    share: int = 0


def cpus_for(local_rank: int, node: Node) -> set[int] | None:
    """The CPUs that a rank is bound to, or None to leave it as it is.

    CPUs near the GPUs of the same ranks are divided among these in contiguous blocks of whole cores, which differ by
    at most one core; if there are fewer cores than ranks, all of them share the cores. So the sets of two ranks are
    disjoint if there are enough cores, and each is a part of ``allowed`` and near the rank's GPU.
    """
    if not (node.allowed & node.near.get(local_rank, set())) or not is_whole_share(node):
        return None
    cpus: set[int] = set()
    for ranks, near_them in _by_ranks(node).items():
        if local_rank not in ranks:
            continue
        cores = _cores(near_them, node.siblings)
        place, number = ranks.index(local_rank), len(ranks)
        if len(cores) >= number:
            cores = cores[place * len(cores) // number : (place + 1) * len(cores) // number]
        cpus.update(*cores)
    return cpus


def is_whole_share(node: Node) -> bool:
    """Whether the mask is the job's whole share of the node. A smaller one means that Slurm has already bound this
    task; a larger one, that nothing keeps jobs apart, so that other jobs' CPUs would be given out."""
    if not node.share:
        return True
    # Slurm counts hardware threads or cores, as its nodes are configured, and only those of the step's tasks: the
    # remainder of a node's CPUs divided by its tasks is missing.
    cores = len(_cores(node.allowed, node.siblings))
    return node.share <= len(node.allowed) and cores < node.share + max(1, len(node.near))


def _by_ranks(node: Node) -> dict[tuple[int, ...], set[int]]:
    """The allowed CPUs, grouped by the ranks that they are near."""
    groups: dict[tuple[int, ...], set[int]] = {}
    for cpu in node.allowed:
        ranks = tuple(sorted(rank for rank, cpus in node.near.items() if cpu in cpus))
        groups.setdefault(ranks, set()).add(cpu)
    return groups


def _cores(cpus: Set[int], siblings: Mapping[int, Set[int]]) -> list[set[int]]:
    """``cpus`` by core, in order of each core's first CPU."""
    cores: dict[int, set[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(min(siblings.get(cpu, {cpu}) & cpus, default=cpu), set()).add(cpu)
    return list(cores.values())


def parse_cpus(text: str) -> set[int]:
    """The CPUs of a kernel list such as ``0-3,8,10-11``.

    Raises:
        ValueError: it is not such a list.
    """
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def format_cpus(cpus: Set[int]) -> str:
    """CPUs as the kernel writes them: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def near_device(address: str, sys: Path = SYS) -> set[int]:
    """The CPUs near a PCI device, such as ``0000:3b:00.0``; none if the kernel does not know its NUMA node, as it then
    lists all.

    Raises:
        OSError, ValueError: sysfs lacks the device, or is not as the kernel documents it.
    """
    device = sys / "bus" / "pci" / "devices" / address
    if int((device / "numa_node").read_text()) < 0:
        return set()
    return parse_cpus((device / "local_cpulist").read_text())


def siblings_of(cpus: Set[int], sys: Path = SYS) -> dict[int, set[int]]:
    """The hardware threads of each CPU's core; a CPU that is not in sysfs is left out."""
    siblings = {}
    for cpu in cpus:
        with suppress(OSError, ValueError):
            file = sys / "devices" / "system" / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            siblings[cpu] = parse_cpus(file.read_text()) | {cpu}
    return siblings


def gpu_address(index: int) -> str:
    """The PCI address of torch's GPU ``index``, as sysfs writes it."""
    gpu = torch.cuda.get_device_properties(index)
    return f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"  # type: ignore[attr-defined]


def bind_near_gpu(
    local_rank: int,
    tasks_per_node: int,
    environ: Mapping[str, str],
    *,
    gpus: int | None = None,
    address: Callable[[int], str] = gpu_address,
    sys: Path = SYS,
) -> str | None:
    """Bind this process, all its threads, and what it will start to the CPUs near its GPU.

    Call it once the rank's GPU is chosen and before anything large is allocated. A rank that sees only its own GPU does
    not know those of the node's other ranks, and takes all CPUs near it. Raises nothing.

    Args:
        gpus: GPUs that this process sees; None asks torch.
        address: a GPU's PCI address.
        sys: where sysfs is mounted.

    Returns:
        A line for the log, None if nothing was done.
    """
    try:
        seen = torch.cuda.device_count() if gpus is None else gpus
        index = {local_rank: 0} if seen == 1 else {rank: rank for rank in range(min(seen, tasks_per_node))}
        allowed = os.sched_getaffinity(0)
        node = Node(
            allowed=allowed,
            near={rank: near_device(address(gpu), sys) for rank, gpu in index.items()},
            siblings=siblings_of(allowed, sys),
            share=int(environ.get("SLURM_CPUS_ON_NODE") or 0),
        )
        cpus = cpus_for(local_rank, node)
        if cpus is None:
            return None
        _bind(cpus)
        return f"bound to CPUs {format_cpus(cpus)}, near GPU {address(index[local_rank])}"
    except Exception as error:  # a job never fails because of this
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"not bound to the CPUs near the GPU: {reason[0]}"


def _bind(cpus: Set[int]) -> None:
    """Bind all threads: the system call binds only one, and libraries have already started others."""
    os.sched_setaffinity(0, cpus)
    for task in TASKS.iterdir():
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(task.name), cpus)
