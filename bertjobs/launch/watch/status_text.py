"""Status for people: one table of all runs, or one run's timeline and phases."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bertjobs.launch.watch.status import PhaseStatus, RunStatus
from bertjobs.launch.watch.timeline import TimelineEntry
from bertjobs.slurm.jobs import RUNNING, SUSPENDED, WAITING
from bertjobs.slurm.shell import quote
from bertjobs.wording import PLAIN, Colour, Paint, columns, duration, harmless

DAY_S = 86400.0


def colour_of(state: str) -> Colour | None:
    """Of a phase's state: done or moving, waiting, or ended before it was done; None for one that says
    nothing of it."""
    if state in (*WAITING, SUSPENDED, "STOPPED"):
        return Colour.WAITING
    if state in ("DONE", *RUNNING):
        return Colour.GOOD
    return None if state in ("NOT STARTED", "UNKNOWN", "COMPLETED") else Colour.BAD


def status_text(rows: Sequence[PhaseStatus], paint: Paint = PLAIN) -> str:
    """The table of ``bertjobs status``: one row per phase."""
    head = ["run", "phase", "state", "job", "step", "loss", "sequences/s", "last step", "checkpoint", "source"]
    body = [
        [
            row.run,
            str(row.phase or "-"),
            paint(row.state, colour_of(row.state)),
            row.job or "-",
            f"{row.steps_done}/{row.steps if row.phase else '?'}",
            "-" if row.loss is None else f"{row.loss:.3f}",
            "-" if row.sequences_per_s is None else f"{row.sequences_per_s:,.1f}",
            "-" if row.step_age_s is None else f"{duration(row.step_age_s)} ago" + _late(row, paint),
            row.checkpoint or "-",
            row.source,
        ]
        for row in rows
    ]
    notes = [f"{row.run}: {words}" for row in rows for words in row.damage]
    heads = [paint(name, Colour.HEAD) for name in head]
    return harmless("\n".join([*columns([heads, *body]), *([""] if notes else []), *notes]), paint)


def _late(row: PhaseStatus, paint: Paint) -> str:
    return paint(" (late)", Colour.BAD) if row.late_s else ""


def run_text(run: RunStatus, now: float, paint: Paint = PLAIN) -> str:
    """One run: its jobs and attempts in chronological order, then each phase."""
    entries = sorted(
        (entry for link in run.links for entry in link.entries),
        key=lambda entry: entry.started_unix_s or entry.ended_unix_s or float("inf"),
    )
    blocks = [f"run {run.directory.name}, {run.directory.root}"]
    if run.silence:
        blocks[0] += f"\nSlurm gave no answer, so this comes from the run's folder: {run.silence}"
    if entries:
        heads = [paint(name, Colour.HEAD) for name in _HEAD]
        blocks.append("\n".join(columns([heads, *(_row(entry, now) for entry in entries)])))
    blocks += ["\n".join(phase_lines(phase, now, paint)) for phase in run.phases]
    return harmless("\n\n".join(blocks), paint)


_HEAD = ["job", "queued as", "attempt", "phase", "nodes", "started", "ended", "steps", "outcome"]


def _row(entry: TimelineEntry, now: float) -> list[str]:
    ended = clock(entry.ended_unix_s, now)
    words = entry.words
    if entry.state == "running":
        ended, words = f"{_for(entry.started_unix_s, now)}", "running"
    elif entry.state == "starting":
        ended, words = _for(entry.started_unix_s, now), "has its nodes; the worker has not started training"
    elif entry.state == "waiting":
        words = f"queued: {entry.words}"
    return [
        entry.job,
        entry.link,
        "-" if entry.attempt is None else str(entry.attempt),
        str(entry.phase),
        entry.nodes or "-",
        clock(entry.started_unix_s, now),
        ended,
        "-" if entry.first_step is None else f"{entry.first_step}-{entry.last_step}",
        words,
    ]


def _for(since: float | None, now: float) -> str:
    return "-" if since is None else f"for {duration(now - since)}"


def clock(unix_s: float | None, now: float) -> str:
    """A time in this machine's time zone, with the date if it is half a day or more from ``now``."""
    if unix_s is None:
        return "-"
    pattern = "%H:%M:%S" if abs(now - unix_s) < DAY_S / 2 else "%d %b %H:%M"
    return time.strftime(pattern, time.localtime(unix_s))


def phase_lines(phase: PhaseStatus, now: float, paint: Paint = PLAIN) -> list[str]:
    """All about one phase: its state and the source of it, why it waits, steps, loss, checkpoint, expected end."""
    job = f", job {phase.job}" if phase.job else ""
    name = f"phase {phase.phase}" if phase.phase else "all phases"
    state = paint(phase.state, colour_of(phase.state))
    lines = [f"{name}: {state}{job} (source: {phase.source})"]
    lines += [f"  damaged     {words}" for words in phase.damage]
    if not phase.phase:
        return [*lines, f"  next        bertjobs doctor {quote(phase.run)}"]
    if phase.reason:
        lines.append(f"  waits       {phase.reason}")
    if phase.start_unix_s is not None:
        lines.append(f"  start       {clock(phase.start_unix_s, now)}, as Slurm expects")
    lines.append(f"  step        {phase.steps_done:,} of {phase.steps:,}{_pace(phase)}")
    if phase.late_s is not None:
        warning = paint("NO PROGRESS", Colour.BAD)
        lines.append(f"  {warning} for {duration(phase.late_s)}, though the job runs; see: bertjobs doctor {phase.run}")
    lines += [f"  slow        {words}" for words in phase.slow_ranks]
    if phase.loss is not None and phase.sequences_per_s is not None:
        unit = "squared error" if phase.loss_nats is None else "nats"
        lines.append(f"  loss        {phase.loss:.4f} {unit}, {phase.sequences_per_s:,.1f} sequences/s")
    if phase.checkpoint:
        age = "" if phase.checkpoint_age_s is None else f", {duration(phase.checkpoint_age_s)} ago"
        lines.append(f"  checkpoint  {phase.checkpoint}{age}")
    if phase.result not in ("", phase.checkpoint):
        lines.append(f"  result      {phase.result}, the best on held-out data")
    if phase.goodput and phase.goodput.held:
        lines.append(f"  {phase.goodput.unit:<10}  {phase.goodput.words()}")
    if phase.end_unix_s is not None:
        left = duration(phase.end_unix_s - now)
        lines += [
            f"  end         expected {clock(phase.end_unix_s, now)}, in {left}:",
            f"              {phase.end_how}",
        ]
    return lines


def _pace(phase: PhaseStatus) -> str:
    if phase.step_age_s is None or phase.step_time_s is None:
        return ""
    if phase.state == "DONE":
        return f" ({duration(phase.step_age_s)} ago)"
    share, age = phase.steps_done / phase.steps, duration(phase.step_age_s)
    return f" ({share:.1%}); the last {age} ago, each {phase.step_time_s:.3g} s"
