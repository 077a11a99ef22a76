"""Starting a run: the checks, the run directory, and its jobs on Slurm or on this machine."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from bertjobs.errors import EXIT_DONE, BertjobsError, InputError
from bertjobs.files.atomic import write_text
from bertjobs.files.new_paths import New
from bertjobs.launch import local
from bertjobs.launch.decision import End, Next, decide, has_advanced, recorded
from bertjobs.launch.ownership import Claim, claimed
from bertjobs.launch.script import submissions
from bertjobs.launch.source import write_source
from bertjobs.launch.unanswered import UnansweredError, queued_without_answer
from bertjobs.launch.watch.progress import ProgressView, ShownValidation
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.schema import check_path
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.checkpoints import last_written, result_problem
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.restarts import close_attempt
from bertjobs.run.settings import restored_on_failure, write_settings
from bertjobs.run.suspects import excluded, suspects
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.refusals import NoAnswer
from bertjobs.tasks.prepared import PreparedTask

_CHAIN = re.compile(r"chain-(\d+)")

Queueing = Callable[[RunDirectory, RunSpec, SlurmOptions, Sequence[str], str], dict[int, str]]
"""Queues a run's phases: given the run's directory and spec, sbatch's options, jobs to wait for and the chain's name,
it returns phase -> job id."""


def choose_backend(asked: str, spec: RunSpec, slurm: Slurm, resumed: RunDirectory | None = None) -> str:
    """Where a run goes: as asked; a ``resumed`` run that was on this machine stays here; otherwise to Slurm if there is
    one or GPUs are wanted, unless the system has no scheduler."""
    if asked != "auto":
        return asked
    submitted = [event for event in resumed.events() if event["event"] == "submitted"] if resumed else []
    if submitted and submitted[-1].get("backend") == "local":
        return "local"
    if spec.system.scheduler == "none":
        return "local"
    return "slurm" if spec.gpus or slurm.present else "local"


def absolute(spec: RunSpec) -> RunSpec:
    """``spec`` with absolute paths, as jobs start in other folders.

    Raises:
        InputError: the working directory's own path has characters that a path may not have.
    """

    def full(path: str) -> str:
        return check_path(os.path.normpath(Path(path).absolute()), "the path in full") if path else ""

    return replace(
        spec,
        data=full(spec.data),
        results=full(spec.results),
        init_checkpoint=full(spec.init_checkpoint),
        teacher=full(spec.teacher),
        image=full(spec.image) if spec.image and Path(spec.image).exists() else spec.image,
    )


def write_run(spec: RunSpec) -> RunDirectory:
    """Make the run directory with its lockfile and source."""
    directory = RunDirectory(Path(spec.results) / spec.run)
    directory.create()
    write_settings(directory, spec)
    write_source(directory.source)
    for phase in spec.phases:
        directory.phase(phase.phase).create()
    return directory


def queue(
    directory: RunDirectory,
    spec: RunSpec,
    options: SlurmOptions,
    slurm: Slurm,
    *,
    chain: str = "",
    after: Sequence[str] = (),
    python: str = sys.executable,
) -> dict[int, str]:
    """Queue a job for each phase, each waiting for the end of the one before; returns phase -> job id.

    All or nothing: if sbatch refuses one, those queued before it are cancelled.

    Raises:
        UnansweredError: nobody knows whether one was queued.
    """
    jobs: dict[int, str] = {}
    for submission in submissions(spec, options, python, chain=chain, after=after):
        write_text(submission.path, submission.script)
        try:
            jobs[submission.phase] = _submitted(submission.command(jobs), directory, slurm, jobs.values())
        except BaseException:
            if jobs:
                with suppress(BertjobsError):  # why it was not queued says more
                    slurm.cancel(list(jobs.values()))
            raise
    for number, job in jobs.items():
        directory.record("submitted", backend="slurm", phase=number, job=job, chain=chain)
    return jobs


def _submitted(words: Sequence[str], directory: RunDirectory, slurm: Slurm, known: Collection[str]) -> str:
    """Queue a job. Where sbatch gets no answer, the controller may have got the job: then it is in the queue."""
    try:
        return slurm.submit(words)
    except NoAnswer as error:
        if jobs := queued_without_answer(error, directory, slurm, known):
            return jobs[0]
        raise


def check_queue(directory: RunDirectory, slurm: Slurm) -> None:
    """Make sure that no job of a run is in the queue, not even one that the journal does not name.

    Raises:
        InputError: there is one.
        NoAnswer: squeue does not say.
    """
    if jobs := slurm.jobs_of_run(directory.name, directory.root):
        raise InputError(
            f"run {directory.name!r} already has jobs in the queue: {', '.join(jobs)}",
            where=str(directory.root),
            hint=f"wait, or stop them first: bertjobs cancel {directory.name}",
        )


def without_suspects(spec: RunSpec, options: SlurmOptions, slurm: Slurm) -> SlurmOptions:
    """``options`` that keep a run off nodes that recently proved unfit."""
    nodes = suspect_nodes(spec, slurm.node_count(options.partition))
    # Of several --exclude sbatch takes the last.
    given = [o.removeprefix("--exclude=") for o in (*options.site, *options.extra) if o.startswith("--exclude=")]
    return replace(options, extra=(*options.extra, f"--exclude={','.join([*given, *nodes])}")) if nodes else options


def next_chain(*directories: RunDirectory) -> str:
    """``chain-1``, ``chain-2``, ...: the name of the next submission of a run, or of several as one; none of them has
    it for an earlier one.

    All jobs that continue a run without another submit carry it, and share its budgets of restarts.
    """
    chains = [{str(event["chain"]) for event in directory.events() if event.get("chain")} for directory in directories]
    numbers = [int(match[1]) for names in chains for name in names if (match := _CHAIN.fullmatch(name))]
    return f"chain-{max([*map(len, chains), *numbers]) + 1}"


def suspect_nodes(spec: RunSpec, available: int) -> list[str]:
    """Nodes that recently failed a node check, as many of the ``available`` ones as the run can do without."""
    return excluded(suspects(Path(spec.results), time.time()), max(0, available - spec.nodes))


def start_on_slurm(
    spec: RunSpec, options: SlurmOptions, slurm: Slurm, *, after: Sequence[str] = (), by: Queueing | None = None
) -> tuple[RunDirectory, dict[int, str]]:
    """Write a run directory and queue its phases; a run that cannot be queued leaves nothing behind, and one that was
    there is as before.

    Raises:
        InputError: the run has jobs in the queue, or somebody else trains or queues it; or sbatch refused.
        NoAnswer: the controller does not answer, and nothing was queued.
        UnansweredError: nobody knows whether something was queued; the run's folder stays.

    ``after``: jobs whose end the first one waits for. ``by``: the function that queues the phases, by default `queue`.
    """
    results = Path(spec.results)
    directory = RunDirectory(results / spec.run)
    new = New.of([directory.root], [results])
    directory.create()
    chain = next_chain(directory)
    # Whoever does not get the claim removes nothing: the folder may be another's.
    with claimed(directory, slurm, chain=chain), new.removed_on_failure(unless=UnansweredError):
        check_queue(directory, slurm)
        with restored_on_failure(directory, unless=UnansweredError):
            write_run(spec)
            options = without_suspects(spec, options, slurm)
            if by is not None:
                return directory, by(directory, spec, options, after, chain)
            return directory, queue(directory, spec, options, slurm, chain=chain, after=after)


def start_here(spec: RunSpec, environ: Mapping[str, str], out: TextIO, here: local.LocalRanks | None = None) -> int:
    """Write a run directory and train its phases on this machine; returns the exit code as `run_here` does.

    ``here``: those of its ranks that run here, if others are started elsewhere.

    Raises:
        InputError: somebody else trains or queues the run.
    """
    directory = RunDirectory(Path(spec.results) / spec.run)
    directory.create()
    with claimed(directory, Slurm(environ)) as claim:
        with restored_on_failure(directory):
            write_run(spec)
        return run_here(directory, spec, environ, out, claim, here=here)


def run_here(
    directory: RunDirectory,
    spec: RunSpec,
    environ: Mapping[str, str],
    out: TextIO,
    claim: Claim,
    study: str = "",
    here: local.LocalRanks | None = None,
) -> int:
    """Run the phases of ``spec``, which this process has taken, one after the other on this machine, each with a live
    line. ``study``: the one whose runs this process trains.

    Returns the exit code of the first phase that did not end with 0, else 0.
    """
    environment = clean_environment(environ) | {"BERTJOBS_OWNER": claim.owner.job}
    launcher = local.identity() | ({"study": study} if study else {}) | ({"by_hand": True} if here else {})
    for phase in spec.phases:
        job = local.next_job(directory)
        directory.record("submitted", backend="local", phase=phase.phase, job=job, **launcher)
        if code := _phase_here(directory, spec, phase, job, environment, out, claim, here):
            return code
    return EXIT_DONE


def _phase_here(
    directory: RunDirectory,
    spec: RunSpec,
    phase: PhaseSpec,
    job: str,
    environment: Mapping[str, str],
    out: TextIO,
    claim: Claim,
    here: local.LocalRanks | None,
) -> int:
    """One phase: attempts as long as another is to follow; returns the last one's exit code. One that has ranks on
    other machines has one attempt: a person starts those."""
    folder = directory.phase(phase.phase)
    for attempt in itertools.count():
        log, before = folder.logs / f"{job}-{attempt}.out", last_written(folder.checkpoints)
        view = _view(folder, spec, phase, out)

        def watch(view: ProgressView = view) -> None:
            view.update()
            claim.beat()

        with local.started(spec, phase.phase, environment, log, job, attempt, here) as ranks:
            code, interrupted = local.wait_for(ranks, watch)
        view.close()
        if code == EXIT_DONE:
            break
        close_attempt(directory, phase.phase, job, code, source="launcher")
        ended = recorded(directory, phase.phase, job, attempt)
        end = End(
            code,
            told_to_end=interrupted,
            advanced=has_advanced(ended, folder.checkpoints, before),
            step_limit=bool(spec.steps_this_run),
            cause=ended.cause,
        )
        decision = decide(directory, ended, job, end, spec.restarts)
        out.write(f"phase {phase.phase} ended with code {code}; log: {log}\n" + local.tail(log))
        if here or decision.next is not Next.RESTART:
            break
        out.write(f"restarting phase {phase.phase} from {last_written(folder.checkpoints)}\n")
    return code


def _view(folder: PhaseDirectory, spec: RunSpec, phase: PhaseSpec, out: TextIO) -> ProgressView:
    """The live line of a phase; of a task with its measure and its epochs."""
    view = ProgressView(folder.metrics, phase.steps, out, folder.validation)
    if spec.task:
        with suppress(InputError):  # the worker will refuse the data, and say why
            prepared = PreparedTask.read(Path(spec.data))
            view.held_out = ShownValidation.of_task(prepared.measure)
            view.epoch_steps = prepared.epoch_steps(phase.global_batch)
    return view


def unfinished(directory: RunDirectory) -> RunSpec:
    """The run at its present place, with those of its phases that are not done.

    Raises:
        InputError: all are done, and whether the result is whole; or run.yml or a DONE.json is damaged.
    """
    spec = read_lockfile(directory.lockfile)
    spec = absolute(replace(spec, run=directory.name, results=str(directory.root.parent)))
    phases = tuple(phase for phase in spec.phases if directory.phase(phase.phase).done() is None)
    if phases:
        return replace(spec, phases=phases)
    last = directory.phase(spec.phases[-1].phase)
    if (done := last.done()) and (problem := result_problem(last.checkpoints, done.checkpoint, done.sha256)):
        raise InputError(
            f"run {spec.run!r} is done, but its result is damaged: {problem}",
            where=str(last.checkpoints),
            hint=f"restore it from a copy; or delete {last.done_file}, then resume: phase {last.number} begins again "
            "from its newest whole checkpoint",
        )
    raise InputError(f"run {spec.run!r} is done: nothing to resume", where=str(directory.root))
