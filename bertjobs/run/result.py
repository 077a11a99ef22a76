"""The model that a run has trained: where `--from RUN` finds its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.files.json_lines import read_lines
from bertjobs.files.reading import object_of, read_json
from bertjobs.run.checkpoints import newest_valid, newest_whole, step_of
from bertjobs.run.directory import Done, PhaseDirectory, RunDirectory, open_run
from bertjobs.run.study import Study, find_study
from bertjobs.wording import counted


def result_of(run: RunDirectory, *, is_read: bool = True) -> Path:
    """The checkpoint that is a run's result: that of its last phase that is done, else its newest whole one.

    Args:
        is_read: whether all bytes of the newest are read, to see that it is whole; else the sizes of its files.

    Raises:
        InputError: it has none.
    """
    phases = run.phases()
    for phase in reversed(phases):
        if folder := phase_result(phase, phase.done()):
            return folder
    for phase in reversed(phases):
        folder = newest_valid(phase.checkpoints)[0] if is_read else newest_whole(phase.checkpoints)
        if folder is not None:
            return folder
    raise InputError(
        f"run {run.name!r} has no whole checkpoint", where=str(run.root), hint=f"bertjobs doctor {run.name}"
    )


def phase_result(phase: PhaseDirectory, done: Done | None) -> Path | None:
    """The checkpoint that is a phase's result, by its DONE.json; None if it is not done, or the folder is gone."""
    folder = phase.checkpoints / done.checkpoint if done else None
    return folder if folder and folder.is_dir() else None


def measured_result(lines: Sequence[Mapping[str, Any]], done: Done | None) -> Mapping[str, Any] | None:
    """Of a phase's lines of validation.jsonl that of its result, by DONE.json; the last one if it is not done or its
    result was not measured; None if there are none."""
    measured = (line for line in reversed(lines) if done and line["step"] == done.step)
    return next(measured, lines[-1] if lines else None)


def task_result(run: RunDirectory) -> dict[str, Any]:
    """RESULT.json of the last phase of a run that fine-tunes; {} while there is none.

    Raises:
        DamagedFileError: it cannot be read.
    """
    phases = run.phases()
    return (read_json(phases[-1].result, object_of) if phases else None) or {}


def best_of(study: Study) -> tuple[RunDirectory, str]:
    """The run of a study whose result is the best, and in words what it is the best by: of tasks, whose measures are
    the better the higher they are. Where nothing was measured it is the first, and the words are "".

    Raises:
        DamagedFileError: a result cannot be read.
    """
    best, words, highest = study.directories[0], "", -math.inf
    for run in study.directories:
        result = task_result(run)
        value = (result.get("dev") or {}).get(name := result.get("measure"))
        if isinstance(value, int | float) and value > highest:
            best, words, highest = run, f"dev {name} {value:.4f}", value
    return best, words


def phase_of(checkpoint: Path) -> PhaseDirectory | None:
    """The phase that a checkpoint's folder belongs to; None if it does not lie in a run."""
    checkpoint = checkpoint.absolute()
    for phase in RunDirectory(checkpoint.parents[2]).phases() if len(checkpoint.parents) > 2 else ():
        if phase.checkpoints == checkpoint.parent and RunDirectory(phase.root.parent).has_lockfile:
            return phase
    return None


def name_of(checkpoint: Path) -> str:
    """The name of the run that a checkpoint belongs to; that of its folder if it does not lie in a run."""
    phase = phase_of(checkpoint)
    return phase.root.parent.name if phase else checkpoint.name


def measured_of(checkpoint: Path) -> dict[str, Any]:
    """As `measured_at`, of a checkpoint's own step; {} if it does not lie in a run."""
    phase = phase_of(checkpoint)
    return measured_at(phase, step_of(checkpoint)) if phase else {}


def measured_at(phase: PhaseDirectory, step: int) -> dict[str, Any]:
    """What validation.jsonl says of a step, and what was tuned on the dev data there; {} if it was not measured.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    return next((line for line in reversed(read_lines(phase.validation)) if line.get("step") == step), {})


def weights_of(name: str, results: Path, *, is_read: bool = True) -> Path:
    """The folder of weights that ``name`` means: a Hugging Face model's folder, or a run's result, as in `result_of`.

    Raises:
        InputError: it is neither; names the nearest run, or of a study its best one.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    if not RunDirectory(results / name).is_run and (study := find_study(results, name)) is not None:
        best, words = best_of(study)
        raise InputError(
            f"{name!r} is a study of {counted(len(study.members), 'run')}",
            where=str(study.file),
            hint=f"give one of its runs: {best.name}" + (f", the best with {words}" if words else ""),
        )
    if folder.is_dir() and not any(RunDirectory(root).is_run for root in (results / name, folder)):
        raise InputError(
            "the folder is neither a model nor a run: it has no config.json and no run.yml",
            where=str(folder),
            hint="give a folder with config.json, model.safetensors and vocab.txt, or the name of a run",
        )
    return result_of(open_run(results, name), is_read=is_read)
