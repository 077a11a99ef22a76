"""The table that papers print of runs of one recipe on several numbers of ranks, and what larger ones would take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.plan.estimate import is_comparable
from bertjobs.launch.plan.interconnect import ONE_MACHINE, interconnect_of
from bertjobs.launch.plan.packs import packs_of
from bertjobs.launch.plan.step_fit import Observed, StepFit, fit
from bertjobs.launch.plan.step_time import StepTime, StepWork, World, step_time, work_of
from bertjobs.recipe.batch import divide
from bertjobs.recipe.lockfile import difference, read_lockfile
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import Attempt, read_story
from bertjobs.run.series import Line, continued, read_steps
from bertjobs.wording import counted

WARM_UP_STEPS = 3
"""The first steps of each attempt, which compile kernels and fill caches: they are not counted."""

IDLE = 0.25
"""Above this share of its computing, what ranks wait for uneven packs is named in a note."""

LARGEST_WORLD = 4096
"""GPUs up to which predictions are made: published tables end at 1,024."""


@dataclass(frozen=True)
class Measured:
    """One phase of a run, in the folder ``root``: the medians of ``steps`` optimizer steps, in seconds."""

    root: Path
    run: str
    spec: RunSpec
    phase: PhaseSpec
    steps: int
    step_s: float
    data_s: float

    @property
    def world(self) -> World:
        return World.of(self.spec)


@dataclass(frozen=True)
class ScalingRow:
    """One number of ranks.

    Attributes:
        run: that was measured; "" for a prediction.
        steps: that were counted; 0 for a prediction.
        step_s: time of a step.
        parts: of a predicted step; None for a measured one.
    """

    run: str
    world: World
    global_batch: int
    steps: int
    step_s: float
    parts: StepTime | None = None

    @property
    def sequences_per_s(self) -> float:
        return self.global_batch / self.step_s


@dataclass(frozen=True)
class Scaling:
    """One phase's table.

    Attributes:
        rows: by ranks; of as many, what was measured first.
        is_weak: whether the runs kept the batch of a rank, and not the global batch.
        notes: what a reader has to know of the predictions.
    """

    spec: RunSpec
    phase: PhaseSpec
    rows: tuple[ScalingRow, ...]
    fit: StepFit
    is_weak: bool
    notes: tuple[str, ...]

    @property
    def reference(self) -> ScalingRow:
        """What all others are compared with: the measured row with the fewest ranks."""
        return next(row for row in self.rows if row.run)

    def speed_up(self, row: ScalingRow) -> float:
        """Sequences per second over those of the reference."""
        return row.sequences_per_s / self.reference.sequences_per_s

    def expansion(self, row: ScalingRow) -> float:
        """Speed-up over how many times the nodes."""
        return self.speed_up(row) * self.reference.world.nodes / row.world.nodes

    def efficiency(self, row: ScalingRow) -> float:
        """Speed-up over how many times the ranks."""
        return self.speed_up(row) * self.reference.world.ranks / row.world.ranks


def read_measured(directory: RunDirectory) -> list[Measured]:
    """The phases of a run that have steps to count.

    Raises:
        InputError: there are none, or run.yml cannot be read.
    """
    spec = read_lockfile(directory.lockfile)
    attempts = read_story(directory.events()).attempts
    measured, made = [], 0
    for phase in spec.phases:
        lines = continued(read_steps(directory.phase(phase.phase).metrics, "step_time_s"), phase.steps)
        own = [attempt for attempt in attempts if attempt.phase == phase.phase and attempt.started_unix_s is not None]
        if steps := counted_steps(lines, own, spec.world_size):
            waits = [line["data_wait_s"] for line in steps if "data_wait_s" in line]
            middle = statistics.median(line["step_time_s"] for line in steps)
            wait = statistics.median(waits) if waits else 0.0
            measured.append(Measured(directory.root, directory.name, spec, phase, len(steps), middle, wait))
        made = max(made, len(lines))
    if not measured:
        raise InputError(
            f"run {directory.name!r} has no step to count: of {counted(made, 'step')}, none is on "
            f"{counted(spec.world_size, 'rank')} after the {WARM_UP_STEPS} of an attempt's warm-up",
            where=str(directory.root),
            hint=f"see its progress with: bertjobs status {directory.name}",
        )
    return measured


def counted_steps(lines: Sequence[Line], attempts: Sequence[Attempt], world_size: int) -> list[Line]:
    """The lines of steps that count: made on ``world_size`` ranks, after the warm-up of their attempt.

    A step belongs to the last of the ``attempts``, in their order, that began before it.
    """
    starts = [(attempt.first_step, attempt.world_size) for attempt in attempts] or [(0, world_size)]
    steps = []
    for line in lines:
        first, ranks = next(
            ((first, ranks) for first, ranks in reversed(starts) if first < line["step"]), (0, world_size)
        )
        if ranks == world_size and line["step"] > first + WARM_UP_STEPS and line["step_time_s"] > 0:
            steps.append(line)
    return steps


def scaling(measured: Sequence[Measured], worlds: Sequence[int] = ()) -> list[Scaling]:
    """A table for each phase that all runs have.

    Args:
        measured: phases of all runs.
        worlds: numbers of ranks to predict.

    Raises:
        InputError: the runs are not of one recipe, do not do the same work, or have no phase in common; or a world
            cannot be: its ranks do not fill nodes, or the batch cannot be divided.
    """
    check_comparable(measured)
    runs = {one.root: one.run for one in measured}
    phases = [
        [one for one in measured if one.phase.phase == number]
        for number in sorted({one.phase.phase for one in measured})
    ]
    shared = [phase for phase in phases if len(phase) == len(runs)]
    if not shared:
        raise InputError(
            "the runs have no phase in common that has steps to count", where=", ".join(sorted(runs.values()))
        )
    return [_scaling(phase, worlds) for phase in shared]


def check_comparable(measured: Sequence[Measured]) -> None:
    """Refuse runs of several recipes, and runs whose ranks do not do the same work per sequence."""
    first = measured[0]
    for one in measured[1:]:
        if one.spec.recipe != first.spec.recipe:
            raise InputError(
                f"run {one.run!r} is of recipe {one.spec.recipe}, run {first.run!r} of {first.spec.recipe}: a table of "
                "scaling has runs of one recipe",
                where=one.run,
                hint=f"leave out {one.run}, or see all runs with their recipes: bertjobs status",
            )
        shared = [phase.phase for phase in one.spec.phases if any(p.phase == phase.phase for p in first.spec.phases)]
        if not all(is_comparable(one.spec, first.spec, number) for number in shared):
            paths = (
                ", ".join(path for path in difference(first.spec, one.spec) if path != "seed") or "GPUs or attention"
            )
            raise InputError(
                f"runs {first.run!r} and {one.run!r} do not do the same work: they differ in {paths}", where=one.run
            )


def _scaling(measured: Sequence[Measured], worlds: Sequence[int]) -> Scaling:
    largest = max(measured, key=lambda one: one.world.ranks)
    is_weak = len({one.phase.rank_batch for one in measured}) == 1 < len({one.phase.global_batch for one in measured})
    data = _data(largest.spec)
    observed = [
        Observed(_work(one.spec, one.phase, data), one.world, one.step_s, min(one.data_s, one.step_s))
        for one in measured
    ]
    fitted = fit(observed, interconnect_of(largest.spec.system))
    rows = [ScalingRow(one.run, one.world, one.phase.global_batch, one.steps, one.step_s) for one in measured]
    for ranks in dict.fromkeys(worlds):
        spec, phase = at_world(largest.spec, largest.phase, ranks, is_weak=is_weak)
        world = World.of(spec)
        parts = step_time(_work(spec, phase, data), world, fitted.machine)
        rows.append(ScalingRow("", world, phase.global_batch, 0, parts.seconds, parts))
    rows.sort(key=lambda row: (row.world.ranks, not row.run))
    return Scaling(
        largest.spec, largest.phase, tuple(rows), fitted, is_weak, tuple(_notes(rows, fitted, data, largest))
    )


def _data(spec: RunSpec) -> DataManifest | None:
    try:
        return None if spec.task else DataManifest.read(Path(spec.data))
    except BertjobsError:
        return None


def _work(spec: RunSpec, phase: PhaseSpec, data: DataManifest | None) -> StepWork:
    vocabulary = spec.model.vocab_size or (data.vocabulary_size if data else 0)
    packs = packs_of(spec, data).get(phase.phase)
    return work_of(spec, phase, vocabulary, packs.busy_share(spec.world_size) if packs else 1.0)


def at_world(spec: RunSpec, phase: PhaseSpec, ranks: int, *, is_weak: bool = False) -> tuple[RunSpec, PhaseSpec]:
    """A run on another number of ranks, in whole nodes or a part of one: with the same global batch, or if it
    ``is_weak``, with the same batch per rank.

    Raises:
        InputError: there are no such nodes, or the batch cannot be divided.
    """
    per_node = spec.system.gpus_per_node if spec.gpus else spec.tasks_per_node
    where = f"--predict {ranks}"
    if not 1 <= ranks <= LARGEST_WORLD:
        raise InputError(f"{ranks:,} ranks cannot be predicted", where=where, hint=f"1 to {LARGEST_WORLD:,}")
    if ranks > per_node and ranks % per_node:
        below = ranks // per_node * per_node
        raise InputError(
            f"{ranks} ranks do not fill nodes of {per_node}", where=where, hint=f"{below} or {below + per_node}"
        )
    nodes = max(1, ranks // per_node)
    if nodes > 1 and spec.system.interconnect == ONE_MACHINE:
        raise InputError(f"system {spec.system.name} is one machine of {counted(per_node, 'rank')}", where=where)
    sizes = divide(
        phase.global_batch,
        ranks,
        phase.micro_batch_limit,
        phase.rank_batch if is_weak else None,
        tasks_per_node=ranks // nodes,
        where=where,
    )
    new = replace(phase, **asdict(sizes))
    phases = tuple(new if one.phase == phase.phase else one for one in spec.phases)
    gpus = ranks // nodes if spec.gpus else 0
    alike = replace(spec, nodes=nodes, tasks_per_node=ranks // nodes, groups=(), group_systems=(), gpus=gpus)
    return replace(alike, phases=phases), new


def _notes(rows: Sequence[ScalingRow], fitted: StepFit, data: DataManifest | None, largest: Measured) -> Iterable[str]:
    predicted = [row for row in rows if not row.run]
    if not predicted:
        return
    yield "predicted: a model of a step's time, fitted to these runs; docs/scaling.md has its parts and its errors"
    if not fitted.is_exchange_measured:
        yield "the time of an exchange is that of the stated rates: runs on several numbers of ranks would measure it"
    if any(not fitted.counts_exchange(row.world) for row in predicted):
        words = largest.spec.system.interconnect or "no network named"
        yield f"what travels between ranks is not counted, as its speed is not known ({words}): real steps take longer"
    if data is None and largest.spec.is_unpadded and not largest.spec.task:
        yield "the data are not there: packs are taken to be divided evenly over the ranks"
    waiting = [row for row in predicted if row.parts and row.parts.balance_s > IDLE * row.parts.compute_s]
    if waiting:
        yield (
            f"on {waiting[0].world.ranks:,} ranks a step has too few packs: a smaller "
            f"phase{largest.phase.phase}.micro_batch makes more of them"
        )
    if max(row.world.ranks for row in predicted) > 1024:
        yield "no published table goes beyond 1,024 GPUs: nothing has tested the model there"
