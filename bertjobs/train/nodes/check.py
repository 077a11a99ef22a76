"""What is wrong with the nodes before an attempt trains on them, so that a bad one costs seconds and not the night.

`bertjobs.train.nodes.measure` looks and measures. `problems` decides what is wrong and with which node, and `settle`
says it, writes suspect nodes into the register, and refuses to train where it would be useless.
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

FREE_SHARE = 0.8  # of a GPU's memory, below which somebody else uses it
MAX_SKEW_S = 2.0
SLOW = 3.0  # times the usual
NOISE_S = {"cuda": 0.001, "cpu": 0.05}  # a difference below this says nothing
SENT_BYTES = {"cuda": 64_000_000, "cpu": 4_000_000}
QUERY = ("index", "uuid", "memory.total", "memory.free", "ecc.errors.uncorrected.volatile.total")


class UnfitNodesError(BertjobsError):
    """Training was refused because of a node, or of a disk that all nodes share."""


@dataclass(frozen=True)
class Gpu:
    """A line of nvidia-smi: memory in MiB, uncorrected ECC errors since the driver was loaded; None: not told."""

    index: int
    uuid: str
    memory_mib: float | None
    free_mib: float | None
    uncorrected_errors: float | None


@dataclass(frozen=True)
class Disk:
    """A folder, the bytes that must be free where it lies, and those that are; ``trouble`` says why that is not known.

    ``shared``: all nodes are to see the same disk.
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
    where there is no nvidia-smi.
    """

    node: str
    gpus_needed: int
    gpus_seen: int
    gpus: tuple[Gpu, ...]
    complaint: str
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class Clock:
    """How far a node's clock is ahead of the first node's, in seconds."""

    node: str
    ahead_s: float


@dataclass(frozen=True)
class NetworkTimes:
    """Seconds that a node takes for ``SENT_BYTES`` a rank, by its slowest rank: for a sum over all ranks, which tells
    nothing of single nodes, and to exchange them with another node, the faster of several; None: there are not three.
    """

    node: str
    all_reduce_s: float
    exchange_s: float | None = None


@dataclass(frozen=True)
class Findings:
    """Of one look or measurement, the nodes in order of their ranks.

    ``round_trip_s`` is how well the clocks could be compared. ``ranks`` and ``device`` ("cuda" or "cpu") tell what the
    links mean.
    """

    nodes: tuple[NodeFacts, ...] = ()
    clocks: tuple[Clock, ...] = ()
    round_trip_s: float = 0.0
    links: tuple[NetworkTimes, ...] = ()
    ranks: int = 1
    device: str = "cpu"

    @property
    def bandwidth_gb_per_s(self) -> float:
        """Of each rank in the all-reduce, in 10^9 bytes a second: 2 (n - 1) / n x bytes / time, which is the hardware's
        and does not depend on n (as nccl-tests reports it); 0 where nothing was sent."""
        if not self.links:
            return 0.0
        slowest = max(link.all_reduce_s for link in self.links)
        return 2 * (self.ranks - 1) / self.ranks * SENT_BYTES[self.device] / slowest / 1e9


@dataclass(frozen=True)
class NodeProblem:
    """What is wrong with a node; "" where no single node is to blame. ``fatal``: training there is useless."""

    node: str
    what: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.node}: {self.what}" if self.node else self.what


def problems(findings: Findings) -> list[NodeProblem]:
    """All that is wrong, in the nodes' order."""
    found = [problem for node in findings.nodes for problem in _hardware(node)]
    return found + _disks(findings.nodes) + _clocks(findings) + _links(findings)


def _hardware(node: NodeFacts) -> list[NodeProblem]:
    found = []
    if node.gpus_seen < node.gpus_needed:
        found.append(NodeProblem(node.node, f"{node.gpus_seen} of {node.gpus_needed} GPUs seen", True))
    if node.complaint:
        found.append(NodeProblem(node.node, f"nvidia-smi: {node.complaint}", False))
    for gpu in node.gpus:
        if gpu.uncorrected_errors:
            what = f"GPU {gpu.index} has {gpu.uncorrected_errors:g} uncorrected ECC errors"
            found.append(NodeProblem(node.node, what, True))
        if gpu.memory_mib and gpu.free_mib is not None and gpu.free_mib < FREE_SHARE * gpu.memory_mib:
            what = f"GPU {gpu.index} has {gpu.free_mib:g} of {gpu.memory_mib:g} MiB free: another process uses it"
            found.append(NodeProblem(node.node, what, False))
    return found


def _disks(nodes: Sequence[NodeFacts]) -> list[NodeProblem]:
    """Where a disk that all share, or that of each of several nodes, is too full, no node is to blame. Where only some
    nodes see the shared disk full, they see another one: its mount is missing there."""
    found = []
    for path in dict.fromkeys(disk.path for node in nodes for disk in node.disks):
        seen = [(node.node, disk) for node in nodes for disk in node.disks if disk.path == path]
        found += [NodeProblem(node, f"{path}: {disk.trouble}", False) for node, disk in seen if disk.trouble]
        full = [(node, disk) for node, disk in seen if not disk.trouble and disk.free < disk.needed]
        if full and len(full) == len(seen) and (len(seen) > 1 or full[0][1].shared):
            full = [("", min((disk for _, disk in full), key=lambda disk: disk.free))]
        for node, disk in full:
            what = f"{path}: {disk.free / 1e9:.1f} GB free, {disk.needed / 1e9:.1f} GB needed"
            found.append(NodeProblem(node, what, True))
    return found


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
    """A node is slow if it is so with each of its partners: else the partner was."""
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


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs of ``nvidia-smi --query-gpu=`` `QUERY` ``--format=csv,noheader,nounits``. Lines of another form, such as
    messages, are passed over; a value that is not a number, such as ``[N/A]``, is None."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(int(row[0]), row[1], *map(_number, row[2:]))
        for row in rows
        if len(row) == len(QUERY) and row[0].isdecimal()
    )


def _number(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdecimal() else None


def visible(gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names by number or UUID, up to the first that is unknown, as CUDA has it; all
    where it is not set."""
    if setting is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for name in map(str.strip, setting.split(",")):
        found = [gpu for gpu in gpus if name == str(gpu.index) or (name[:4] == "GPU-" and gpu.uuid.startswith(name))]
        if len(found) != 1:
            break
        chosen += found
    return tuple(chosen)


def granted(environ: Mapping[str, str]) -> int:
    """GPUs that the job was given here, by ``CUDA_VISIBLE_DEVICES``, which Slurm sets; 0 where it does not say. That a
    job asked for too few is no fault of the node's."""
    names = map(str.strip, environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return sum(name.isdecimal() or name.startswith(("GPU-", "MIG-")) for name in names)


def settle(ranks: Ranks, findings: Findings, placement: Placement, results: Path, run: str) -> None:
    """Say what is wrong, write the nodes that Slurm can exclude into the register below ``results``, and refuse to
    train where it would be useless; all ranks call it.

    Raises:
        UnfitNodesError: on rank 0: a problem is fatal.
        FirstRankFailedError: on the other ranks then.
    """
    ranks.decided(lambda: _settle(problems(findings), placement, results, run))


def _settle(found: Sequence[NodeProblem], placement: Placement, results: Path, run: str) -> None:
    now = time.time()
    for problem in found:
        print(f"node check: {'' if problem.fatal else 'warning: '}{problem}", flush=True)
        if problem.node and placement.scheduler == "slurm":
            try:
                record(results, problem.node, problem.what, fatal=problem.fatal, run=run, job=placement.job, now=now)
            except OSError as error:
                print(f"node check: {results / FILE} cannot be written: {error.strerror}", flush=True)
    fatal = [problem for problem in found if problem.fatal]
    if fatal:
        raise UnfitNodesError(
            f"refusing to train on these nodes: {'; '.join(map(str, fatal))}",
            where="node check, before the first step",
            cause=Cause.UNFIT_NODE,
            hint=f"the nodes stand in {results / FILE}, and the next job excludes them"
            if any(problem.node for problem in fatal)
            else "free the space, or choose another folder; then: bertjobs resume",
        )
