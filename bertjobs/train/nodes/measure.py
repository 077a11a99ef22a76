"""A look at the nodes and at the network between them, before an attempt trains on them.

`look_at_nodes`: GPUs, their memory and ECC errors, free disk space, clocks; before a GPU is used. `measure_network`: a
small all-reduce, and exchanges between pairs of nodes; once the gradients' network is open.
`bertjobs.train.nodes.check` judges the results.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import distributed

from bertjobs.errors import BertjobsError
from bertjobs.run.causes import Cause
from bertjobs.train.nodes.check import (
    QUERY,
    SENT_BYTES,
    Clock,
    Disk,
    Findings,
    GpuHealth,
    NetworkTimes,
    NodeFacts,
    granted,
    parse_gpus,
    visible,
)
from bertjobs.train.placement import Placement, node_name
from bertjobs.train.ranks import Ranks

LOOK_S = 3.0  # time for a file system to answer
SMI_S = 20.0  # and for nvidia-smi, which first loads the driver where nothing else has
MEASURE_S = 30.0  # time for all measurements of the network, which usually take a second
ROUNDS, REPEATS, PAIRINGS = 5, 3, 3
T = TypeVar("T")


def look_at_nodes(
    ranks: Ranks,
    placement: Placement,
    gpus: int,
    disks: Sequence[Disk],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> Findings:
    """Hardware, disks and clocks of all nodes, the same on all ranks; all ranks call it. Takes milliseconds plus
    nvidia-smi's time, at most `SMI_S`.

    Args:
        gpus: GPUs that the run uses on a node.
        disks: folders to look at.
        environ: for PATH, CUDA_VISIBLE_DEVICES and Slurm's name of this node.
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
    known: tuple[GpuHealth, ...] = ()
    complaint = ""
    try:
        if smi:
            known, complaint = smi.result(SMI_S)
    except TimeoutError:
        complaint = f"no answer within {SMI_S:g} s"
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


def _ask_nvidia_smi(environ: Mapping[str, str]) -> tuple[tuple[GpuHealth, ...], str]:
    """The GPUs, and nvidia-smi's complaint, or ""; nothing if there is no such program."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return (), ""
    command = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SMI_S, check=False)
    complaint = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return parse_gpus(done.stdout), complaint[0] if done.returncode else ""


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
    """What ``act`` will return, called in its own thread: a call that hangs in the kernel cannot be interrupted."""
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
    """The clock after each of several barriers, which all ranks leave within a round trip, and the shortest time of a
    barrier, in seconds."""
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
    """How fast the ranks reach each other over the gradients' network; the same on all ranks, all of which call it
    after `Ranks.connect_gradients`. Takes less than a second if nothing is wrong.

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
            hint="see what NCCL_DEBUG=INFO prints about the network, and whether a node of the job is down",
            cause=Cause.UNFIT_NODE,
        ) from None
    everywhere = _gathered(ranks, (node_name(environ), own))
    links = [link_of(everywhere[of_node[0]][0], [everywhere[rank][1] for rank in of_node]) for of_node in nodes]
    findings = Findings(links=tuple(links), ranks=ranks.size, device=device.type)
    ranks.say(f"a sum over {ranks.size} ranks transfers {findings.bandwidth_gb_per_s:.3g} GB/s in and out of each")
    return findings


def _summed(ranks: Ranks, tensor: torch.Tensor) -> None:
    ranks.sum_on_device(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _measured(ranks: Ranks, nodes: Sequence[Sequence[int]], tensor: torch.Tensor) -> list[float | None]:
    """Seconds of an all-reduce, and of an exchange with each partner, None without one; ``nodes`` holds their ranks."""
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


def partners(node: int, nodes: int) -> list[int | None]:
    """The node's partner in each of `PAIRINGS` exchanges, None if it is left over.

    In round r the nodes whose numbers add up to r (modulo their count) are a pair, as in a tournament. With three or
    more nodes each has at least two different partners.
    """
    return [None if other == node else other for other in ((turn - node) % nodes for turn in range(PAIRINGS))]


def _shortest(act: Callable[[], None]) -> float:
    """Seconds that ``act`` takes when all ranks begin it together: the shortest of several, after one warm-up."""
    act()
    took = []
    for _ in range(REPEATS):
        distributed.barrier()
        began = time.monotonic()
        act()
        took.append(time.monotonic() - began)
    return min(took)


def link_of(node: str, took: Sequence[Sequence[float | None]]) -> NetworkTimes:
    """A node's link from what its ranks measured, each an all-reduce and one exchange per partner. The ranks share the
    node's network: of each measurement the slowest rank counts. A partner may itself be slow: the fastest exchange
    counts.
    """
    slowest = [max(column) for column in zip(*took, strict=True) if None not in column]
    return NetworkTimes(node, slowest[0], min(slowest[1:], default=None))
