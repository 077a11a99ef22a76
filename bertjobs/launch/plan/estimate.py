"""How long a phase will take: from measurements of earlier runs or of `bertjobs bench`, from published figures, or
from this machine's rate."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.files.json_lines import last_lines, numbers
from bertjobs.files.reading import DamagedFileError
from bertjobs.launch.plan.interconnect import interconnect_of
from bertjobs.launch.plan.memory import Peak
from bertjobs.launch.plan.packs import Packs
from bertjobs.launch.plan.published import published_rate
from bertjobs.launch.plan.step_time import Machine, StepWork, World, machine_from, step_time, work_of
from bertjobs.launch.plan.task_work import TaskWork
from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.flops import FORWARD_SHARE, flops_per_sequence
from bertjobs.recipe.lockfile import decisive_settings, difference, read_lockfile
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.bench_file import BENCH_FILE, BenchRun, WorkPerSequence
from bertjobs.run.directory import RunDirectory, all_runs

CPU_SHARE = 0.6
"""Share of this machine's matrix-product rate that a training step reaches, measured on two cores."""

NEWEST_RUNS = 10
"""How many earlier runs are read: a results folder may hold thousands."""


BENCH_BYTES = 1 << 20
"""How much of the end of bench.jsonl is read: about a thousand measurements."""


@dataclass(frozen=True)
class Estimate:
    """Expected time of a phase.

    Attributes:
        seconds: for all its steps, without start-up and waiting.
        source: where the number comes from, in words.
        sequences_per_s: of all ranks together.
        gpus: how many GPUs it occupies; 0 on CPUs.
        is_upper_bound: whether all sequences are counted as the longest, since a task's data are not prepared.
    """

    seconds: float
    source: str
    sequences_per_s: float
    gpus: int
    is_upper_bound: bool = False

    @property
    def gpu_hours(self) -> float:
        return self.seconds * self.gpus / 3600


@dataclass(frozen=True)
class TrainingRun:
    """An earlier run that has metrics.

    Attributes:
        spec: what it ran.
        sequences_per_s: by phase, of all its ranks; median over its last steps.
        peaks: by phase, the measured peak of memory.
    """

    spec: RunSpec
    sequences_per_s: Mapping[int, float]
    peaks: Mapping[int, Peak]


EarlierRun = TrainingRun | BenchRun


def earlier_runs(results: Path) -> list[EarlierRun]:
    """What a results folder tells about speed: its newest runs, newest first, then the measurements of `bertjobs
    bench`, newest first. What cannot be read is skipped."""
    return [*_training_runs(results), *_bench_runs(results)]


def _bench_runs(results: Path) -> list[BenchRun]:
    runs = []
    try:
        lines = last_lines(results / BENCH_FILE, BENCH_BYTES)
    except DamagedFileError:
        return []
    for line in reversed(lines):
        try:
            runs.append(BenchRun.from_json(line))
        except (LookupError, TypeError, ValueError):
            continue
    return runs


def _training_runs(results: Path) -> list[TrainingRun]:
    runs = []
    for directory in all_runs(results)[:NEWEST_RUNS]:
        try:
            runs.append(_training_run(directory))
        except BertjobsError:
            continue
    return runs


def _training_run(directory: RunDirectory) -> TrainingRun:
    spec = read_lockfile(directory.lockfile)
    rates, peaks = {}, {}
    for phase in spec.phases:
        lines = last_lines(directory.phase(phase.phase).metrics)
        if measured := numbers(lines, "sequences_per_s"):
            rates[phase.phase] = statistics.median(measured)
        if memory := numbers(lines, "peak_memory_gb"):
            peaks[phase.phase] = Peak(f"run {directory.name}", phase.micro_batch, max(memory))
    return TrainingRun(spec, rates, peaks)


def is_comparable(earlier: RunSpec, spec: RunSpec, phase: int) -> bool:
    """Whether a rank of one run does the same work per sequence, on the same device, as one of the other."""

    def work(run: RunSpec) -> tuple[Any, ...]:
        return (
            run.system.name,
            run.system.gpu,
            bool(run.gpus),
            run.groups if run.group_systems else (),  # ranks that are not alike
            run.vocabulary,
            (run.task, run.data, run.tune_layers) if run.task else "",  # a task's sequences are as long as its data's
            run.teacher_sha256,
            WorkPerSequence.of(run, run.phase(phase)),
        )

    return any(part.phase == phase for part in earlier.phases) and work(earlier) == work(spec)


def measured_peaks(spec: RunSpec, earlier: Sequence[EarlierRun]) -> dict[int, Peak]:
    """By phase, the memory that the newest comparable run measured with the same micro-batch."""
    by_phase: dict[int, Peak] = {}
    for phase in spec.phases:
        peaks = (_peak(run, spec, phase) for run in earlier)
        same = (peak for peak in peaks if peak and peak.micro_batch == phase.micro_batch)
        if (newest := next(same, None)) is not None:
            by_phase[phase.phase] = newest
    return by_phase


def _peak(run: EarlierRun, spec: RunSpec, phase: PhaseSpec) -> Peak | None:
    """What an earlier run measured, if it did the same work; `bertjobs bench` has no task's head and no teacher."""
    if isinstance(run, BenchRun):
        fits = not (spec.task or spec.teacher) and run.applies_to(spec, phase)
        return Peak(f"bertjobs bench on {run.device}", run.micro_batch, run.peak_memory_gb) if fits else None
    return run.peaks.get(phase.phase) if is_comparable(run.spec, spec, phase.phase) else None


def changes(spec: RunSpec, earlier: Sequence[EarlierRun]) -> tuple[str, list[str]] | None:
    """The newest run of the same recipe, and the decisive settings that differ: ``phase1.lr 0.004 -> 0.006``.

    None if there is no such run.
    """
    runs = (run.spec for run in earlier if isinstance(run, TrainingRun))
    last = next((before for before in runs if before.recipe == spec.recipe), None)
    if last is None:
        return None
    before, now = _settings(last), _settings(spec)
    return last.run, [f"{path} {before[path]!r} -> {now[path]!r}" for path in difference(last, spec)]


def _settings(spec: RunSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for phase in spec.phases:
        settings |= decisive_settings(spec, phase.phase)
    return settings


def matrix_product_rate() -> float:
    """This machine's float32 matrix products, in floating-point operations per second, all cores."""
    import numpy

    size = 1024
    left = numpy.random.default_rng(0).standard_normal((size, size), dtype=numpy.float32)
    left @ left
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < 0.2:
        left @ left
        rounds += 1
    return 2.0 * size**3 * rounds / (time.perf_counter() - started)


def estimate_phase(
    spec: RunSpec,
    phase: PhaseSpec,
    vocab_size: int,
    rate: float | None,
    earlier: Sequence[EarlierRun] = (),
    work: TaskWork | None = None,
    packs: Packs | None = None,
    of_groups: tuple[float, str] | None = None,
) -> Estimate | None:
    """Expected time of a phase; None if nothing is known.

    In this order: the newest earlier run whose ranks did the same work; the measurement by `bertjobs bench` of one rank
    at that work with the nearest micro-batch; a published figure for the GPU; on CPUs, this machine's matrix-product
    ``rate`` in FLOP/s, which gives an upper estimate of the time, since most sequences are shorter than the phase's
    length and short ones need less padding.

    What was measured on other numbers of GPUs is brought to the run's by the model of `step_time`, with its ``packs``,
    if they are known. Where the rates of the network are not known, and on CPUs, it is scaled by the number of ranks.
    ``of_groups``, sequences/s of a rank and their source, is in place of the one rank's where groups of nodes differ.

    Fine-tuning needs less per sequence than the pretraining that was benchmarked or published: all but the first are
    scaled by the arithmetic of its sequences, which ``work`` knows, and its validations are counted. Without ``work``
    its sequences count as the longest.
    """
    if not phase.steps:
        return None
    each = _flops(spec, phase, vocab_size, work)
    scale = flops_per_sequence(spec.model, phase, vocab_size, next_sentence=spec.next_sentence) / each
    step = _Step(spec, phase, vocab_size, packs)
    measured = _measured(step, earlier)
    alone = _scaled(of_groups or rate_of_one(spec, phase, earlier), spec, scale)
    throughput = measured or (step.of_all(*alone) if alone else _by_rate(spec, each, rate))
    if throughput is None:
        return None
    sequences_per_s, source = throughput
    sequences = work.sequences(spec.model, phase) if work else phase.steps * phase.global_batch
    is_upper_bound = bool(spec.task) and work is None and measured is None
    if is_upper_bound:
        source += f"; every sequence counted with {phase.sequence_length} tokens, as the data are not prepared"
    elif work and not measured:
        source += f"; {work.mean_tokens:.0f} tokens per sequence on average, and the validations counted"
    gpus = spec.world_size if spec.gpus else 0
    return Estimate(sequences / sequences_per_s, source, sequences_per_s, gpus, is_upper_bound)


def rate_of_one(spec: RunSpec, phase: PhaseSpec, earlier: Sequence[EarlierRun]) -> tuple[float, str] | None:
    """Sequences/s of one rank that pretrains alone on the run's system, and the source of that; None if unknown."""
    return _benchmarked(spec, phase, earlier) or _published(spec, phase)


def _flops(spec: RunSpec, phase: PhaseSpec, vocab_size: int, work: TaskWork | None) -> float:
    """Floating-point operations per sequence, with those of a teacher; without a task's data, of its longest."""
    if spec.teacher:
        alone = replace(spec, teacher="")
        teacher = replace(alone, model=read_model_spec(Path(spec.teacher)))
        taught = _flops(teacher, phase, vocab_size, work) * FORWARD_SHARE
        return _flops(alone, phase, vocab_size, work) + taught
    if work:
        return work.flops_per_sequence(spec.model)
    if spec.task:
        phase = replace(phase, max_predictions=0)
    return flops_per_sequence(spec.model, phase, vocab_size, next_sentence=spec.next_sentence)


def _scaled(throughput: tuple[float, str] | None, spec: RunSpec, scale: float) -> tuple[float, str] | None:
    """A throughput of pretraining, as that of a task or of a student."""
    if throughput is None or not (spec.task or spec.teacher):
        return throughput
    return throughput[0] * scale, f"{throughput[1]}; of pretraining, scaled by the arithmetic per sequence"


@dataclass(frozen=True)
class _Step:
    """A step of the run that is planned, for the model of its time."""

    spec: RunSpec
    phase: PhaseSpec
    vocab_size: int
    packs: Packs | None

    def of_all(self, rate: float, source: str) -> tuple[float, str]:
        """Sequences/s of all ranks, from that of one which computes alone."""
        ranks = self.spec.world_size
        if ranks == 1:
            return rate, source
        if not self._is_known(self.spec):
            return rate * ranks, f"{source}, times {ranks} ranks: no loss to communication counted"
        machine = Machine(rate, interconnect_of(self.spec.system))
        of_all = self.phase.global_batch / step_time(*self._at(self.spec, self.phase), machine).seconds
        lost = 1 - of_all / (rate * ranks)
        words = f"times {ranks} ranks, less {lost:.1%} lost between them (docs/scaling.md)"
        return of_all, f"{source}, {words}"

    def like(self, run: TrainingRun, rate: float) -> tuple[float, str]:
        """Sequences/s of all ranks, from the ``rate`` of all ranks of an earlier run."""
        ranks, before = self.spec.world_size, run.spec.world_size
        source = f"{_rounded(rate)} sequences/s measured in run {run.spec.run}"
        if ranks == before:
            return rate, source
        scaled = f"{source}, scaled from {before} ranks to {ranks}"
        if not (self._is_known(self.spec) and self._is_known(run.spec)):
            return rate * ranks / before, f"{scaled}: no loss to communication counted"
        phase = run.spec.phase(self.phase.phase)
        ways = interconnect_of(self.spec.system)
        machine = machine_from(phase.global_batch / rate, *self._at(run.spec, phase), ways)
        of_all = self.phase.global_batch / step_time(*self._at(self.spec, self.phase), machine).seconds
        return of_all, f"{scaled} by the model of a step's time (docs/scaling.md)"

    def _at(self, spec: RunSpec, phase: PhaseSpec) -> tuple[StepWork, World]:
        busy = self.packs.busy_share(spec.world_size) if self.packs else 1.0
        return work_of(spec, phase, self.vocab_size, busy), World.of(spec)

    def _is_known(self, spec: RunSpec) -> bool:
        return bool(spec.gpus) and interconnect_of(spec.system).is_known(spec.nodes, spec.tasks_per_node)


def _measured(step: _Step, earlier: Sequence[EarlierRun]) -> tuple[float, str] | None:
    for run in earlier:
        if isinstance(run, BenchRun):
            continue
        rate = run.sequences_per_s.get(step.phase.phase)
        if rate and is_comparable(run.spec, step.spec, step.phase.phase):
            return step.like(run, rate)
    return None


def _benchmarked(spec: RunSpec, phase: PhaseSpec, earlier: Sequence[EarlierRun]) -> tuple[float, str] | None:
    """Of one rank."""
    runs = [run for run in earlier if isinstance(run, BenchRun) and run.applies_to(spec, phase)]
    if not runs:
        return None
    nearest = min(runs, key=lambda run: abs(math.log(run.micro_batch / phase.micro_batch)))  # of equals, the newest
    other = "" if nearest.micro_batch == phase.micro_batch else f" with a micro-batch of {nearest.micro_batch}"
    return (
        nearest.sequences_per_s,
        f"bertjobs bench, this recipe's model on {nearest.device}: {_rounded(nearest.sequences_per_s)} sequences/s"
        f"{other}",
    )


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _published(spec: RunSpec, phase: PhaseSpec) -> tuple[float, str] | None:
    """Of one GPU."""
    rate = published_rate(spec, phase)
    if rate is None:
        return None
    return rate, f"{rate:g} sequences/s that NVIDIA publishes for one {spec.system.gpu}"


def _by_rate(spec: RunSpec, each: float, rate: float | None) -> tuple[float, str] | None:
    if spec.gpus or rate is None:
        return None
    sequences_per_s = rate * CPU_SHARE / each
    return sequences_per_s, f"{rate / 1e9:.0f} GFLOP/s measured here, {CPU_SHARE:.0%} of it used"
