"""Throughput of a recipe on this machine: one rank's optimizer steps, over a sweep of micro-batch sizes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bertjobs.bench.device import Device, available_gb, is_out_of_memory, product_rate, wait_for
from bertjobs.bench.sequences import BenchData, open_data
from bertjobs.data.batches.batches import BatchStream, MicroBatch
from bertjobs.data.batches.packed_batches import packing_limits
from bertjobs.errors import BertjobsError
from bertjobs.files.json_lines import append_line
from bertjobs.optim.base import Optimizer
from bertjobs.optim.build import build_optimizer
from bertjobs.recipe.flops import step_flops
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.bench_file import BENCH_FILE
from bertjobs.train.device import peak_memory_gb
from bertjobs.train.pretraining.forward import Forward, model_of, open_forward
from bertjobs.train.pretraining.measures import counts_of, divisors_of
from bertjobs.train.step import StepPlan, train_step

LEARNING_RATE = 1e-6
"""The weights hardly change, so that no number grows beyond fp16; the work is the same at any other rate."""

SMALLEST = 4  # the sweep begins with the recipe's micro-batch divided by this
SPARE = 1.25  # times the memory that the next size is expected to take: it must be free on a CPU


@dataclass(frozen=True)
class Measurement:
    """One rank on micro-batches of one size. Rates are those of the recipe's whole step, its optimizer included.

    Attributes:
        micro_batch: sequences of a padded micro-batch; of a pack, ``token_budget`` = this times the sequence length
            is what it may take at most.
        gradient_steps: GRADIENT_STEPS that gives the recipe this micro-batch.
        pack_tokens: mean tokens of a pack or of a padded micro-batch, padding included.
        efficiency: share of them that are real tokens.
        sequences_per_s, tokens_per_s: tokens are real ones.
        flops_per_s: model FLOP/s, see `bertjobs.recipe.flops`.
        peak_share: of it in the matrix-product rate of the same device, run and number format.
        peak_memory_gb: GB of 10^9 bytes: tensors on a GPU, else all of the process so far.
        forward_backward_s: of the micro-batches of one recipe step of a rank.
        optimizer_s: of one optimizer step.
        spread: (slowest - fastest) / median of the repeats' times.
        measured_micro_batches: in all repeats together.
    """

    phase: int
    micro_batch: int
    gradient_steps: int
    token_budget: int
    pack_tokens: float
    efficiency: float
    sequences_per_s: float
    tokens_per_s: float
    flops_per_s: float
    peak_share: float
    peak_memory_gb: float
    forward_backward_s: float
    optimizer_s: float
    spread: float
    measured_micro_batches: int

    @property
    def optimizer_share(self) -> float:
        """Of the recipe's step, 0 to 1."""
        return self.optimizer_s / (self.optimizer_s + self.forward_backward_s)


@dataclass(frozen=True)
class Sweep:
    """One phase's measurements.

    Attributes:
        product_flops_per_s: the device's matrix products in the recipe's number format, the peak.
        forward: how micro-batches are computed, in words.
        source: the sequences', in words.
        optimizer: its name and backend.
        ended: why no larger micro-batch was tried.
        is_whole: whether all sizes that `micro_batch_sizes` gives were to be tried, not given ones.
    """

    phase: PhaseSpec
    device: Device
    source: str
    forward: str
    optimizer: str
    product_flops_per_s: float
    measurements: tuple[Measurement, ...]
    ended: str
    is_whole: bool = True

    @property
    def best(self) -> Measurement:
        """The fastest; of those within 1% of it, the one of the smallest micro-batch."""
        fastest = max(measurement.sequences_per_s for measurement in self.measurements)
        return next(one for one in self.measurements if one.sequences_per_s >= 0.99 * fastest)


def micro_batch_sizes(phase: PhaseSpec) -> list[int]:
    """What a sweep tries: the recipe's micro-batch, halved and doubled, as far as it divides the rank batch."""
    sizes = {phase.micro_batch}
    smaller = phase.micro_batch
    while smaller % 2 == 0 and phase.micro_batch < SMALLEST * smaller:
        smaller //= 2
        sizes.add(smaller)
    larger = 2 * phase.micro_batch
    while phase.rank_batch % larger == 0:
        sizes.add(larger)
        larger *= 2
    return sorted(sizes)


class TimedOptimizer:
    """An optimizer whose steps' seconds are added up in ``seconds``."""

    def __init__(self, optimizer: Optimizer, device: torch.device):
        self.optimizer, self.device, self.seconds = optimizer, device, 0.0

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self, gradient_scale: float = 1.0) -> Any:
        wait_for(self.device)
        started = time.perf_counter()
        result = self.optimizer.step(gradient_scale)
        wait_for(self.device)
        self.seconds += time.perf_counter() - started
        return result


class Rank:
    """One rank of a recipe's phase: its model, forward pass and optimizer."""

    def __init__(self, spec: RunSpec, phase: PhaseSpec, device: torch.device):
        torch.manual_seed(spec.seed)
        self.spec, self.phase, self.device = spec, phase, device
        with device:  # initialised there: on a CPU, BERT-large takes seconds
            self.model = model_of(spec)
        self.forward: Forward = open_forward(self.model, spec, device)
        optimizer = build_optimizer(self.model, spec.optimizer, LEARNING_RATE, device=device)
        self.optimizer = TimedOptimizer(optimizer, device)
        self.steps = 0

    def step(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, float]:
        """An optimizer step: seconds of the micro-batches, and of the update.

        Raises:
            BertjobsError: the gradients are not finite, so that the update was skipped and its time says nothing.
        """
        plan = StepPlan(
            world_size=1,
            precision=self.spec.precision,
            seed=self.spec.seed,
            number=self.steps,
            divisors=divisors_of(counts_of(micro_batches), next_sentence=self.spec.next_sentence),
            loss_scale=128.0 if self.spec.precision == "fp16" else 1.0,
        )
        self.optimizer.seconds = 0.0
        wait_for(self.device)
        started = time.perf_counter()
        result = train_step(self.forward, self.optimizer, micro_batches, plan, self.device)  # type: ignore[arg-type]
        wait_for(self.device)
        whole = time.perf_counter() - started
        if result.skipped:
            raise BertjobsError("the gradients are not finite", hint="choose another precision")
        self.steps += 1
        return whole - self.optimizer.seconds, self.optimizer.seconds


def rank_step(
    spec: RunSpec, phase: PhaseSpec, data: BenchData, micro_batch: int, device: torch.device
) -> list[MicroBatch]:
    """The micro-batches of rank 0 in a step of the recipe, as a run would cut its global batch; padded ones as many as
    are full."""
    batch, ranks, limits = max(micro_batch, phase.rank_batch - phase.rank_batch % micro_batch), 1, None
    if spec.is_unpadded:
        most, longest = micro_batch * phase.sequence_length, phase.sequence_length
        batch, ranks = phase.global_batch, spec.world_size
        limits = packing_limits(data.shards, data.masking, most=most, max_length=longest, global_batch=batch)
    stream = BatchStream(
        data.shards,
        data.masking,
        global_batch=batch,
        micro_batch=micro_batch,
        packing=limits,
        world_size=ranks,
        pin_memory=device.type == "cuda",
    )
    with closing(stream):
        return next(stream)


def measure(rank: Rank, data: BenchData, micro_batch: int, *, peak: float, seconds: float, repeats: int) -> Measurement:
    """Optimizer steps on micro-batches of one size.

    Args:
        peak: FLOP/s of matrix products.
        seconds: that all repeats together take, about.

    Raises:
        torch.OutOfMemoryError: the GPU's memory is too small.
    """
    spec, phase, device = rank.spec, rank.phase, rank.device
    torch.compiler.reset()  # other shapes than before: it compiles a function for a few only
    whole = rank_step(spec, phase, data, micro_batch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):  # the first compiles; and shapes that vary compile again
        rank.step(whole[-1:])
    one = sum(rank.step(whole[len(whole) // 2 :][:1]))
    share = max(1, min(len(whole), int(seconds / repeats / one)))
    parts = [_spread(whole, share, number / repeats) for number in range(repeats)]
    timed = [(counts_of(part), *rank.step(part)) for part in parts]
    rates = [counts.sequences / took for counts, took, _ in timed]
    counts = counts_of(whole)
    work = counts.sequences if spec.is_unpadded else phase.rank_batch  # more where the packs do not divide by the ranks
    forward_backward = work / statistics.median(rates)
    optimizer = statistics.median(update for *_, update in timed)
    step_s = forward_backward + optimizer
    sequences_per_s = phase.rank_batch / step_s
    flops = step_flops(spec.model, spec.model.vocab_size, counts, next_sentence=spec.next_sentence) / counts.sequences
    places = sum(batch.input_ids.numel() for batch in whole)
    times = [1 / rate for rate in rates]
    return Measurement(
        phase=phase.phase,
        micro_batch=micro_batch,
        gradient_steps=max(1, phase.rank_batch // micro_batch),
        token_budget=micro_batch * phase.sequence_length,
        pack_tokens=places / len(whole),
        efficiency=counts.tokens / places,
        sequences_per_s=sequences_per_s,
        tokens_per_s=sequences_per_s * counts.tokens / counts.sequences,
        flops_per_s=sequences_per_s * flops,
        peak_share=sequences_per_s * flops / peak,
        peak_memory_gb=peak_memory_gb(device),
        forward_backward_s=forward_backward,
        optimizer_s=optimizer,
        spread=(max(times) - min(times)) / statistics.median(times),
        measured_micro_batches=sum(map(len, parts)),
    )


def _spread(batches: Sequence[MicroBatch], count: int, shift: float) -> list[MicroBatch]:
    """``count`` of the batches, evenly spaced: padded ones are ordered by their length."""
    return [batches[int((number + shift) * len(batches) / count)] for number in range(count)]


def sweep(
    spec: RunSpec,
    phase: PhaseSpec,
    device: torch.device,
    *,
    sizes: Iterable[int] = (),
    seconds: float = 10.0,
    repeats: int = 3,
    report: Callable[[Sweep, Measurement], None] = lambda *_: None,
) -> Sweep:
    """Measure a phase on one rank, from small micro-batches to the largest that memory allows.

    Args:
        sizes: micro-batches to try; `micro_batch_sizes` where none are given.
        seconds: of measuring at each size.
        report: called with each measurement as it is made, and what it is part of.

    Raises:
        BertjobsError: not even the smallest micro-batch can be measured.
        InputError: as in `open_data` and `open_forward`.
    """
    data = open_data(spec, phase)
    spec = replace(spec, model=replace(spec.model, vocab_size=spec.model.vocab_size or data.vocabulary_size))
    peak = product_rate(device, spec.precision, min(1.0, seconds))
    rank = Rank(spec, phase, device)
    optimizer = f"{spec.optimizer.name}, backend {rank.optimizer.optimizer.backend}"
    empty = Sweep(phase, Device.of(device), data.source, rank.forward.describe(), optimizer, peak, (), "", not sizes)
    measurements: list[Measurement] = []
    ended = "no larger one was asked for" if sizes else "no larger one divides the rank batch"
    for size in sorted(set(sizes)) or micro_batch_sizes(phase):
        if (problem := _no_room(rank, size, measurements)) is not None:
            ended = problem
            break
        try:
            measurement = measure(rank, data, size, peak=peak, seconds=seconds, repeats=repeats)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            ended = f"{size} sequences ran out of memory"
            break
        finally:
            rank.optimizer.zero_grad()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        measurements.append(measurement)
        report(empty, measurement)
    if not measurements:
        what = f"nothing could be measured in phase {phase.phase}: {ended}"
        raise BertjobsError(what, hint="give smaller ones with --micro-batches")
    return replace(empty, measurements=tuple(measurements), ended=ended)


def _no_room(rank: Rank, size: int, before: Sequence[Measurement]) -> str | None:
    """Why a size should not even be tried: on a CPU, the system would kill the process, or swap."""
    if rank.device.type == "cuda" or len(before) < 2:
        return None
    last, previous = before[-1], before[-2]
    per_sequence = (last.peak_memory_gb - previous.peak_memory_gb) / (last.micro_batch - previous.micro_batch)
    more = per_sequence * (size - last.micro_batch) * SPARE
    free = available_gb()
    return f"{size} sequences would take {more:.1f} GB more, but only {free:.1f} GB are free" if more > free else None


def records(spec: RunSpec, sweep: Sweep, now_unix_s: float) -> Iterator[dict[str, Any]]:
    """The lines of `BENCH_FILE`, one per measurement: what was computed on what, and how fast."""
    model = {name: value for name, value in asdict(spec.model).items() if name not in ("name", "vocab_size")}
    for measurement in sweep.measurements:
        yield {
            "time_unix_s": round(now_unix_s, 3),
            "device": asdict(sweep.device),
            "model": model,
            "precision": spec.precision,
            "activation_checkpointing": spec.activation_checkpointing,
            "unpadded": spec.is_unpadded,
            "sequence_length": sweep.phase.sequence_length,
            "max_predictions": sweep.phase.max_predictions,
            "rank_batch": sweep.phase.rank_batch,
            "attention": sweep.forward,
            "torch": torch.__version__,
            **asdict(measurement),
        }


def keep(spec: RunSpec, sweep: Sweep, results: Path) -> Path:
    """Add a sweep's measurements to the results folder, where `bertjobs plan` finds them."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / BENCH_FILE
    for line in records(spec, sweep, time.time()):
        append_line(path, line)
    return path
