"""What is known about a run: the run directory's files, the ends of its logs, and what Slurm says about its jobs.

`collect` reads; nothing here judges. If Slurm is silent or absent, the files are the only source.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bertjobs.errors import CAUSE, BertjobsError
from bertjobs.files.json_lines import numbers
from bertjobs.launch.doctor.log_errors import LogError, batch_parts, errors_in
from bertjobs.launch.watch.damage import Damage, in_order, settings_of
from bertjobs.launch.watch.logs import is_labelled, named_attempt, shown
from bertjobs.launch.watch.status import journal_state, written_unix_s
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import MANIFEST, newest_whole, result_problem
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import Attempt, JobStory, read_story
from bertjobs.run.own_job import is_slurm_job
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import Job
from bertjobs.slurm.shell import quote

TAIL_BYTES = 1 << 20
"""Read from a log's end: enough for the stacks of a few hundred ranks."""

LAST_LINES = 8
RECENT_STEPS = 20


@dataclass(frozen=True)
class AttemptLog:
    """What the logs say about an attempt.

    Attributes:
        path: the worker's log below the run's folder, or "".
        written_unix_s: when that was last written; 0 without a log.
        errors: those in it and in the batch script's log, in order.
        last_lines: of the worker's log.
        exit_code: of the attempt, as the batch script printed it; None if it did not.
    """

    path: str = ""
    written_unix_s: float = 0.0
    errors: tuple[LogError, ...] = ()
    last_lines: tuple[str, ...] = ()
    exit_code: int | None = None


@dataclass(frozen=True)
class AttemptEvidence:
    """One start of a phase's worker: as the journal has it, and as its logs do."""

    attempt: Attempt
    log: AttemptLog = AttemptLog()

    @property
    def job(self) -> str:
        return self.attempt.job

    @property
    def number(self) -> int:
        return self.attempt.number

    @property
    def began_unix_s(self) -> float:
        """When it began to train; if it did not get that far, when it was last seen."""
        return self.attempt.started_unix_s or self.log.written_unix_s or self.attempt.ended_unix_s or 0.0

    @property
    def cause(self) -> Cause | None:
        """Why it ended, as the journal has it."""
        return self.attempt.explained or self.attempt.cause

    @property
    def exit_code(self) -> int | None:
        return self.log.exit_code if self.attempt.exit_code is None else self.attempt.exit_code

    @property
    def errors(self) -> tuple[LogError, ...]:
        """The errors in the logs, and the one in the journal."""
        failure = self.attempt.failure
        if failure is None:
            return self.log.errors
        fields = {CAUSE: self.attempt.word, **(failure.facts or {})} if self.attempt.cause else {}
        return (*self.log.errors, LogError(failure.rank, failure.lines, fields))

    @property
    def refusal(self) -> LogError | None:
        """Its error, if it was not begun because of how those before it ended."""
        return next((error for error in self.errors if error.cause is Cause.NOT_RESTARTED), None)


@dataclass(frozen=True)
class PhaseEvidence:
    """One phase.

    Attributes:
        number, steps: which, and its optimizer steps in all.
        is_done: whether its DONE.json is there.
        result_problem: what is wrong with the checkpoint that it names, if anything is.
        step, step_unix_s: the newest step, 0 and None before the first.
        alive_unix_s: when a step or a validation last ended.
        step_time_s: median of the newest steps.
        checkpoint, checkpoint_unix_s, checkpoint_bytes: of the newest whole one: its name, time of writing and size.
        has_script: whether its batch script is there, as `submit` wrote it.
        jobs, attempts: oldest first.
    """

    number: int
    steps: int
    is_done: bool = False
    result_problem: str = ""
    step: int = 0
    step_unix_s: float | None = None
    alive_unix_s: float | None = None
    step_time_s: float | None = None
    checkpoint: str = ""
    checkpoint_unix_s: float = 0.0
    checkpoint_bytes: int = 0
    has_script: bool = False
    jobs: tuple[Job, ...] = ()
    attempts: tuple[AttemptEvidence, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Everything known about a run.

    Attributes:
        spec: run.yml's.
        folder: the run's.
        target: the words that name the run on a command line.
        now_unix_s: when this was collected.
        phases: in order.
        free_bytes: free space where the run's folder is.
        silence: why Slurm could not be asked, or "".
        damage: what of the folder cannot be read, in words.
        by_hand: whether a person started each of its nodes.
    """

    spec: RunSpec
    folder: Path
    target: str
    now_unix_s: float
    phases: tuple[PhaseEvidence, ...] = field(default=())
    free_bytes: int = 0
    silence: str = ""
    damage: tuple[str, ...] = ()
    by_hand: bool = False

    @property
    def resume(self) -> str:
        """The command that continues the run; the one for each of its nodes, if a person starts them."""
        if not self.by_hand:
            return f"bertjobs resume {self.target}"
        recipe = f"--recipes {quote(str(self.folder / 'run.yml'))} --recipe {self.spec.recipe}"
        run = f"--run {quote(self.folder.name)} --results {quote(str(self.folder.parent))}"
        return f"bertjobs worker --rendezvous HOST:PORT --node-rank N {recipe} {run}"


@dataclass(frozen=True)
class UnknownRun:
    """What is known about a run without a run.yml, or with a damaged one.

    Attributes:
        has_settings: whether there is a run.yml, which is damaged then.
        folder, target, phases, damage: as in `Evidence`; the phases are those that have a folder.
    """

    has_settings: bool
    folder: Path
    target: str
    phases: tuple[PhaseEvidence, ...]
    damage: tuple[str, ...]


def collect(directory: RunDirectory, slurm: Slurm, target: str, now: float) -> Evidence | UnknownRun:
    """Read all evidence about a run, as far as its files can be read."""
    damage = Damage()
    spec = settings_of(directory, damage)
    story = read_story(damage.read(0, directory.events, []))
    asked = {job.id for job in story.jobs.values() if job.backend != "local"}
    # Jobs that ended before the journal named them have logs: <job>-<attempt>.out, slurm-<job>.out.
    names = [file.stem for folder in directory.phases() for file in folder.outputs()]
    asked |= {job for name in names if is_slurm_job(job := name.removeprefix("slurm-").split("-")[0])}
    slurm_jobs, silence = {}, ""
    try:
        slurm_jobs = slurm.jobs(sorted(asked))
    except BertjobsError as error:
        silence = error.what
    totals = {phase.number: 0 for phase in directory.phases()}
    if spec:
        totals = {phase.phase: phase.steps for phase in spec.phases}
    phases = tuple(
        _phase(
            directory.phase(number),
            total,
            [job.at(number) for job in story.jobs.values() if job.phase == number or job.at(number).attempts],
            slurm_jobs,
            damage,
        )
        for number, total in totals.items()
    )
    words = in_order(damage.words)
    if spec is None:
        return UnknownRun(directory.has_lockfile, directory.root, target, phases, words)
    return Evidence(
        spec=spec,
        folder=directory.root,
        target=target,
        now_unix_s=now,
        phases=phases,
        free_bytes=shutil.disk_usage(directory.root).free,
        silence=silence,
        damage=words,
        by_hand=bool(story.jobs) and list(story.jobs.values())[-1].is_by_hand,
    )


def _phase(
    folder: PhaseDirectory,
    total: int,
    journal: Sequence[JobStory],
    slurm_jobs: Mapping[str, Job],
    damage: Damage,
) -> PhaseEvidence:
    metrics = damage.lines(folder.number, folder.metrics, "time_unix_s")[-RECENT_STEPS:]
    last = metrics[-1] if metrics else {}
    times = [*(line["time_unix_s"] for line in metrics[-1:]), written_unix_s(folder.validation)]
    newest = newest_whole(folder.checkpoints)
    done = damage.read(folder.number, folder.done, None)
    jobs, attempts = _jobs(folder, journal, slurm_jobs)
    return PhaseEvidence(
        number=folder.number,
        steps=total,
        is_done=done is not None,
        result_problem=result_problem(folder.checkpoints, done.checkpoint, done.sha256) if done else "",
        step=last.get("step", 0),
        step_unix_s=last.get("time_unix_s"),
        alive_unix_s=max((time for time in times if time is not None), default=None),
        step_time_s=statistics.median(took) if (took := numbers(metrics, "step_time_s")) else None,
        checkpoint=newest.name if newest else "",
        checkpoint_unix_s=(written_unix_s(newest / MANIFEST) or 0.0) if newest else 0.0,
        checkpoint_bytes=sum(file.lstat().st_size for file in newest.iterdir()) if newest else 0,
        has_script=os.access(folder.script, os.R_OK),
        jobs=jobs,
        attempts=attempts,
    )


def _jobs(
    folder: PhaseDirectory, journal: Sequence[JobStory], slurm_jobs: Mapping[str, Job]
) -> tuple[tuple[Job, ...], tuple[AttemptEvidence, ...]]:
    """A phase's jobs and attempts, from the journal, the names of the logs, and Slurm's answer."""
    logs = _logs(folder)
    attempts = {key: AttemptEvidence(Attempt(folder.number, *key), log) for key, log in logs.items()}
    since: dict[str, float] = {}
    for (id, _), log in logs.items():
        since[id] = min(log.written_unix_s, since.get(id, log.written_unix_s))
    jobs = {id: slurm_jobs.get(id, Job(id, "slurm" if is_slurm_job(id) else "local")) for id in since}
    for job in journal:
        since[job.id] = job.since_unix_s
        own = Job(job.id, job.backend, journal_state(job))
        jobs[job.id] = replace(slurm_jobs.get(job.id, own), backend=job.backend, cancelled=job.is_cancelled)
        for attempt in job.attempts:
            attempts[job.id, attempt.number] = AttemptEvidence(
                attempt, logs.get((job.id, attempt.number), AttemptLog())
            )
    ordered = sorted(jobs, key=lambda id: since[id])
    return (
        tuple(jobs[id] for id in ordered),
        tuple(attempts[key] for key in sorted(attempts, key=lambda key: (since[key[0]], key[1]))),
    )


def _logs(folder: PhaseDirectory) -> dict[tuple[str, int], AttemptLog]:
    """What the logs say, by job and attempt; if only a job's batch script wrote one, it counts as attempt 0."""
    logs: dict[tuple[str, int], AttemptLog] = {}
    outputs = folder.outputs()
    for file in outputs:
        if (named := named_attempt(file)) is not None:
            logs[named] = _log(file, folder)
    for file in (file for file in outputs if file.stem.startswith("slurm-") and file.is_file()):
        job = file.stem.removeprefix("slurm-")
        attempts = sorted(attempt for id, attempt in logs if id == job)
        if not attempts:
            logs[job, 0] = _log(file, folder)
            continue
        for attempt, (code, own) in batch_parts(_tail(file), attempts[-1]).items():
            if attempt in attempts:
                before = logs[job, attempt]
                logs[job, attempt] = replace(before, exit_code=code, errors=before.errors + errors_in(own))
    return logs


def _log(file: Path, folder: PhaseDirectory) -> AttemptLog:
    lines = _tail(file)
    return AttemptLog(
        path=str(file.relative_to(folder.root.parent)),
        written_unix_s=written_unix_s(file) or 0.0,
        errors=errors_in(lines),
        last_lines=tuple(line for line in lines if line.strip())[-LAST_LINES:],
    )


def _tail(file: Path) -> list[str]:
    """The last lines, none if the file cannot be read; those of ranks other than 0 begin with ``rank N:``."""
    try:
        with open(file, "rb") as handle:
            labelled = is_labelled(handle.readline().decode(errors="replace"))
            handle.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = handle.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in (shown(line, None, labelled) for line in lines) if line is not None]
