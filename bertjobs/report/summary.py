"""A run in numbers, read from its directory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.launch.watch.damage import in_order
from bertjobs.launch.watch.goodput import HOUR_S, Goodput
from bertjobs.launch.watch.status import RunFiles, read_run, run_goodput
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.checkpoints import newest_whole
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import Attempt
from bertjobs.run.result import measured_result, phase_result
from bertjobs.run.series import lines_of_steps
from bertjobs.wording import duration, harmless

END_STEPS = 10
"""The training loss at the end is the mean over this many steps."""

MARGIN_NATS = 0.5

HELD_OUT_FIELDS = ("mlm_loss_nats", "mlm_accuracy", "unigram_cross_entropy_nats")
"""What every validation has."""
NEXT_SENTENCE_FIELD = "nsp_accuracy"
"""What one also has where next sentences are predicted."""


TAUGHT = {
    "soft_loss_nats": "divergence from the teacher's words, held-out (nats)",
    "hidden_squared_error": "squared error of hidden states, held-out",
    "relation_loss_nats": "divergence of relations, held-out (nats)",
}
"""What a student's validation has besides, with the words of its row."""


@dataclass(frozen=True)
class HeldOutScores:
    """One validation: losses in nats, accuracies 0 to 1.

    ``unigram_nats`` is the cross-entropy of the same masked tokens under the training text's word frequencies;
    ``nsp_accuracy`` is None where no next sentences are predicted.
    """

    step: int
    mlm_loss_nats: float
    mlm_accuracy: float
    nsp_accuracy: float | None
    unigram_nats: float

    @property
    def below_unigram_nats(self) -> float:
        """How far the masked-LM loss lies below the unigram line; negative above it."""
        return self.unigram_nats - self.mlm_loss_nats


@dataclass(frozen=True)
class PhaseSummary:
    """One phase.

    Attributes:
        spec: what was planned.
        steps_done: optimizer steps.
        done: whether the phase has its DONE.json.
        start_loss_nats, end_loss_nats: training loss (MLM + NSP where that is predicted) of the first step, and the
            mean of the last ``END_STEPS``; None before the first step.
        held_out: the validation of its result, or the last one; None if there was none.
        sequences_per_s: median over the steps, None before the first.
        wall_time_s: of all attempts together.
        attempts: number of starts.
        checkpoint: its result, or the newest complete one; None if there is none.
        goodput: what its GPUs were used for, as far as the run's folder says; Slurm is not asked.
        taught: of a student's validation, as in ``held_out``, those of `TAUGHT`.
    """

    spec: PhaseSpec
    steps_done: int
    done: bool
    start_loss_nats: float | None
    end_loss_nats: float | None
    held_out: HeldOutScores | None
    sequences_per_s: float | None
    wall_time_s: float
    attempts: int
    checkpoint: Path | None
    goodput: Goodput
    taught: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A run: what was planned, its phases in order, its attempts; ``damage`` is what cannot be read, in words."""

    spec: RunSpec
    root: Path
    phases: tuple[PhaseSummary, ...]
    attempts: tuple[Attempt, ...]
    damage: tuple[str, ...] = ()

    @property
    def last_started(self) -> PhaseSummary:
        """The last phase that has made a step."""
        return [phase for phase in self.phases if phase.steps_done][-1]

    @property
    def last_saved(self) -> PhaseSummary | None:
        """The last phase that has a checkpoint."""
        return next((phase for phase in reversed(self.phases) if phase.checkpoint), None)


def summarise(directory: RunDirectory) -> Summary:
    """The summary of a run that may still be running.

    Raises:
        InputError: run.yml cannot be read, or no step has been made yet.
    """
    files = read_run(directory, whole=True)
    spec = files.spec or read_lockfile(directory.lockfile)  # which says what is wrong with it
    if not any(files.metrics.values()):
        raise InputError(
            f"run {directory.name!r} has no metrics yet: no optimizer step has been made",
            where=str(directory.root),
            hint=f"see its progress with: bertjobs status {directory.name}",
        )
    used, attempts = run_goodput(files, spec, {}), files.story.begun
    held_out = [*HELD_OUT_FIELDS, *([NEXT_SENTENCE_FIELD] if spec.next_sentence else [])]
    phases = tuple(_phase_summary(phase, files, attempts, used[phase.phase], held_out) for phase in spec.phases)
    return Summary(spec, directory.root, phases, attempts, in_order(files.damage))


def learnt(summary: Summary, margin: float = MARGIN_NATS) -> bool:
    """Whether the model uses context: the held-out masked-LM loss of the last phase that was started, and of each
    finished one, is at least ``margin`` nats below the unigram line. A phase without validation has not shown it."""
    return all(phase.held_out is not None and phase.held_out.below_unigram_nats >= margin for phase in judged(summary))


def judged(summary: Summary) -> tuple[PhaseSummary, ...]:
    """The phases that ``learnt`` looks at."""
    return tuple(phase for phase in summary.phases if phase.done or phase is summary.last_started)


def rows(summary: Summary) -> list[list[str]]:
    """The table of a summary: one row per quantity, one column per phase, and the heads in the first row."""
    phases = summary.phases
    next_sentence = ["next sentence guessed, held-out", *(_held_out(phase, "nsp_accuracy", ".1%") for phase in phases)]
    return [
        ["", *(f"phase {phase.spec.phase}" for phase in phases)],
        ["steps", *(f"{phase.steps_done:,} of {phase.spec.steps:,}" for phase in phases)],
        ["training loss, start to end (nats)", *(_losses(phase) for phase in phases)],
        ["held-out masked-LM loss (nats)", *(_held_out(phase, "mlm_loss_nats", ".3f") for phase in phases)],
        ["unigram line (nats)", *(_held_out(phase, "unigram_nats", ".3f") for phase in phases)],
        ["below the unigram line (nats)", *(_held_out(phase, "below_unigram_nats", ".3f") for phase in phases)],
        ["masked words guessed, held-out", *(_held_out(phase, "mlm_accuracy", ".1%") for phase in phases)],
        *([next_sentence] if summary.spec.next_sentence else []),
        *_taught_rows(phases),
        ["sequences/s (median)", *(_number(phase.sequences_per_s, ",.1f") for phase in phases)],
        ["wall time", *(duration(phase.wall_time_s) if phase.attempts else "-" for phase in phases)],
        *_goodput_rows(phases),
        ["attempts", *(str(phase.attempts) for phase in phases)],
        ["checkpoint", *(phase.checkpoint.name if phase.checkpoint else "-" for phase in phases)],
    ]


def _taught_rows(phases: Sequence[PhaseSummary]) -> list[list[str]]:
    """How far a student is from its teacher, as far as any phase has measured it."""
    return [
        [words, *(_number(phase.taught.get(field), ".4f") for phase in phases)]
        for field, words in TAUGHT.items()
        if any(field in phase.taught for phase in phases)
    ]


def _goodput_rows(phases: Sequence[PhaseSummary]) -> list[list[str]]:
    """What was held, and the share of each part that any phase has; [] if nothing was."""
    used = [phase.goodput for phase in phases]
    if not any(one.held for one in used):
        return []
    parts = [dict(one.parts()) for one in used]
    names = [
        name for name in dict.fromkeys(name for one in parts for name in one) if any(one.get(name) for one in parts)
    ]
    rows = [[f"{used[0].unit} held", *(f"{one.held / HOUR_S:,.3g}" if one.held else "-" for one in used)]]
    for name in names:
        shares = [part.get(name, 0.0) / one.held if one.held else None for part, one in zip(parts, used, strict=True)]
        rows.append([f"  {name}", *(_number(share, ".1%") for share in shares)])
    if any(one.queue_s >= 1 for one in used):
        rows.append(["in the queue", *(duration(one.queue_s) for one in used)])
    return rows


def text(summary: Summary) -> str:
    """The summary for a terminal of 100 columns; only a long path may be wider."""
    spec, table = summary.spec, rows(summary)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"run {summary.root.name}: recipe {spec.recipe}, model {spec.model.name}, {spec.world_size} ranks", ""]
    for name, *cells in table:
        aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    lines += ["", *(verdict(phase) for phase in judged(summary))]
    if saved := summary.last_saved:
        lines += ["", f"checkpoint {saved.checkpoint}"]
    lines += ["", *(f"damaged: {words}" for words in summary.damage)] if summary.damage else []
    return harmless("\n".join(lines))


def verdict(phase: PhaseSummary) -> str:
    """One sentence: how the held-out loss compares with the unigram line."""
    held_out, name = phase.held_out, f"phase {phase.spec.phase}"
    if held_out is None and phase.taught:
        return f"{name}: the student learns from its teacher's layers alone, and no masked words"
    if held_out is None:
        return f"{name}: not validated yet"
    gap = held_out.below_unigram_nats
    side = "below" if gap >= 0 else "above"
    return (
        f"{name}: held-out masked-LM loss {held_out.mlm_loss_nats:.3f} nats, {abs(gap):.3f} {side} the unigram line "
        f"({held_out.unigram_nats:.3f})"
    )


def _phase_summary(
    spec: PhaseSpec, files: RunFiles, attempts: Sequence[Attempt], used: Goodput, held_out: Sequence[str]
) -> PhaseSummary:
    directory, metrics = files.directory.phase(spec.phase), files.metrics[spec.phase]
    losses = [line["loss_nats"] for line in metrics]
    validations, done = files.validations[spec.phase], files.done[spec.phase]
    measured = measured_result(lines_of_steps(validations, *held_out), done)
    taught = measured_result(lines_of_steps(validations), done)
    mine = [attempt for attempt in attempts if attempt.phase == spec.phase]
    return PhaseSummary(
        spec=spec,
        steps_done=metrics[-1]["step"] if metrics else 0,
        done=done is not None,
        start_loss_nats=losses[0] if losses else None,
        end_loss_nats=statistics.fmean(losses[-END_STEPS:]) if losses else None,
        held_out=_read_held_out(measured) if measured else None,
        sequences_per_s=statistics.median(line["sequences_per_s"] for line in metrics) if metrics else None,
        wall_time_s=sum(attempt.seconds for attempt in mine),
        attempts=len(mine),
        checkpoint=phase_result(directory, done) or newest_whole(directory.checkpoints),
        goodput=used,
        taught={field: taught[field] for field in TAUGHT if taught and field in taught},
    )


def _read_held_out(line: Mapping[str, Any]) -> HeldOutScores:
    return HeldOutScores(
        step=line["step"],
        mlm_loss_nats=line["mlm_loss_nats"],
        mlm_accuracy=line["mlm_accuracy"],
        nsp_accuracy=line.get(NEXT_SENTENCE_FIELD),
        unigram_nats=line["unigram_cross_entropy_nats"],
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _losses(phase: PhaseSummary) -> str:
    if phase.start_loss_nats is None:
        return "-"
    return f"{phase.start_loss_nats:.3f} to {_number(phase.end_loss_nats, '.3f')}"


def _held_out(phase: PhaseSummary, field: str, form: str) -> str:
    return "-" if phase.held_out is None else _number(getattr(phase.held_out, field), form)
