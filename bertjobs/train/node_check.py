"""A look at the nodes before an attempt trains on them, so that a bad one costs seconds and not the night.

`look_at_nodes`: GPUs, their memory and ECC errors, free disk, clocks; before a GPU is used. `measure_network`: a small
all-reduce, and what nodes exchange in pairs; once the gradients' network is open. `problems` decides
what is wrong and with which node, and `settle` says it, writes suspect nodes into the register, and refuses to train
where it would be useless.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import distributed

from bertjobs.errors import BertjobsError
from bertjobs.run.nodes import FILE, record
from bertjobs.train.placement import Placement
from bertjobs.train.ranks import Ranks

LOOK_S = 3.0  # for a program or a file system to answer
MEASURE_S = 30.0  # for all measurements of the network, which take a second
FREE_SHARE = 0.8  # of a GPU's memory, below which somebody else uses it
MAX_SKEW_S = 2.0
SLOW = 3.0  # times the usual
NOISE_S = {"cuda": 0.001, "cpu": 0.05}  # a difference below this says nothing
SENT_BYTES = {"cuda": 64_000_000, "cpu": 4_000_000}
ROUNDS, REPEATS, PAIRINGS = 5, 3, 3
QUERY = ("index", "uuid", "memory.total", "memory.free", "ecc.errors.uncorrected.volatile.total")
T = TypeVar("T")


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
class Link:
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
    links: tuple[Link, ...] = ()
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
class Problem:
    """What is wrong with a node; "" where no single node is to blame. ``fatal``: training there is useless."""

    node: str
    what: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.node}: {self.what}" if self.node else self.what


def problems(findings: Findings) -> list[Problem]:
    """All that is wrong, in the nodes' order."""
    found = [problem for node in findings.nodes for problem in _hardware(node)]
    return found + _disks(findings.nodes) + _clocks(findings) + _links(findings)


def _hardware(node: NodeFacts) -> list[Problem]:
    found = []
    if node.gpus_seen < node.gpus_needed:
        found.append(Problem(node.node, f"{node.gpus_seen} of {node.gpus_needed} GPUs seen", True))
    if node.complaint:
        found.append(Problem(node.node, f"nvidia-smi: {node.complaint}", False))
    for gpu in node.gpus:
        if gpu.uncorrected_errors:
            what = f"GPU {gpu.index} has {gpu.uncorrected_errors:g} uncorrected ECC errors"
            found.append(Problem(node.node, what, True))
        if gpu.memory_mib and gpu.free_mib is not None and gpu.free_mib < FREE_SHARE * gpu.memory_mib:
            what = f"GPU {gpu.index} has {gpu.free_mib:g} of {gpu.memory_mib:g} MiB free: another process uses it"
            found.append(Problem(node.node, what, False))
    return found


def _disks(nodes: Sequence[NodeFacts]) -> list[Problem]:
    """Where a disk that all share, or that of each of several nodes, is too full, no node is to blame. Where only some
    nodes see the shared disk full, they see another one: its mount is missing there."""
    found = []
    for path in dict.fromkeys(disk.path for node in nodes for disk in node.disks):
        seen = [(node.node, disk) for node in nodes for disk in node.disks if disk.path == path]
        found += [Problem(node, f"{path}: {disk.trouble}", False) for node, disk in seen if disk.trouble]
        full = [(node, disk) for node, disk in seen if not disk.trouble and disk.free < disk.needed]
        if full and len(full) == len(seen) and (len(seen) > 1 or full[0][1].shared):
            full = [("", min((disk for _, disk in full), key=lambda disk: disk.free))]
        for node, disk in full:
            what = f"{path}: {disk.free / 1e9:.1f} GB free, {disk.needed / 1e9:.1f} GB needed"
            found.append(Problem(node, what, True))
    return found


def _clocks(findings: Findings) -> list[Problem]:
    clocks, allowed = findings.clocks, MAX_SKEW_S + findings.round_trip_s
    if len(clocks) == 2:  # either may be the wrong one
        apart = abs(clocks[1].ahead_s - clocks[0].ahead_s)
        what = f"the clocks of {clocks[0].node} and {clocks[1].node} are {apart:.1f} s apart"
        return [Problem("", what, False)] if apart > allowed else []
    usual = median(clock.ahead_s for clock in clocks) if clocks else 0.0
    return [
        Problem(clock.node, f"its clock is {abs(off):.1f} s {'ahead' if off > 0 else 'behind'}", False)
        for clock in clocks
        if abs(off := clock.ahead_s - usual) > allowed
    ]


def _links(findings: Findings) -> list[Problem]:
    """A node is slow if it is so with each of its partners: else the partner was."""
    times = {link.node: link.exchange_s for link in findings.links if link.exchange_s is not None}
    if not times:
        return []
    usual = median(times.values())
    limit = max(SLOW * usual, usual + NOISE_S[findings.device])
    return [
        Problem(node, f"slow network: {seconds * 1e3:.0f} ms for what takes {usual * 1e3:.0f} ms elsewhere", False)
        for node, seconds in times.items()
        if seconds > limit
    ]


def partners(node: int, nodes: int) -> list[int | None]:
    """Whom a node exchanges with in each of `PAIRINGS`, None where it is left over.

    In round r the nodes whose numbers add up to r (modulo their number) are a pair, as in a tournament. Among three
    nodes or more each has two different partners at least.
    """
    return [None if other == node else other for other in ((turn - node) % nodes for turn in range(PAIRINGS))]


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


def look_at_nodes(
    ranks: Ranks,
    placement: Placement,
    gpus: int,
    disks: Sequence[Disk],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> Findings:
    """Hardware, disks and clocks of all nodes, the same on all ranks, all of which call it. Takes
    milliseconds and what nvidia-smi takes, but `LOOK_S` at most.

    Args:
        gpus: GPUs that the run uses on a node.
        disks: folders to look at.
        environ: where PATH, CUDA_VISIBLE_DEVICES and Slurm's name of this node are read.
        clock: this node's time of day, in seconds.
    """
    facts = _look(gpus, disks, environ) if placement.local_rank == 0 else None
    seen = _gathered(ranks, (node_name(environ), facts))
    stamps, round_trip_s = _stamps(ranks, clock)
    everywhere = _gathered(ranks, (stamps, round_trip_s))
    first = everywhere[0][0]
    offsets = [median(own - its for own, its in zip(stamps, first, strict=True)) for stamps, _ in everywhere]
    clocks = [
        Clock(seen[of_node[0]][0], median(offsets[rank] for rank in of_node))
        for of_node in _by_node([name for name, _ in seen])
    ]
    return Findings(
        nodes=tuple(facts for _, facts in seen if facts),
        clocks=tuple(clocks),
        round_trip_s=max(took for _, took in everywhere),
        ranks=ranks.size,
    )


def node_name(environ: Mapping[str, str]) -> str:
    """This node as Slurm calls it, else as it calls itself."""
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def _by_node(names: Sequence[str]) -> list[list[int]]:
    """The ranks of each node, from each rank's node."""
    groups: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        groups.setdefault(name, []).append(rank)
    return list(groups.values())


def _look(gpus: int, disks: Sequence[Disk], environ: Mapping[str, str]) -> NodeFacts:
    smi = _started(lambda: _ask_nvidia_smi(environ)) if gpus else None
    free = [_started(lambda path=disk.path: _free(Path(path))) for disk in disks]  # type: ignore[misc]
    deadline = time.monotonic() + LOOK_S
    known: tuple[Gpu, ...] = ()
    complaint = ""
    try:
        if smi:
            known, complaint = smi.result(_left(deadline))
    except TimeoutError:
        complaint = f"no answer within {LOOK_S:g} s"
    except OSError as error:
        complaint = error.strerror or type(error).__name__
    return NodeFacts(
        node=node_name(environ),
        gpus_needed=min(gpus, granted(environ)),
        gpus_seen=torch.cuda.device_count() if gpus else 0,
        gpus=visible(known, environ.get("CUDA_VISIBLE_DEVICES")),
        complaint=complaint,
        disks=tuple(_answered(disk, answer, deadline) for disk, answer in zip(disks, free, strict=True)),
    )


def _ask_nvidia_smi(environ: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str]:
    """The GPUs, and what it complains of; nothing where there is no such program."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return (), ""
    command = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LOOK_S, check=False)
    said = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return parse_gpus(done.stdout), said[0] if done.returncode else ""


def _free(folder: Path) -> int:
    """Bytes that are free where ``folder`` is or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _answered(disk: Disk, answer: Future[int], deadline: float) -> Disk:
    try:
        return replace(disk, free=answer.result(_left(deadline)))
    except TimeoutError:
        return replace(disk, trouble=f"no answer within {LOOK_S:g} s")
    except OSError as error:
        return replace(disk, trouble=error.strerror or type(error).__name__)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _started(act: Callable[[], T]) -> Future[T]:
    """What ``act`` will return, in a thread of its own: what hangs in the kernel cannot be interrupted."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(act())
        except subprocess.TimeoutExpired:
            result.set_exception(TimeoutError())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, name="node check", daemon=True).start()
    return result


def _gathered(ranks: Ranks, value: T) -> list[T]:
    """Each rank's ``value``."""
    if ranks.size == 1:
        return [value]
    values: list = [None] * ranks.size
    distributed.all_gather_object(values, value)
    return values


def _stamps(ranks: Ranks, clock: Callable[[], float]) -> tuple[list[float], float]:
    """The clock after each of several barriers, which all ranks leave within a round trip, and the shortest time that a
    barrier took, in seconds."""
    if ranks.size == 1:
        return [clock()] * ROUNDS, 0.0
    stamps, took = [], []
    for _ in range(ROUNDS):
        began = time.monotonic()
        distributed.barrier()
        stamps.append(clock())
        took.append(time.monotonic() - began)
    return stamps, min(took)


def measure_network(
    ranks: Ranks, device: torch.device, environ: Mapping[str, str], limit_s: float = MEASURE_S
) -> Findings:
    """How fast the ranks reach each other over the network that the gradients take; the same on all ranks, all of which
    call it after `Ranks.connect_gradients`. Takes less than a second where nothing is wrong.

    Raises:
        BertjobsError: the measurement did not end within ``limit_s``.
    """
    if ranks.size == 1:
        return Findings(device=device.type)
    nodes = _by_node(_gathered(ranks, node_name(environ)))
    tensor = torch.zeros(SENT_BYTES[device.type] // 4, device=device)
    _summed(ranks, tensor)  # the first opens the connections, and waits for whoever is late
    try:
        own = _started(lambda: _measured(ranks, nodes, tensor)).result(limit_s)
    except TimeoutError:
        raise BertjobsError(
            f"a test of the network between {ranks.size} ranks did not end within {limit_s:g} s",
            where=f"{node_name(environ)}, rank {ranks.rank}, {device.type}",
            hint="see what NCCL_DEBUG=INFO says of the network, and whether a node of the job is down",
        ) from None
    everywhere = _gathered(ranks, (node_name(environ), own))
    links = [link_of(everywhere[of_node[0]][0], [everywhere[rank][1] for rank in of_node]) for of_node in nodes]
    findings = Findings(links=tuple(links), ranks=ranks.size, device=device.type)
    ranks.say(f"a sum over {ranks.size} ranks moves {findings.bandwidth_gb_per_s:.3g} GB/s to and from each")
    return findings


def _summed(ranks: Ranks, tensor: torch.Tensor) -> None:
    ranks.sum_on_device(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _measured(ranks: Ranks, nodes: Sequence[Sequence[int]], tensor: torch.Tensor) -> list[float | None]:
    """Seconds of an all-reduce, and of an exchange with each partner, None without one; ``nodes`` are their ranks."""
    if tensor.is_cuda:
        torch.cuda.set_device(tensor.device)  # each thread has its own
    took: list[float | None] = [_shortest(lambda: _summed(ranks, tensor))]
    if len(nodes) < 3 or len({len(of_node) for of_node in nodes}) > 1:
        return took
    received = torch.empty_like(tensor)
    node = next(number for number, of_node in enumerate(nodes) if ranks.rank in of_node)
    place = nodes[node].index(ranks.rank)

    def exchange(other: int | None) -> None:
        if other is None:
            return
        pairs = ((distributed.isend, tensor), (distributed.irecv, received))
        operations = [distributed.P2POp(act, what, nodes[other][place], group=ranks.gradients) for act, what in pairs]
        for work in distributed.batch_isend_irecv(operations):
            work.wait()
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)

    for other in partners(node, len(nodes)):
        seconds = _shortest(lambda other=other: exchange(other))  # type: ignore[misc]
        took.append(None if other is None else seconds)
    return took


def _shortest(act: Callable[[], None]) -> float:
    """Seconds that ``act`` takes where all ranks begin it together: the shortest of several, after one for nothing."""
    act()
    took = []
    for _ in range(REPEATS):
        distributed.barrier()
        began = time.monotonic()
        act()
        took.append(time.monotonic() - began)
    return min(took)


def link_of(node: str, took: Sequence[Sequence[float | None]]) -> Link:
    """A node's link from what its ranks measured, each an all-reduce and an exchange a partner. The ranks share the
    node's network: of each measurement the slowest counts. A partner may be slow itself: of these the fastest counts.
    """
    slowest = [max(column) for column in zip(*took, strict=True) if None not in column]
    return Link(node, slowest[0], min(slowest[1:], default=None))


def settle(ranks: Ranks, findings: Findings, placement: Placement, results: Path, run: str) -> None:
    """Say what is wrong, write the nodes that Slurm can exclude into the register below ``results``, and refuse to
    train where it would be useless; all ranks call it.

    Raises:
        UnfitNodesError: on rank 0: a problem is fatal.
        FirstRankFailedError: on the other ranks then.
    """
    ranks.decided(lambda: _settle(problems(findings), placement, results, run))


def _settle(found: Sequence[Problem], placement: Placement, results: Path, run: str) -> None:
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
            f"training would be useless: {'; '.join(map(str, fatal))}",
            where="node check, before the first step",
            hint=f"the nodes stand in {results / FILE}, and the next job excludes them"
            if any(problem.node for problem in fatal)
            else "free the space, or choose another folder; then: bertjobs resume",
        )
