"""A run seen from outside: what the run directory says, and what Slurm says about its jobs."""

from __future__ import annotations

import math
import socket
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE, BertjobsError
from bertjobs.launch.watch.damage import Damage, in_order, note_result, settings_of
from bertjobs.launch.watch.goodput import Goodput, goodput, held_by
from bertjobs.launch.watch.timeline import ACTIVE, Link, TimelineEntry, link_of, timeline
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.checkpoints import MANIFEST, newest_whole, step_of
from bertjobs.run.directory import Done, PhaseDirectory, RunDirectory
from bertjobs.run.events import LAST_UNIX_S
from bertjobs.run.journal import JobStory, Story, read_story
from bertjobs.run.owner import Owners
from bertjobs.run.result import phase_result
from bertjobs.run.series import LOSSES, loss_field
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import RUNNING, SUSPENDED, WAITING, JobReport, JobStart
from bertjobs.wording import duration

RECENT_STEPS = 20
LATE_STEPS = 10
LATE_S = 60.0
"""A step is late after the time of ten steps, but not within a minute: a checkpoint or validation takes time too."""

STEP_FIELDS = ("time_unix_s", "sequences_per_s", "step_time_s")
"""What a line of metrics.jsonl must have; of a phase that is done only the last ones are read."""
UNREADABLE = "UNREADABLE"
"""State of a run whose run.yml cannot be read."""
NO_SETTINGS = "NO run.yml"
"""State of a run that has none: its job ended before it wrote one, or has just begun."""

EXPECTED = set(ACTIVE) - {SUSPENDED}
"""States of a job whose end can be expected."""

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class PhaseStatus:
    """One phase of a run.

    Attributes:
        phase: its number; 0 for a whole run whose phases are not known, since its run.yml cannot be read.
        state: DONE, or its job's state (PENDING, RUNNING, CANCELLED, ...), or NOT STARTED; for a whole run `UNREADABLE`
            or `NO_SETTINGS`.
        job: the job that represents it (`bertjobs.launch.watch.timeline.link_of`), or "".
        source: of the state: "run directory", "sacct", "squeue" or "sacct+squeue".
        steps_done, steps: optimizer steps.
        loss_nats, sequences_per_s: of the newest step; None before the first.
        squared_error: its loss, where the labels are numbers: then there is no ``loss_nats``.
        step_age_s: seconds since the newest step.
        checkpoint: the newest checkpoint's name, or "".
        step_time_s: the median over the newest steps.
        late_s: seconds without a step, if it runs and they are far more than a step takes; else None.
        checkpoint_age_s: seconds since the newest checkpoint was written.
        result: the name of the checkpoint, maybe an earlier one, that a phase which is done has as its result; or "".
        reason: why it waits, in plain words, or "".
        start_unix_s: when Slurm expects a waiting job to start; None if it does not say.
        end_unix_s: when its last step is expected; None if unknown.
        end_how: how that was computed, in words.
        timeline: the attempts at it, and the jobs that wait for it, in chronological order.
        damage: what cannot be read, or is missing, in words.
        slow_ranks: those of the newest attempt that are slower than the others, in words; () once the phase is done.
        goodput: what its GPUs were used for; None if the run was not read whole.
    """

    run: str
    phase: int
    state: str
    job: str
    source: str
    steps_done: int
    steps: int
    loss_nats: float | None
    sequences_per_s: float | None
    step_age_s: float | None
    checkpoint: str
    step_time_s: float | None = None
    late_s: float | None = None
    checkpoint_age_s: float | None = None
    result: str = ""
    reason: str = ""
    start_unix_s: float | None = None
    end_unix_s: float | None = None
    end_how: str = ""
    timeline: tuple[TimelineEntry, ...] = ()
    damage: tuple[str, ...] = ()
    slow_ranks: tuple[str, ...] = ()
    goodput: Goodput | None = None
    squared_error: float | None = None

    @property
    def loss(self) -> float | None:
        """Whichever of the two the run has."""
        return self.squared_error if self.loss_nats is None else self.loss_nats

    def as_json(self) -> dict[str, Any]:
        """For programs: JSON has no NaN."""
        losses = {name: getattr(self, name) for name in LOSSES}
        finite = {name: loss if loss is not None and math.isfinite(loss) else None for name, loss in losses.items()}
        return {**asdict(self), **finite, "goodput": self.goodput.as_json() if self.goodput else None}


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder says.

    Attributes:
        spec: run.yml's; None if there is none, or if it cannot be read.
        story: the journal's.
        metrics: by phase.
        done: each phase's DONE.json; None if it has none, or if that cannot be read.
        damage: what cannot be read, or is missing, by phase, and under 0 what concerns the run; in words.
        validations: by phase; {} unless the run was read whole.
    """

    directory: RunDirectory
    spec: RunSpec | None
    story: Story
    metrics: Mapping[int, Lines]
    done: Mapping[int, Done | None]
    damage: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    validations: Mapping[int, Lines] = field(default_factory=dict)

    @property
    def undone(self) -> tuple[int, ...]:
        """The phases that are not done."""
        return tuple(number for number, done in self.done.items() if done is None)

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """Those of run.yml; () without one."""
        return self.spec.phases if self.spec else ()

    @property
    def on_slurm(self) -> list[str]:
        """Its jobs on Slurm; once all phases are done, only those that may still be queued."""
        jobs = [job for job in self.story.jobs.values() if job.backend != "local"]
        return [job.id for job in jobs if self.undone or not any(attempt.has_ended for attempt in job.attempts)]


@dataclass(frozen=True)
class RunStatus:
    """A run: its phases in order, its jobs, and why Slurm could not be asked, or ""."""

    directory: RunDirectory
    phases: tuple[PhaseStatus, ...]
    links: tuple[Link, ...]
    silence: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it has a queued or running job, or its launcher on this machine is about to start the next."""
        is_done = all(phase.state == "DONE" for phase in self.phases)
        here = (link for link in self.links if link.host == socket.gethostname())
        return any(link.is_active for link in self.links) or (not is_done and any(is_alive(link.pid) for link in here))


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs a bertjobs command on this machine."""
    try:
        return b"bertjobs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def journal_state(job: JobStory) -> str:
    """A job's state from the journal alone: how it ended, or for a local one whether its launcher is alive."""
    if ended := job.ended:
        by_code: dict[int | None, str] = {EXIT_DONE: "COMPLETED", EXIT_CONTINUE: "STOPPED"}
        return by_code.get(ended.exit_code, "FAILED")
    if job.backend != "local" or job.host != socket.gethostname():
        return "UNKNOWN"
    return "RUNNING" if is_alive(job.pid) else "FAILED"


def read_run(directory: RunDirectory, *, whole: bool = False) -> RunFiles:
    """Read a run's folder, as far as it can be read.

    Args:
        whole: all lines of all phases, not only the last of those that are done.
    """
    damage = Damage()
    spec = settings_of(directory, damage)
    numbers = [phase.phase for phase in spec.phases] if spec else [phase.number for phase in directory.phases()]
    done = {number: damage.read(number, directory.phase(number).done, None) for number in numbers}
    if numbers and (last := done[numbers[-1]]):
        note_result(directory.phase(numbers[-1]), last, damage)
    metrics = {
        number: damage.lines(
            number,
            directory.phase(number).metrics,
            *STEP_FIELDS,
            with_loss=True,
            newest=not whole and done[number] is not None,
        )
        for number in numbers
    }
    validations = {number: damage.lines(number, directory.phase(number).validation) for number in numbers if whole}
    step_times = {number: [line["time_unix_s"] for line in lines] for number, lines in metrics.items()}
    story = read_story(damage.read(0, directory.events, []), step_times if whole else None)
    if not story.jobs:
        story = _story_of_owner(directory)
    return RunFiles(directory, spec, story, metrics, done, damage.words, validations)


def _story_of_owner(directory: RunDirectory) -> Story:
    """The story of a run whose journal names no job: that of the job which took the run last, if there is one."""
    owner = None
    with suppress(OSError):
        owner = Owners(directory.owners).last()
    if owner is None or owner.scheduler != "slurm":
        return Story({})
    phase = next((folder.number for folder in directory.phases()), 1)
    return Story({owner.job: JobStory(owner.job, "slurm", phase, owner.taken_unix_s)})


def run_status(directory: RunDirectory, slurm: Slurm, now: float) -> list[PhaseStatus]:
    """Each phase's status.

    Raises:
        BertjobsError: Slurm gave no answer.
    """
    files = read_run(directory)
    return list(status_of(files, slurm.ask(files.on_slurm), now).phases)


def ask(runs: Sequence[RunFiles], slurm: Slurm) -> JobReport:
    """Slurm's answer about the jobs of these runs; if it gave none, an empty one that says why."""
    try:
        return slurm.ask([id for files in runs for id in files.on_slurm])
    except BertjobsError as error:
        return JobReport(silence=error.what)


def status_of(files: RunFiles, answer: JobReport, now: float) -> RunStatus:
    """A run's status from its folder and Slurm's answer."""
    own = {id: journal_state(job) for id, job in files.story.jobs.items()}
    ranks_per_node = files.spec.world_size / files.spec.nodes if files.spec else 1
    links = timeline(files.story, answer, own, files.metrics, ranks_per_node, files.undone)
    phases = tuple(_phase_status(files, phase, links, answer, now) for phase in files.phases)
    if not phases:
        phases = (_unknown_run(files, links),)
    elif damage := files.damage.get(0):
        phases = (replace(phases[0], damage=(*damage, *phases[0].damage)), *phases[1:])
    if files.spec and files.validations:
        used = run_goodput(files, files.spec, answer.starts)
        phases = tuple(replace(phase, goodput=used[phase.phase]) for phase in phases)
    return RunStatus(files.directory, phases, links, answer.silence if files.on_slurm else "")


def _unknown_run(files: RunFiles, links: Sequence[Link]) -> PhaseStatus:
    """The one row of a run whose run.yml is absent or cannot be read."""
    active = next((link for link in links if link.is_active), None)
    link = active or (links[-1] if links else None)
    return PhaseStatus(
        run=files.directory.name,
        phase=0,
        state=UNREADABLE if files.directory.has_lockfile else NO_SETTINGS,
        job=link.job if link else "",
        source="run directory",
        steps_done=max((lines[-1]["step"] for lines in files.metrics.values() if lines), default=0),
        steps=0,
        loss_nats=None,
        sequences_per_s=None,
        step_age_s=None,
        checkpoint="",
        damage=in_order(files.damage),
    )


def run_goodput(files: RunFiles, spec: RunSpec, starts: Mapping[str, Sequence[JobStart]]) -> dict[int, Goodput]:
    """By phase, what the GPUs of a run that was read whole were used for; ``starts`` by job, as Slurm has them."""
    directory = files.directory
    newest = {phase.phase: newest_whole(directory.phase(phase.phase).checkpoints) for phase in spec.phases}
    saved = {number: step_of(folder) if folder else 0 for number, folder in newest.items()}
    lives: dict[tuple[str, int], tuple[float, float]] = {}
    with suppress(OSError):
        lives = Owners(directory.owners).lifetimes()
    held = held_by(files.story, ranks=spec.world_size, lives=lives, starts=starts, saved=saved)
    return {
        number: goodput(
            [one for one in held if one.phase == number], lines, files.validations[number], is_gpu=bool(spec.gpus)
        )
        for number, lines in files.metrics.items()
    }


def _phase_status(
    files: RunFiles, phase: PhaseSpec, links: Sequence[Link], answer: JobReport, now: float
) -> PhaseStatus:
    folder, lines = files.directory.phase(phase.phase), files.metrics[phase.phase]
    link = link_of(phase.phase, links, files.undone) if phase.phase in files.undone else None
    state, source = (link.state, link.source) if link else ("NOT STARTED", "run directory")
    entries = tuple(entry for one in links for entry in one.entries if entry.phase == phase.phase)
    if phase.phase not in files.undone:
        state, link = "DONE", _last_link(entries, links)
    last = lines[-1] if lines else None
    loss = {name: last[name]} if last and (name := loss_field(last)) else {}
    step_time = statistics.median(line["step_time_s"] for line in lines[-RECENT_STEPS:]) if lines else None
    late = _late_s(folder, link, last, step_time, now) if state == "RUNNING" else None
    checkpoint = newest_whole(folder.checkpoints)
    end, how = expected_end(lines, phase.steps, step_time, now, link if state in EXPECTED else None, late)
    return PhaseStatus(
        run=files.directory.name,
        phase=phase.phase,
        state=state,
        job=link.job if link else "",
        source=answer.source if link and source != "run directory" else "run directory",
        steps_done=last["step"] if last else 0,
        steps=phase.steps,
        loss_nats=loss.get("loss_nats"),
        squared_error=loss.get("squared_error"),
        sequences_per_s=last["sequences_per_s"] if last else None,
        step_age_s=round(now - last["time_unix_s"], 1) if last else None,
        checkpoint=checkpoint.name if checkpoint else "",
        step_time_s=step_time,
        late_s=late,
        checkpoint_age_s=_age_s(checkpoint / MANIFEST, now) if checkpoint else None,
        result=result.name if (result := phase_result(folder, files.done[phase.phase])) else "",
        reason=_reason(phase.phase, link, links, files.undone),
        start_unix_s=link.start_unix_s if link and state in WAITING else None,
        end_unix_s=end,
        end_how=how,
        timeline=tuple(sorted(entries, key=_when)),
        damage=files.damage.get(phase.phase, ()),
        slow_ranks=_slow_ranks(files.story, phase.phase) if phase.phase in files.undone else (),
    )


def _slow_ranks(story: Story, phase: int) -> tuple[str, ...]:
    """The slow ranks of the newest attempt at a phase."""
    begun = [attempt for attempt in story.begun if attempt.phase == phase]
    return tuple(map(str, begun[-1].slow_ranks)) if begun else ()


def _reason(phase: int, link: Link | None, links: Sequence[Link], undone: Sequence[int]) -> str:
    """Why a phase waits, in plain words; "" if it does not."""
    if phase not in undone:
        return ""
    if link is None and phase != undone[0] and any(one.is_active for one in links):
        return f"it begins when phase {undone[0]} is done"
    return link.waits if link and link.state in WAITING else ""


def _last_link(entries: Sequence[TimelineEntry], links: Sequence[Link]) -> Link | None:
    begun = [entry.job for entry in sorted(entries, key=_when) if entry.state == "ended" and entry.attempt is not None]
    return next((link for link in links if begun and link.job == begun[-1]), None)


def _when(entry: TimelineEntry) -> float:
    """The key to sort by: what has not begun comes last."""
    return entry.started_unix_s or entry.ended_unix_s or float("inf")


def _age_s(file: Path, now: float) -> float | None:
    written = written_unix_s(file)
    return None if written is None else round(now - written, 1)


def written_unix_s(file: Path) -> float | None:
    """When a file was last written; None if there is none, or it cannot be asked."""
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _late_s(
    folder: PhaseDirectory, link: Link | None, last: Mapping[str, Any] | None, step_time: float | None, now: float
) -> float | None:
    """Seconds since the phase last made progress, if they are far more than a step takes; None before the first step of
    an attempt, which begins with reading data."""
    running = [entry for entry in link.entries if entry.state == "running"] if link else []
    if last is None or step_time is None or not running or last["time_unix_s"] < (running[-1].started_unix_s or 0.0):
        return None
    age = now - max(last["time_unix_s"], written_unix_s(folder.validation) or 0.0)
    return round(age, 1) if age > max(LATE_S, LATE_STEPS * step_time) else None


def expected_end(
    lines: Sequence[Mapping[str, Any]],
    total: int,
    step_time: float | None,
    now: float,
    link: Link | None,
    late_s: float | None,
) -> tuple[float | None, str]:
    """When a phase is expected to end, in seconds since 1970, and how that was computed; None and "" if it is unknown:
    no job trains it or will, it makes no progress, or it has not made two steps.

    With ``worked`` the sum of all steps' times, and ``lost`` the other time from the first step to the newest
    (restarts, waits in the queue, checkpoints, validations), the rest is assumed to lose time at the same rate::

        end = start + remaining steps x median time of the newest steps x (1 + lost / worked)

    where start is now, or for a waiting job, the time when Slurm expects it to start.
    """
    if (
        link is None
        or late_s is not None
        or step_time is None
        or len(lines) < 2
        or not (left := total - lines[-1]["step"])
    ):
        return None, ""
    first = lines[0]["time_unix_s"] - lines[0]["step_time_s"]
    worked = sum(line["step_time_s"] for line in lines)
    lost = max(0.0, lines[-1]["time_unix_s"] - first - worked)
    steps_s = left * step_time
    more_s = steps_s * lost / worked if worked else 0.0
    how = f"{left:,} steps at {step_time:.3g} s, the median of the last {min(RECENT_STEPS, len(lines))}"
    if more_s > steps_s / 200:
        how += f"; and {duration(more_s)}, as restarts, waits and checkpoints cost {duration(lost)} so far"
    start = now
    if link.state not in RUNNING:
        start = max(now, link.start_unix_s or now)
        how += ", once it starts" if link.start_unix_s else ", were it to start now"
    end = start + steps_s + more_s
    return (round(end), how) if end <= LAST_UNIX_S else (None, "")
