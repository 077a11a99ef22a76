"""What a tracker is told of a run: one point per step that can no longer be undone, the settings, and tags. Reads files
only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bertjobs import __version__
from bertjobs.files.atomic import PRIVATE_FOLDER, create_text
from bertjobs.files.json_lines import read_lines
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import newest_whole, step_of
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import Attempt, read_story
from bertjobs.run.series import HELD_OUT, PLACE_FIELDS, TRAIN, continued
from bertjobs.wording import duration

FOLDER = "tracking"
"""Of a run's folder: its id for trackers, and what they keep beside it."""


@dataclass(frozen=True)
class Point:
    """What was measured at one step.

    Attributes:
        step: counted over all phases of the run, from 1.
        time_unix_s: when the step ended.
        values: by name, ``train/FIELD`` or ``held_out/FIELD``; only finite numbers, which every tracker takes.
    """

    step: int
    time_unix_s: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Replay:
    """A run as a tracker is told of it.

    Attributes:
        run: its name.
        id: the same for ever, and no other run's.
        settings: those of its run.yml, by path ("phase1.lr").
        tags: its versions, its attempts and how each ended.
        points: its settled steps, oldest first, each once.
        is_done: whether all its phases are.
    """

    run: str
    id: str
    settings: Mapping[str, str | float | bool]
    tags: Mapping[str, str]
    points: tuple[Point, ...]
    is_done: bool


def read_replay(directory: RunDirectory) -> Replay:
    """Read a run's folder.

    A step is settled once a checkpoint holds it: what a crash undoes was never in one, so that a tracker is told no
    step twice. Metrics are flushed to the disk before their checkpoint, and a validation comes before the checkpoint of
    its step, so what is settled is complete.

    Raises:
        BertjobsError: its run.yml or a DONE.json cannot be read.
        OSError: its id, made at the first call, cannot be written.
    """
    spec = read_lockfile(directory.lockfile)
    phases = [directory.phase(phase.phase) for phase in spec.phases]
    is_done = all(phase.done() for phase in phases)  # before the points: what is done has all of them
    return Replay(
        run=directory.name,
        id=tracking_id(directory),
        settings=flat_settings(spec),
        tags=_tags(directory, spec),
        points=tuple(_points(phases)),
        is_done=is_done,
    )


def tracking_id(directory: RunDirectory) -> str:
    """The run's id for trackers: its name is not enough, as others may have a run of that name."""
    import uuid

    folder = directory.root / FOLDER
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    create_text(folder / "id", uuid.uuid4().hex[:16] + "\n")  # unless it is there
    return (folder / "id").read_text(encoding="utf-8").strip()


def flat_settings(spec: RunSpec) -> dict[str, str | float | bool]:
    """All settings of a run by path, as in ``--set``; lists as texts."""
    flat: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "phases":
            flat |= {f"phase{phase.phase}.{key}": one for phase in value for key, one in asdict(phase).items()}
        elif hasattr(value, "__dataclass_fields__"):
            flat |= {f"{field.name}.{key}": one for key, one in asdict(value).items()}
        else:
            flat[field.name] = value
    return {key: _scalar(value) for key, value in flat.items() if value is not None}


def _scalar(value: Any) -> str | float | bool:
    if isinstance(value, int | float | str):
        return value
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _tags(directory: RunDirectory, spec: RunSpec) -> dict[str, str]:
    attempts = read_story(directory.events()).begun
    tags = {"bertjobs": __version__, "recipe": spec.recipe, "model": spec.model.name, "attempts": str(len(attempts))}
    return tags | {f"attempt {number}": _attempt_words(one) for number, one in enumerate(attempts, 1)}


def _attempt_words(attempt: Attempt) -> str:
    """``phase 1, job 17-0, 32 ranks, from step 0 to step 200 in 3 h 12 min: a node failed``."""
    ended = f" to step {attempt.step}" if attempt.step is not None else ""
    lasted = f" in {duration(attempt.seconds)}" if attempt.ended_unix_s is not None else ""
    words = attempt.cause.plain if attempt.cause else attempt.word or "no end recorded"
    where = f"phase {attempt.phase}, job {attempt.job}-{attempt.number}, {attempt.world_size} ranks"
    return f"{where}, from step {attempt.first_step}{ended}{lasted}: {words}"


def _points(phases: Sequence[PhaseDirectory]) -> Iterator[Point]:
    """The settled steps of all phases, counted on from phase to phase."""
    before = 0
    for phase in phases:
        done = phase.done()
        # Looked at before the lines are read, which were flushed before it was written.
        newest = newest_whole(phase.checkpoints)
        # What is done names its result, which is an earlier checkpoint where a task's best one is.
        last = max(done.step if done else 0, step_of(newest) if newest else 0)
        yield from _phase_points(phase, last, before)
        if done:
            before += last
        elif phase.metrics.exists():
            return  # a later phase begins when this one is done


def _phase_points(phase: PhaseDirectory, last: int, before: int) -> Iterator[Point]:
    steps = {line["step"]: line for line in continued(read_lines(phase.metrics), last)}
    held_out = {line["step"]: line for line in continued(read_lines(phase.validation), last)}
    time_unix_s = 0.0  # a validation whose step's line was lost has the time of the one before
    for step in sorted({*steps, *held_out}):
        values = {f"{TRAIN}/{name}": value for name, value in _measured(steps.get(step, {}))}
        values |= {f"{HELD_OUT}/{name}": value for name, value in _measured(held_out.get(step, {}))}
        place = {f"{TRAIN}/phase": float(phase.number), f"{TRAIN}/step_of_phase": float(step)}
        time_unix_s = steps.get(step, {}).get("time_unix_s", time_unix_s)
        yield Point(before + step, time_unix_s, {**place, **values})


def _measured(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and math.isfinite(value) and name not in PLACE_FIELDS:
            yield name, float(value)
