"""What a rank has to do, decided before any tensor exists: the resolved run, its phase, where it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bertjobs.data.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import catalogue_files, load_catalogue
from bertjobs.recipe.lockfile import difference, lockfile, recipe_hash, with_phases_of
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.atomic import sha256_of
from bertjobs.run.checkpoints import MANIFEST, DamagedCheckpointError, steps, verify
from bertjobs.run.directory import RunDirectory
from bertjobs.train.placement import Placement

DEFAULT_RESULTS = "results"


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
    locked = find_lockfile(environ)
    if locked is not None:
        environ = {"RECIPE": locked_recipe(locked), **environ}
    resolved = resolve(
        load_catalogue(catalogue_files(environ, Path.cwd(), [locked] if locked else [])),
        flags={},
        environ=environ,
        nodes=placement.nodes,
        tasks_per_node=placement.tasks_per_node,
    )
    spec = resolved.spec
    phase = spec.phases[0]
    data = DataManifest.read(Path(spec.data))
    data.check_vocabulary(spec.vocabulary)
    data.check_masking(spec.masking)
    data.check_files(phase.phase)
    data.check_shard_count(phase.phase, spec.world_size, spec.num_workers)
    spec = replace(spec, model=replace(spec.model, vocab_size=spec.model.vocab_size or data.vocabulary_size))
    earlier = [number for number in resolved.recipe_phases if number < phase.phase]
    directory = RunDirectory(Path(spec.results) / spec.run)
    return Job(spec, phase, max(earlier, default=None), directory, data, placement)


def find_lockfile(environ: Mapping[str, str]) -> Path | None:
    """The run.yml of the run that ``environ`` names, if the run exists."""
    run = environ.get("RUN") or environ.get("RECIPE")
    path = Path(environ.get("RESULTS") or DEFAULT_RESULTS) / (run or "") / "run.yml"
    return path if run and path.is_file() else None


def locked_recipe(lockfile: Path) -> str:
    """The name of the one recipe in a run.yml."""
    return load_catalogue([lockfile]).keys("recipes")[0]


def previous_checkpoint(job: Job) -> Path | None:
    """The checkpoint that this phase starts from: the one that the phase before names in its DONE.json.

    Raises:
        InputError: that phase is not done, or its checkpoint is damaged.
    """
    number = job.previous
    if number is None:
        return None
    directory = job.directory.phase(number)
    done = directory.done()
    if done is None:
        raise InputError(
            f"phase {job.phase.phase} starts from phase {number}, which is not done: there is no DONE.json",
            where=str(directory.done_file),
            hint=f"wait for phase {number}, or queue this one behind it: sbatch --dependency=afterany:JOB",
        )
    folder = directory.checkpoints / done.checkpoint
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        raise InputError(error.what, where=error.where, hint=f"phase {number} must be run again") from error
    if sha256_of(folder / MANIFEST) != done.sha256:
        raise InputError("the checkpoint is not the one that DONE.json names", where=str(folder))
    return folder


def open_directory(job: Job) -> None:
    """Make the run's folders and its lockfile, or check that the lockfile agrees. Rank 0 alone calls it.

    Raises:
        InputError: the phase was begun with other settings; names them.
    """
    job.directory.create()
    directory = job.directory.phase(job.phase.phase)
    directory.create()
    locked = job.directory.lockfile
    spec = replace(job.spec, steps_this_run=0)  # speaks of one job, not of the run
    if locked.is_file():
        before = resolve(load_catalogue([locked]), flags={"recipe": locked_recipe(locked)}, environ={}).spec
        started = steps(directory.checkpoints) or directory.done_file.exists()
        if started and (changed := difference(before, spec)):
            raise InputError(
                f"phase {job.phase.phase} of run {spec.run!r} was begun with other settings: {', '.join(changed)}",
                where=str(locked),
                hint="set them back, or choose another name with RUN",
            )
        spec = with_phases_of(spec, before)
    text = lockfile(spec)
    if not locked.is_file() or locked.read_text(encoding="utf-8") != text:
        job.directory.write_lockfile(text)
