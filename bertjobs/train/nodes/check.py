"""What is wrong with the nodes before an attempt trains on them, so that a bad one costs seconds and not a night.

`bertjobs.train.nodes.measure` looks and measures. `problems` decides what is wrong and with which node, and `settle`
prints it, writes suspect nodes to the register, and refuses to train on unfit nodes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bertjobs.errors import BertjobsError
from bertjobs.run.causes import Cause
from bertjobs.run.suspects import FILE, record
from bertjobs.train.placement import Placement
from bertjobs.train.ranks import Ranks

FREE_SHARE = 0.8  # of a GPU's memory; if less is free, another process uses it
MAX_SKEW_S = 2.0
SLOW = 3.0  # times the usual
NOISE_S = {"cuda": 0.001, "cpu": 0.05}  # a difference below this means nothing
SENT_BYTES = {"cuda": 64_000_000, "cpu": 4_000_000}
QUERY = ("index", "uuid", "memory.total", "memory.free", "ecc.errors.uncorrected.volatile.total")


class UnfitNodesError(BertjobsError):
    """Training was refused because of a node, or because of a disk that all nodes share."""


@dataclass(frozen=True)
class GpuHealth:
    """A line of nvidia-smi: memory in MiB, uncorrected ECC errors since the driver was loaded; None: not reported."""

    index: int
    uuid: str
    memory_mib: float | None
    free_mib: float | None
    uncorrected_errors: float | None


@dataclass(frozen=True)
class Disk:
    """A folder, the bytes that must be free on its disk, and those that are; ``trouble`` says why that is not known.

    ``shared``: all nodes must see the same disk.
    """

    path: str
    needed: int
    shared: bool
    free: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """What a node's first rank saw of it. ``complaint`` is nvidia-smi's, or "".

    ``gpus_needed`` are those that the run uses and the job was given; ``gpus_seen`` is torch's count; ``gpus`` is empty
    on a node without nvidia-smi.
    """

    node: str
    gpus_needed: int
    gpus_seen: int
    gpus: tuple[GpuHealth, ...]
    complaint: str
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class Clock:
    """How far a node's clock is ahead of the first node's, in seconds."""

    node: str
    ahead_s: float


@dataclass(frozen=True)
class NetworkTimes:
    """Seconds that a node's slowest rank takes for ``SENT_BYTES`` per rank.

    ``all_reduce_s`` is for a sum over all ranks, which says nothing about single nodes; ``exchange_s`` for an exchange
    with another node, the fastest of several, None for fewer than three nodes.
    """

    node: str
    all_reduce_s: float
    exchange_s: float | None = None


@dataclass(frozen=True)
class Findings:
    """What one look or measurement found, the nodes in order of their ranks.

    ``round_trip_s`` is how precisely the clocks could be compared. ``ranks`` and ``device`` ("cuda" or "cpu") belong to
    the ``links``.
    """

    nodes: tuple[NodeFacts, ...] = ()
    clocks: tuple[Clock, ...] = ()
    round_trip_s: float = 0.0
    links: tuple[NetworkTimes, ...] = ()
    ranks: int = 1
    device: str = "cpu"

    @property
    def bandwidth_gb_per_s(self) -> float:
        """Of each rank in the all-reduce, in 10^9 bytes per second: 2 (n - 1) / n x bytes / time, a property of the
        hardware that does not depend on n (as nccl-tests reports it); 0 if nothing was sent."""
        if not self.links:
            return 0.0
        slowest = max(link.all_reduce_s for link in self.links)
        return 2 * (self.ranks - 1) / self.ranks * SENT_BYTES[self.device] / slowest / 1e9


@dataclass(frozen=True)
class NodeProblem:
    """What is wrong with a node; ``node`` is "" if no single one is to blame. ``fatal``: it is unfit to train on."""

    node: str
    what: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.node}: {self.what}" if self.node else self.what


def problems(findings: Findings) -> list[NodeProblem]:
    """All that is wrong, in the nodes' order."""
    hardware = [problem for node in findings.nodes for problem in _hardware(node)]
    return hardware + _disks(findings.nodes) + _clocks(findings) + _links(findings)


def _hardware(node: NodeFacts) -> list[NodeProblem]:
    wrong = []
    if node.gpus_seen < node.gpus_needed:
        wrong.append(NodeProblem(node.node, f"{node.gpus_seen} of {node.gpus_needed} GPUs seen", True))
    if node.complaint:
        wrong.append(NodeProblem(node.node, f"nvidia-smi: {node.complaint}", False))
    for gpu in node.gpus:
        if gpu.uncorrected_errors:
            what = f"GPU {gpu.index} has {gpu.uncorrected_errors:g} uncorrected ECC errors"
            wrong.append(NodeProblem(node.node, what, True))
        if gpu.memory_mib and gpu.free_mib is not None and gpu.free_mib < FREE_SHARE * gpu.memory_mib:
            what = f"GPU {gpu.index} has {gpu.free_mib:g} of {gpu.memory_mib:g} MiB free: another process uses it"
            wrong.append(NodeProblem(node.node, what, False))
    return wrong


def _disks(nodes: Sequence[NodeFacts]) -> list[NodeProblem]:
    """If a disk that all share, or that of each of several nodes, is too full, no node is to blame. If only some nodes
    see the shared disk full, they see another disk: the mount is missing there."""
    wrong = []
    for path in dict.fromkeys(disk.path for node in nodes for disk in node.disks):
        seen = [(node.node, disk) for node in nodes for disk in node.disks if disk.path == path]
        wrong += [NodeProblem(node, f"{path}: {disk.trouble}", False) for node, disk in seen if disk.trouble]
        full = [(node, disk) for node, disk in seen if not disk.trouble and disk.free < disk.needed]
        if full and len(full) == len(seen) and (len(seen) > 1 or full[0][1].shared):
            full = [("", min((disk for _, disk in full), key=lambda disk: disk.free))]
        for node, disk in full:
            what = f"{path}: {disk.free / 1e9:.1f} GB free, {disk.needed / 1e9:.1f} GB needed"
            wrong.append(NodeProblem(node, what, True))
    return wrong


def _clocks(findings: Findings) -> list[NodeProblem]:
    clocks, allowed = findings.clocks, MAX_SKEW_S + findings.round_trip_s
    if len(clocks) == 2:  # either may be the wrong one
        apart = abs(clocks[1].ahead_s - clocks[0].ahead_s)
        what = f"the clocks of {clocks[0].node} and {clocks[1].node} are {apart:.1f} s apart"
        return [NodeProblem("", what, False)] if apart > allowed else []
    usual = median(clock.ahead_s for clock in clocks) if clocks else 0.0
    return [
        NodeProblem(clock.node, f"its clock is {abs(off):.1f} s {'ahead' if off > 0 else 'behind'}", False)
        for clock in clocks
        if abs(off := clock.ahead_s - usual) > allowed
    ]


def _links(findings: Findings) -> list[NodeProblem]:
    """A node is slow if it was slow with each of its partners: otherwise a partner was the slow one."""
    times = {link.node: link.exchange_s for link in findings.links if link.exchange_s is not None}
    if not times:
        return []
    usual = median(times.values())
    limit = max(SLOW * usual, usual + NOISE_S[findings.device])
    return [
        NodeProblem(node, f"slow network: {seconds * 1e3:.0f} ms for what takes {usual * 1e3:.0f} ms elsewhere", False)
        for node, seconds in times.items()
        if seconds > limit
    ]


def parse_gpus(text: str) -> tuple[GpuHealth, ...]:
    """The GPUs that ``nvidia-smi --query-gpu=`` `QUERY` ``--format=csv,noheader,nounits`` prints. Other lines, such as
    messages, are ignored; a value that is not a number, such as ``[N/A]``, is None."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        GpuHealth(int(row[0]), row[1], *map(_number, row[2:]))
        for row in rows
        if len(row) == len(QUERY) and row[0].isdecimal()
    )


def _number(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdecimal() else None


def visible(gpus: Sequence[GpuHealth], setting: str | None) -> tuple[GpuHealth, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names by number or UUID, up to the first unknown one, as in CUDA; all if it
    is not set."""
    if setting is None:
        return tuple(gpus)
    chosen: list[GpuHealth] = []
    for name in map(str.strip, setting.split(",")):
        named = [gpu for gpu in gpus if name == str(gpu.index) or (name[:4] == "GPU-" and gpu.uuid.startswith(name))]
        if len(named) != 1:
            break
        chosen += named
    return tuple(chosen)


def granted(environ: Mapping[str, str]) -> int:
    """GPUs that the job was given here, by ``CUDA_VISIBLE_DEVICES``, which Slurm sets; 0 if it is not set. If a job
    asked for too few, that is not the node's fault."""
    names = map(str.strip, environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return sum(name.isdecimal() or name.startswith(("GPU-", "MIG-")) for name in names)


def settle(ranks: Ranks, findings: Findings, placement: Placement, results: Path, run: str) -> None:
    """Print what is wrong, write the nodes that Slurm can exclude to the register in ``results``, and refuse to train
    on unfit nodes; all ranks call it.

    Raises:
        UnfitNodesError: on rank 0, if a problem is fatal.
        FirstRankFailedError: on the other ranks in that case.
    """
    ranks.decided(lambda: _settle(problems(findings), placement, results, run))


def _settle(wrong: Sequence[NodeProblem], placement: Placement, results: Path, run: str) -> None:
    now = time.time()
    for problem in wrong:
        print(f"node check: {'' if problem.fatal else 'warning: '}{problem}", flush=True)
        if problem.node and placement.scheduler == "slurm":
            try:
                record(results, problem.node, problem.what, fatal=problem.fatal, run=run, job=placement.job, now=now)
            except OSError as error:
                print(f"node check: {results / FILE} cannot be written: {error.strerror}", flush=True)
    fatal = [problem for problem in wrong if problem.fatal]
    if fatal:
        raise UnfitNodesError(
            f"refusing to train on these nodes: {'; '.join(map(str, fatal))}",
            where="node check, before the first step",
            cause=Cause.UNFIT_NODE,
            hint=f"the nodes are listed in {results / FILE}, and the next job excludes them"
            if any(problem.node for problem in fatal)
            else "free the space, or choose another folder; then: bertjobs resume",
        )
