"""Where the time of an optimizer step goes, by torch's profiler: the shares of a few kinds of work.

On a GPU the seconds are those of its kernels and copies, each with the operation that launched it, and "idle" is what
is left of the wall time. On a CPU they are the operations' own seconds in the calling thread, which waits for the
others; the rest is Python and the framework between operations.

The profiler slows down steps of many small operations: the wall time is that of a step without it.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bertjobs.bench.device import Device
from bertjobs.bench.sequences import BenchData
from bertjobs.bench.sweep import Rank, TimedOptimizer, rank_step
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.train.pretraining.measures import counts_of

ATTENTION, PRODUCTS, ELEMENTWISE = "attention", "matrix products", "elementwise, normalisation, dropout"
INDEXING, LOSS, COPIES = "embeddings, rows, indices", "losses of the heads", "copies to the GPU"
OPTIMIZER, DATA, REST = "optimizer", "waiting for data", "idle, Python"
KINDS = (ATTENTION, PRODUCTS, ELEMENTWISE, INDEXING, LOSS, COPIES, OPTIMIZER, DATA, REST)

_OPTIMIZER_RANGE = "bertjobs optimizer step"

_BY_CALLER = (
    (OPTIMIZER, _OPTIMIZER_RANGE + "|zero_grad"),
    (ATTENTION, r"attention|flash|fmha|_PerSequence|_Grouped|sdpa|varlen"),
)
"""Kinds by the name of an operation, of its kernel, or of any operation that it is part of; the first counts."""

_BY_NAME = (
    (COPIES, r"memcpy.*(htod|host)|pin_memory"),
    (PRODUCTS, r"gemm|aten::(mm|addmm|bmm|baddbmm|linear)|mkl_linear|cutlass|cublas|nvjet|xmma|wgrad|dgrad"),
    (LOSS, r"cross_entropy|nll_loss|log_softmax|softmax|argmax"),
    (INDEXING, r"embedding|index|gather|scatter|sort|nonzero|aten::(cat|searchsorted|where)|radix"),
)
"""Kinds by the name of the operation or its kernel alone; what fits none is elementwise."""

_FRAMEWORK = re.compile(r"autograd::|\w+Backward\d*$|Optimizer\.")
"""Operations whose own seconds are spent between others: autograd's, and marks."""


@dataclass(frozen=True)
class Profile:
    """One phase's shares.

    Attributes:
        micro_batches, sequences: of the profiled step.
        wall_s: of that step, without the profiler.
        shares: by kind, of the wall time of a recipe's step; they sum to 1.
        top: the longest operations or kernels: name, kind, share.
    """

    phase: int
    device: Device
    forward: str
    micro_batch: int
    micro_batches: int
    sequences: int
    wall_s: float
    shares: dict[str, float]
    top: tuple[tuple[str, str, float], ...]


class _MarkedOptimizer(TimedOptimizer):
    """An optimizer whose work can be recognised in a profile."""

    def step(self, gradient_scale: float = 1.0) -> Any:
        with record_function(_OPTIMIZER_RANGE):
            return super().step(gradient_scale)


def profile_phase(
    spec: RunSpec,
    phase: PhaseSpec,
    data: BenchData,
    device: torch.device,
    *,
    micro_batch: int,
    micro_batches: int = 4,
) -> Profile:
    """The shares of a recipe's step on one rank, from a profiled step of a few micro-batches.

    The optimizer's and the data's seconds are counted as often as they occur in a recipe's step of all micro-batches.
    Data are built while the device computes; only what takes longer than that is waited for.
    """
    torch.compiler.reset()  # it compiles a function for a few shapes only
    spec = replace(spec, model=replace(spec.model, vocab_size=spec.model.vocab_size or data.vocabulary_size))
    rank = Rank(spec, phase, device)
    rank.optimizer = _MarkedOptimizer(rank.optimizer.optimizer, device)
    started = time.perf_counter()
    whole = rank_step(spec, phase, data, micro_batch, device)
    building = time.perf_counter() - started
    few = [whole[int((number + 0.5) * len(whole) / micro_batches)] for number in range(min(micro_batches, len(whole)))]
    for _ in range(2):
        rank.step(few)
    computing, updating = min((rank.step(few) for _ in range(3)), key=sum)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        profiled = sum(rank.step(few))
    wall = computing + updating
    pieces = list(_pieces(profiler.events() or [], device))
    times = len(whole) / len(few)  # profiled steps in a recipe's
    step_s = times * computing + updating
    waiting = max(0.0, building - step_s) if spec.num_workers else building
    seconds = _seconds(pieces, profiled, wall, device, times)
    seconds[OPTIMIZER] = updating
    seconds[DATA] = waiting
    seconds[REST] = max(0.0, step_s + waiting - sum(seconds[kind] for kind in KINDS if kind != REST))
    total = sum(seconds.values())
    return Profile(
        phase=phase.phase,
        device=Device.of(device),
        forward=rank.forward.describe(),
        micro_batch=micro_batch,
        micro_batches=len(few),
        sequences=counts_of(few).sequences,
        wall_s=wall,
        shares={kind: seconds[kind] / total for kind in KINDS},
        top=_longest(pieces),
    )


@dataclass(frozen=True)
class _Piece:
    """Seconds of one operation or kernel."""

    name: str
    kind: str
    seconds: float


def _seconds(
    pieces: Sequence[_Piece], profiled_s: float, wall_s: float, device: torch.device, times: float
) -> dict[str, float]:
    """By kind, seconds of a recipe's step.

    The profiler stretches a CPU's operations: there they are scaled to the wall time without it.
    """
    scale = times * (min(1.0, wall_s / profiled_s) if device.type == "cpu" else 1.0)
    seconds: dict[str, float] = defaultdict(float)
    for piece in pieces:
        seconds[piece.kind] += scale * piece.seconds
    return seconds


def _pieces(events: Iterable[Any], device: torch.device) -> Iterator[_Piece]:
    """Where the time of a profile went: a GPU's kernels and copies, or a CPU's operations without those inside them."""
    for event in events:
        if "CPU" not in str(event.device_type) or event.name == _OPTIMIZER_RANGE:
            continue
        if device.type == "cuda":
            for kernel in event.kernels:
                yield _Piece(kernel.name, _kind(event, kernel.name), kernel.duration / 1e6)
        elif event.self_cpu_time_total > 0 and not _FRAMEWORK.match(event.name):
            yield _Piece(event.name, _kind(event, event.name), event.self_cpu_time_total / 1e6)


def _kind(event: Any, name: str) -> str:
    """What an operation is: by its callers, its own name, and its kernel's."""
    callers = [name]
    caller: Any = event
    while caller is not None:
        callers.append(caller.name)
        caller = caller.cpu_parent
    for kind, pattern in _BY_CALLER:
        if any(re.search(pattern, caller, re.IGNORECASE) for caller in callers):
            return kind
    for kind, pattern in _BY_NAME:
        if any(re.search(pattern, own, re.IGNORECASE) for own in (name, event.name)):
            return kind
    return ELEMENTWISE


def _longest(pieces: Sequence[_Piece], count: int = 15) -> tuple[tuple[str, str, float], ...]:
    """The names that took longest: name, kind, share of all pieces."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for piece in pieces:
        seconds[piece.name, piece.kind] += piece.seconds
    total = sum(seconds.values()) or 1.0
    first = sorted(seconds.items(), key=lambda item: -item[1])[:count]
    return tuple((name[:100], kind, took / total) for (name, kind), took in first)
