"""What the GPUs that a run held were used for, from the journal, the metrics and Slurm. Pure.

The time that an attempt held its GPUs is cut up without a remainder, so the parts sum to what was held. Steps that a
crash undid are no longer in metrics.jsonl: what an attempt did after its last step that counts is lost, unless it ended
in an orderly way.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE
from bertjobs.run.causes import cause_of_state
from bertjobs.run.journal import Attempt, JobStory, Story
from bertjobs.run.series import continued
from bertjobs.slurm.jobs import JobStart
from bertjobs.wording import duration

HOUR_S = 3600.0
UNDONE = "damaged checkpoint"
"""What undid the steps of an attempt that had ended in an orderly way."""
UNKNOWN = "unknown"

Lives = Mapping[tuple[str, int], tuple[float, float]]
"""By job and attempt: when it took the run, and its last sign of life (`bertjobs.run.owner.Owners.lifetimes`)."""


@dataclass(frozen=True)
class Held:
    """The GPUs, or on CPUs the ranks, that one attempt at a phase held.

    Attributes:
        phase: its number.
        devices: how many.
        began_unix_s, ended_unix_s: from when until when; for one that still runs, until its newest step.
        trained_unix_s: when it began to train; None if it did not.
        first_step: the step that it began at.
        kept_step: the last of its steps that counts; infinite if none was undone.
        end: "running", "orderly" (with a checkpoint), or what it failed by, a word of `bertjobs.run.causes`.
        queue_s: how long it had waited in the queue.
    """

    phase: int
    devices: int
    began_unix_s: float
    ended_unix_s: float
    trained_unix_s: float | None
    first_step: int
    kept_step: float
    end: str
    queue_s: float = 0.0


@dataclass(frozen=True)
class Goodput:
    """Seconds of all GPUs together, by what they went to; ``lost`` by what undid the steps.

    ``is_gpu`` False: the devices are ranks on CPUs. ``queue_s`` is nobody's GPU time: seconds from submission, or from
    the end before, to the start.
    """

    training: float = 0.0
    start_up: float = 0.0
    checkpoints: float = 0.0
    validation: float = 0.0
    other: float = 0.0
    lost: Mapping[str, float] = field(default_factory=dict)
    queue_s: float = 0.0
    is_gpu: bool = True

    @property
    def held(self) -> float:
        return sum(seconds for _, seconds in self.parts())

    def parts(self) -> list[tuple[str, float]]:
        """Name and device-seconds of each part."""
        lost = [(f"lost: {cause}", seconds) for cause, seconds in sorted(self.lost.items())]
        spent = [("start-up", self.start_up), ("checkpoints", self.checkpoints), ("validation", self.validation)]
        return [("training", self.training), *lost, *spent, ("other", self.other)]

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.is_gpu else "rank-hours"

    def words(self) -> str:
        """``12.4, training 91.2%, lost: node failure 2.0%, start-up 2.3%, ...; 1 h 20 min in the queue``."""
        held = self.held
        shares = [f"{name} {seconds / held:.1%}" for name, seconds in self.parts() if seconds > 0.0005 * held]
        queue = f"; {duration(self.queue_s)} in the queue" if self.queue_s >= 1 else ""
        return ", ".join([f"{held / HOUR_S:,.3g}", *shares]) + queue

    def as_json(self) -> dict[str, Any]:
        """Hours, and seconds in the queue."""

        def hours(seconds: float) -> float:
            return round(seconds / HOUR_S, 6)

        return {
            "device": "GPU" if self.is_gpu else "rank",
            "held_h": hours(self.held),
            "training_h": hours(self.training),
            "lost_h": {cause: hours(seconds) for cause, seconds in self.lost.items()},
            "start_up_h": hours(self.start_up),
            "checkpoints_h": hours(self.checkpoints),
            "validation_h": hours(self.validation),
            "other_h": hours(self.other),
            "queue_s": round(self.queue_s, 1),
        }


def goodput(
    held: Sequence[Held],
    metrics: Sequence[Mapping[str, Any]],
    validations: Sequence[Mapping[str, Any]],
    *,
    is_gpu: bool,
) -> Goodput:
    """What the devices of one phase were used for.

    Args:
        held: its attempts.
        metrics: lines of its metrics.jsonl with ``step``, ``time_unix_s`` and ``step_time_s``.
        validations: lines of its validation.jsonl.
    """
    lines = continued(metrics, sys.maxsize)
    took = {line["step"]: line.get("validation_s") or 0.0 for line in continued(validations, sys.maxsize)}
    spent: dict[str, float] = defaultdict(float)
    lost: dict[str, float] = defaultdict(float)
    for one in held:
        own = [line for line in lines if one.first_step < line["step"] <= one.kept_step]
        for name, seconds in _split(one, own, took):
            (spent if name in _SPENT else lost)[name] += one.devices * seconds
    return Goodput(
        **spent,
        lost={cause: seconds for cause, seconds in lost.items() if seconds},
        queue_s=sum(one.queue_s for one in held),
        is_gpu=is_gpu,
    )


_SPENT = ("training", "start_up", "checkpoints", "validation", "other")


def _split(one: Held, own: Sequence[Mapping[str, Any]], took: Mapping[int, float]) -> Iterator[tuple[str, float]]:
    """The time that an attempt held its devices, as names of `_SPENT` or the cause of a loss, and seconds.

    Args:
        own: lines of the steps that it made and that count.
        took: by step, how long the validation after it took.
    """
    here, before = one.began_unix_s, None
    for line in own:
        until = min(max(line["time_unix_s"], here), one.ended_unix_s)
        step = ("training", line["step_time_s"])
        if before is None:
            yield from _portions(until - here, [step], "start_up")
        else:
            stall = ("checkpoints", line.get("checkpoint_stall_s") or 0.0)
            yield from _portions(until - here, [stall, ("validation", took.get(before, 0.0)), step], "other")
        here, before = until, line["step"]
    wishes = []
    if before is not None:
        wishes = [("validation", took.get(before, 0.0))] if one.end == "orderly" else []
        remainder = {"orderly": "checkpoints", "running": "training"}.get(one.end, one.end)
    elif one.trained_unix_s is None or one.end == "running":
        remainder = "start_up"
    else:
        wishes = [("start_up", one.trained_unix_s - here)]
        remainder = "checkpoints" if one.end == "orderly" else one.end
    yield from _portions(one.ended_unix_s - here, wishes, remainder)


def _portions(total: float, wishes: Sequence[tuple[str, float]], remainder: str) -> Iterator[tuple[str, float]]:
    """``total`` seconds cut up: of each wish as much as is left, in order, then the remainder."""
    for name, wish in wishes:
        part = min(max(0.0, wish), total)
        total -= part
        yield name, part
    yield remainder, total


def held_by(
    story: Story,
    *,
    ranks: int,
    lives: Lives,
    starts: Mapping[str, Sequence[JobStart]],
    saved: Mapping[int, int],
) -> list[Held]:
    """What each attempt of a run held, in chronological order.

    Slurm's times count; where it gives none, those of the owner's record, then those of the journal.

    Args:
        story: the journal's, with the times of the steps.
        ranks: the run's, for attempts that never began to train.
        lives: of the owner's records.
        starts: by job, as Slurm has them, oldest first.
        saved: by phase, the step of the newest checkpoint.
    """
    spans: list[Held] = []
    ends: dict[str, float] = {}  # job -> when its last attempt so far ended
    attempts = story.attempts
    for place, attempt in enumerate(attempts):
        job, number, later = story.jobs[attempt.job], attempt.number, attempts[place + 1 :]
        of_slurm, life = starts.get(job.id, ()), lives.get((job.id, number))
        start = of_slurm[number] if number < len(of_slurm) else JobStart("")
        is_same = [(other.job, other.number) == (job.id, number) for other in attempts]
        was_here, goes_on = any(is_same[:place]), any(is_same[place + 1 :])  # at the phase before, at the next one
        began = ends[job.id] if was_here else _began(attempt, job, start, life)
        end, kept = _end(attempt, later, start, saved)
        by_slurm, last_sign = (None, 0.0) if goes_on else (start.ended_unix_s, life[1] if life else 0.0)
        queued = 0.0 if was_here or job.backend == "local" else began - max([job.since_unix_s, *ends.values()])
        ends[job.id] = max(began, _ended(attempt, later, by_slurm, last_sign, end))
        spans.append(
            Held(
                phase=attempt.phase,
                devices=attempt.world_size or ranks,
                began_unix_s=began,
                ended_unix_s=ends[job.id],
                trained_unix_s=attempt.started_unix_s,
                first_step=attempt.first_step,
                kept_step=kept,
                end=end,
                queue_s=max(0.0, queued),
            )
        )
    return spans


def _began(attempt: Attempt, job: JobStory, start: JobStart, life: tuple[float, float] | None) -> float:
    """When an attempt was given its devices: the first that is known of Slurm's, the owner's, the journal's times."""
    known = [start.began_unix_s, life[0] if life else None]
    known += [job.since_unix_s] if job.backend == "local" and attempt.number == 0 else []
    known += [attempt.started_unix_s, attempt.ended_unix_s]
    return next((time for time in known if time), job.since_unix_s)


def _end(attempt: Attempt, later: Sequence[Attempt], start: JobStart, saved: Mapping[int, int]) -> tuple[str, float]:
    """How an attempt ended, as in `Held.end`, and the last of its steps that counts."""
    after = [one.first_step for one in later if one.phase == attempt.phase and one.started_unix_s is not None]
    is_over = attempt.has_ended or bool(later) or start.ended_unix_s is not None
    if not is_over:
        return "running", float("inf")
    if attempt.exit_code in (EXIT_DONE, EXIT_CONTINUE):
        kept = min(after, default=float("inf"))
        return ("orderly" if attempt.step is None or attempt.step <= kept else UNDONE), kept
    cause = attempt.cause or cause_of_state(start.state)
    return str(cause or attempt.word or UNKNOWN), min([*after, *([] if after else [saved.get(attempt.phase, 0)])])


def _ended(attempt: Attempt, later: Sequence[Attempt], by_slurm: float | None, last_sign: float, end: str) -> float:
    """When an attempt let go of its devices; for one that runs, when its newest step ended."""
    if end == "running":
        has_stepped = attempt.alive_unix_s > (attempt.started_unix_s or 0.0)
        return attempt.alive_unix_s if has_stepped else max(attempt.alive_unix_s, last_sign)
    if by_slurm is not None:
        return by_slurm
    if attempt.ended_unix_s is not None:
        return attempt.ended_unix_s
    following = next((one.started_unix_s for one in later if one.started_unix_s is not None), float("inf"))
    return min(max(attempt.alive_unix_s, last_sign), following)
