"""What a rank has to do, decided before any tensor exists, and what the run directory says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertjobs.data.batches.lddl_loader import check_lddl_loader
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.files.atomic import remove_leftovers
from bertjobs.recipe.catalogue import builtin_file, catalogue_files, load_catalogue
from bertjobs.recipe.environment import read_environment
from bertjobs.recipe.lockfile import difference, lockfile, read_lockfile, recipe_hash, with_phases_of
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.schema import RUN
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.restarts import (
    NotRestartedError,
    Refusal,
    beyond_budget,
    cause_by_slurm,
    chain_events,
    explanation,
    in_circles,
    is_open,
)
from bertjobs.train.placement import Placement


@dataclass(frozen=True)
class Job:
    """One phase of one run, as all ranks see it.

    ``previous`` is the number of the phase that this one continues, None for the first.
    """

    spec: RunSpec
    phase: PhaseSpec
    previous: int | None
    directory: RunDirectory
    data: DataManifest
    placement: Placement

    @property
    def recipe_hash(self) -> str:
        return recipe_hash(self.spec, self.phase.phase)


def resolve_job(environ: Mapping[str, str], placement: Placement) -> Job:
    """The job that the environment describes, checked against the data. Writes nothing.

    A run that exists is continued with the settings of its run.yml; the environment's go before them.

    Raises:
        InputError: any setting, or the data, is not as it must be.
    """
    environ = {"PHASE": "1", **{name: value for name, value in environ.items() if value}}
    files = catalogue_files(environ, Path.cwd())
    locked = find_lockfile(read_environment(environ))
    if locked is not None:
        before = read_lockfile(locked)
        environ = {"RECIPE": before.recipe, **environ}
        # A phase that stands in run.yml needs no other file: the user may be editing them.
        known = environ["PHASE"] in {str(phase.phase) for phase in before.phases}
        files = [builtin_file(), locked] if known else [*files, locked]
    resolved = resolve(
        load_catalogue(files),
        flags={},
        environ=environ,
        nodes=placement.nodes,
        tasks_per_node=placement.tasks_per_node,
    )
    spec = resolved.spec
    if len(spec.phases) != 1:
        raise InputError("a worker trains one phase", where=f"PHASE={environ['PHASE']}", hint="set PHASE=1 or PHASE=2")
    phase = spec.phases[0]
    data = DataManifest.read(Path(spec.data))
    data.check(spec)
    if spec.loader == "lddl":
        check_lddl_loader(data, spec)
    spec = data.sized(spec)
    earlier = [number for number in resolved.recipe_phases if number < phase.phase]
    directory = RunDirectory(Path(spec.results) / spec.run)
    return Job(spec, phase, max(earlier, default=None), directory, data, placement)


def find_lockfile(settings: Mapping[str, str]) -> Path | None:
    """The run.yml of the run that ``settings`` (from the environment) name, if the run exists."""
    run = settings.get("run") or settings.get("recipe")
    path = Path(settings.get("results") or RUN["results"].default) / (run or "") / "run.yml"
    return path if run and path.is_file() else None


def check_settings(job: Job) -> RunSpec | None:
    """The run as its run.yml has it, None for a new run.

    Raises:
        InputError: a phase of it was begun with other settings; names them.
    """
    if not job.directory.lockfile.is_file():
        return None
    before = read_lockfile(job.directory.lockfile)
    begun = tuple(phase for phase in before.phases if is_begun(job.directory.phase(phase.phase)))
    if begun and (changed := difference(replace(before, phases=begun), job.spec)):
        numbers = " and ".join(str(phase.phase) for phase in begun)
        raise InputError(
            f"phase {numbers} of run {job.spec.run!r} was begun with other settings: {', '.join(changed)}",
            where=str(job.directory.lockfile),
            hint="set them back, or choose another name with RUN",
        )
    return before


def is_begun(directory: PhaseDirectory) -> bool:
    """Whether a phase holds work that other settings would spoil."""
    return bool(steps(directory.checkpoints)) or directory.done_file.exists()


def open_directory(job: Job, **started: Any) -> None:
    """Make the run's folders, write its run.yml, and continue its journal. Rank 0 alone calls it, once nothing can
    be refused any more; ``started`` goes into the journal with it.

    Raises:
        InputError: the folder cannot be written, or as in `check_settings`.
        NotRestartedError: as in `check_restart`.
    """
    before = check_settings(job)
    job.directory.create()
    check_restart(job, int(started.get("step", 0)))
    directory = job.directory.phase(job.phase.phase)
    directory.create()
    remove_leftovers(directory.root)
    spec = replace(job.spec, steps_this_run=0)  # speaks of one job, not of the run
    text = lockfile(with_phases_of(spec, before) if before else spec)
    locked = job.directory.lockfile
    if not locked.is_file() or locked.read_text(encoding="utf-8") != text:
        job.directory.write_lockfile(text)
    record(job, "started", world_size=job.spec.world_size, **started)


def check_budgets(job: Job, last_state: str) -> None:
    """Complete the journal of this chain's attempts, and make sure that there may be one more. Rank 0 alone calls it.

    Args:
        last_state: sacct's word for the end of the attempt before, which may not have written it.

    Raises:
        NotRestartedError: the recipe allows no more.
    """
    events = _chain(job)
    names = {name: events[-1][name] for name in ("phase", "job", "attempt")} if events else {}
    names |= {"chain": job.placement.chain, "told_by": "sacct" if last_state else ""}
    if is_open(events):
        job.directory.record("ended", cause=cause_by_slurm(last_state), exit_code=None, **names)
    elif cause := explanation(events, last_state):
        job.directory.record("explained", cause=cause, **names)
    _refuse(job, beyond_budget(_chain(job), job.spec.restarts))


def check_restart(job: Job, step: int) -> None:
    """Make sure that an attempt that begins at ``step`` would not go round in circles.

    Raises:
        NotRestartedError: it would.
    """
    _refuse(job, in_circles(_chain(job), step))


def _chain(job: Job) -> list[Mapping[str, Any]]:
    placement = job.placement
    if not placement.attempt and placement.chain == placement.job:
        return []  # somebody has started it by hand, and knows why
    return chain_events(job.directory.events(), job.phase.phase, placement.chain)


def _refuse(job: Job, refusal: Refusal | None) -> None:
    if refusal:
        raise NotRestartedError(
            f"job {job.placement.job} was not restarted: {refusal.words}",
            spent_by=refusal.spent_by,
            where=str(job.directory.journal),
            hint="look at the logs, then start the phase again by hand: it continues from its last checkpoint",
        )


def record(job: Job, event: str, **fields: Any) -> None:
    """Write what this attempt does into the journal, if the run has a folder."""
    if job.directory.root.is_dir():
        placement = job.placement
        names = {"phase": job.phase.phase, "job": placement.job, "attempt": placement.attempt}
        names |= {"chain": placement.chain}
        job.directory.record(event, scheduler=placement.scheduler, **fields, **names)
