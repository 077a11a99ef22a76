"""What a run's weights are worth: the tasks that were fine-tuned from it, beside the same from random weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bertjobs.errors import BertjobsError
from bertjobs.launch.watch.study import measure_of
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory, all_runs


@dataclass(frozen=True)
class Gain:
    """A task that was fine-tuned from a run.

    Attributes:
        run, value: the run that did so, and its measure on the dev data; more is better.
        random_run, random_value: the run that is the same but for its start, random weights; None if there is none.
    """

    task: str
    measure: str
    run: str
    value: float
    random_run: str | None = None
    random_value: float | None = None

    @property
    def gain(self) -> float | None:
        """How much better it is than from random weights."""
        return None if self.random_value is None else self.value - self.random_value


@dataclass(frozen=True)
class TaskRun:
    """A run of fine-tuning that is done and measured."""

    spec: RunSpec
    measure: str
    value: float


def gains_of(directory: RunDirectory) -> list[Gain]:
    """The tasks that were fine-tuned from a run, by runs in the same folder, the oldest first; runs that cannot be read
    are left out."""
    return gains_among(directory.root, task_runs(reversed(all_runs(directory.root.absolute().parent))))


def gains_among(root: Path, runs: Iterable[TaskRun]) -> list[Gain]:
    """The gains of those runs that started from a checkpoint below ``root``."""
    known = list(runs)
    baselines = [one for one in known if not one.spec.init_checkpoint]
    gains = []
    for one in known:
        start = one.spec.init_checkpoint
        if start and Path(start).resolve().is_relative_to(root.resolve()):
            same = (base for base in baselines if _apart_from_start(base.spec) == _apart_from_start(one.spec))
            base = next(same, None)
            names = (base.spec.run, base.value) if base else (None, None)
            gains.append(Gain(one.spec.task, one.measure, one.spec.run, one.value, *names))
    return gains


def _apart_from_start(spec: RunSpec) -> RunSpec:
    """The model's name is that of the folder that its shape was read from."""
    return replace(spec, run="", init_checkpoint="", model=replace(spec.model, name=""))


def task_runs(directories: Iterable[RunDirectory]) -> Iterable[TaskRun]:
    """Those of the runs that fine-tuned, are done and were measured."""
    for directory in directories:
        if not any(phase.result.is_file() for phase in directory.phases()):  # most runs of a large folder
            continue
        try:
            spec = read_lockfile(directory.lockfile)
            measure, value = measure_of(directory)
        except BertjobsError:
            continue
        if spec.task and measure and value is not None:
            yield TaskRun(spec, measure, value)


def gain_table(gains: Sequence[Gain]) -> list[list[str]]:
    """A head, and a row per task and run."""
    head = ["task", "run", "dev measure", "from this run", "from random weights", "gain"]
    rows = [
        [
            one.task,
            one.run,
            one.measure,
            f"{one.value:.4f}",
            "-" if one.random_value is None else f"{one.random_value:.4f}",
            "-" if one.gain is None else f"{one.gain:+.4f}",
        ]
        for one in gains
    ]
    return [head, *rows]


def gain_verdict(gain: Gain) -> str:
    """One sentence."""
    words = f"{gain.run}: task {gain.task}, dev {gain.measure} {gain.value:.4f} from this run's weights"
    if gain.random_value is None:
        return f"{words}; the same with --random-weights has not been trained"
    return f"{words}, {gain.random_value:.4f} from random ones ({gain.gain:+.4f})"


def is_gain(gains: Sequence[Gain], margin: float) -> bool:
    """Whether there are gains, and each is ``margin`` or more."""
    known = [one.gain for one in gains if one.gain is not None]
    return bool(known) and all(gain >= margin for gain in known)
