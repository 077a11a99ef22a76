"""What a rank has to do, decided before any tensor exists, and what is written about it in the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bertjobs.data.shards.epochs import resolved_with_data
from bertjobs.errors import CAUSE, InputError
from bertjobs.files.atomic import remove_leftovers
from bertjobs.recipe.catalogue import builtin_file, catalogue_files, load_catalogue
from bertjobs.recipe.lockfile import decisive_settings, read_lockfile, recipe_hash
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.schema import RUN
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.recipe.variables import read_environment
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import Attempt
from bertjobs.run.owner import NotOwnerError, Owners
from bertjobs.run.restarts import (
    NotRestartedError,
    RestartRefusal,
    beyond_budget,
    chain_attempts,
    complete_journal,
    no_progress,
)
from bertjobs.run.settings import check_unchanged, write_settings
from bertjobs.train.failure import cause_of, exit_code, kept
from bertjobs.train.objective import Objective, ObjectiveOf
from bertjobs.train.placement import Placement


@dataclass(frozen=True)
class PhaseJob:
    """One phase of one run, as all ranks see it: resolved once, then handed down.

    Attributes:
        spec: the run, with the values that depend on the data filled in.
        phase: the one to train.
        recipe_batch: its global batch in the recipe, before BATCHSIZE.
        previous: the number of the phase that this one continues, None for the first.
        directory: of the run.
        folder: of the phase in it.
        objective: what is trained.
        settings, recipe_hash: what decides the phase's weights, for its checkpoints.
    """

    spec: RunSpec
    phase: PhaseSpec
    recipe_batch: int
    previous: int | None
    directory: RunDirectory
    folder: PhaseDirectory
    objective: Objective
    settings: Mapping[str, Any]
    recipe_hash: str
    placement: Placement


def resolve_job(environ: Mapping[str, str], placement: Placement, objective_of: ObjectiveOf) -> PhaseJob:
    """The job that the environment describes, checked against the data. Writes nothing.

    A run that exists is continued with the settings in its run.yml; those in the environment take precedence.
    ``objective_of`` makes the objective from the run that they describe.

    Raises:
        InputError: a setting or the data are not valid.
    """
    environ = {"PHASE": "1", **{name: value for name, value in environ.items() if value}}
    files = catalogue_files(environ, Path.cwd())
    locked = find_lockfile(read_environment(environ))
    if locked is not None:
        before = read_lockfile(locked)
        environ = {"RECIPE": before.recipe, **environ}
        # A phase that is in run.yml needs no other file: the user may be editing them.
        known = environ["PHASE"] in {str(phase.phase) for phase in before.phases}
        files = [builtin_file(), locked] if known else [*files, locked]
    as_placed = partial(
        resolve, load_catalogue(files), flags={}, environ=environ, ranks_of_nodes=placement.ranks_of_nodes
    )
    resolved = resolved_with_data(as_placed)
    spec = resolved.spec
    if len(spec.phases) != 1:
        raise InputError("a worker trains one phase", where=f"PHASE={environ['PHASE']}", hint="set PHASE=1 or PHASE=2")
    objective = objective_of(spec)
    spec = objective.spec
    (phase,) = spec.phases
    number = phase.phase
    directory = RunDirectory(Path(spec.results) / spec.run)
    return PhaseJob(
        spec=spec,
        phase=phase,
        recipe_batch=resolved.recipe_batches[number],
        previous=max((earlier for earlier in resolved.recipe_phases if earlier < number), default=None),
        directory=directory,
        folder=directory.phase(number),
        objective=objective,
        settings=decisive_settings(spec, number),
        recipe_hash=recipe_hash(spec, number),
        placement=placement,
    )


def find_lockfile(settings: Mapping[str, str]) -> Path | None:
    """The run.yml of the run that is named in ``settings`` (from the environment), if the run exists."""
    run = settings.get("run") or settings.get("recipe")
    path = Path(settings.get("results") or RUN["results"].default) / (run or "") / "run.yml"
    return path if run and path.is_file() else None


def open_directory(job: PhaseJob, **started: Any) -> None:
    """Make the run's folders, write its run.yml, and continue its journal. Only rank 0 calls it, once all checks have
    passed; ``started`` holds further fields for the journal.

    Raises:
        InputError: the folder cannot be written, or as in `check_unchanged`.
        NotRestartedError: as in `check_restart`.
    """
    check_unchanged(job.spec, job.directory)
    job.directory.create()
    check_restart(job, int(started.get("step", 0)))
    job.folder.create()
    remove_leftovers(job.folder.root)
    write_settings(job.directory, job.spec)
    record(job, "started", world_size=job.spec.world_size, **started)


def check_owner(job: PhaseJob) -> None:
    """Make sure that no other attempt trains this run. Rank 0 alone calls it.

    The link, or the local launcher, has taken the run before; where no link could (no Python on its host), another
    owner's signs of life are all that is known.

    Raises:
        NotOwnerError: another one does.
    """
    owner = Owners(job.directory.owners).current(lambda _: None)
    if owner and not owner.is_attempt(*job.placement.owner):
        raise NotOwnerError(f"run {job.spec.run} is being trained by {owner.words()}", where=str(job.directory.root))


def still_owns(job: PhaseJob) -> bool:
    """Whether no other attempt has taken the run over, since this one seemed dead."""
    return Owners(job.directory.owners).owns(*job.placement.owner)


def check_still_owner(job: PhaseJob) -> None:
    """Make sure of `still_owns`. Rank 0 alone calls it.

    Raises:
        NotOwnerError: one has.
    """
    try:
        if still_owns(job):
            return
        last = Owners(job.directory.owners).last()
    except OSError:  # it cannot be seen now
        return
    if last:
        raise NotOwnerError(f"run {job.spec.run} was taken over by {last.words()}", where=str(job.directory.root))


def check_budgets(job: PhaseJob) -> None:
    """Make sure that there may be one more attempt of this chain. Rank 0 alone calls it.

    The link has completed the journal, by Slurm's word; where no link could, the attempt before has crashed.

    Raises:
        NotRestartedError: the recipe allows no further attempt.
    """
    if _chain(job):
        complete_journal(job.directory, job.phase.phase, job.placement.chain)
    _refuse(job, beyond_budget(_chain(job), job.spec.restarts))


def check_restart(job: PhaseJob, step: int) -> None:
    """Make sure that an attempt that begins at ``step`` would not go round in circles.

    Raises:
        NotRestartedError: it would.
    """
    _refuse(job, no_progress(_chain(job), step))


def _chain(job: PhaseJob) -> Sequence[Attempt]:
    placement = job.placement
    if not placement.attempt and placement.chain == placement.job:
        return ()  # started by hand, by a person who knows why
    return chain_attempts(job.directory.events(), job.phase.phase, placement.chain)


def _refuse(job: PhaseJob, refusal: RestartRefusal | None) -> None:
    if refusal:
        raise NotRestartedError(
            f"job {job.placement.job} was not restarted: {refusal.words}",
            spent_by=refusal.spent_by,
            where=str(job.directory.journal),
            hint="read the logs, then start the phase again by hand: it resumes from its last checkpoint",
        )


def record_failure(job: PhaseJob, error: Exception, of_other: Mapping[str, Any] | None = None) -> None:
    """Write to the journal that this attempt failed, and why; if that cannot be written, the log still says it.

    Args:
        error: the one that ended this rank.
        of_other: another rank's failure (`Ranks.reported_failure`), where ``error`` only says that it is gone.
    """
    failure = of_other or {CAUSE: cause_of(error), "error": kept(error)}
    with suppress(OSError):
        record(job, "ended", exit_code=exit_code(error), **failure)


def record_checkpoint(job: PhaseJob, step: int) -> None:
    """Write to the journal that this attempt has written a checkpoint: that is its progress, whatever other checkpoints
    there are. If it cannot be written, the checkpoint's folder still says it."""
    with suppress(OSError):
        record(job, "checkpoint", step=step)


def record(job: PhaseJob, event: str, **fields: Any) -> None:
    """Write an event of this attempt to the journal, if the run has a folder."""
    if job.directory.root.is_dir():
        placement = job.placement
        names = {"phase": job.phase.phase, "job": placement.job, "attempt": placement.attempt}
        names |= {"chain": placement.chain}
        job.directory.record(event, scheduler=placement.scheduler, **fields, **names)
