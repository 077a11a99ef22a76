"""The settings that a run was started with: the one writer of its run.yml, and the one check that none has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bertjobs.errors import InputError
from bertjobs.recipe.lockfile import difference, lockfile, read_lockfile, with_phases_of
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import PhaseDirectory, RunDirectory


def is_begun(phase: PhaseDirectory) -> bool:
    """Whether a phase holds work that other settings would corrupt."""
    return bool(steps(phase.checkpoints)) or phase.done_file.exists()


def begun_phases(directory: RunDirectory) -> set[int]:
    """Numbers of the phases that have begun (`is_begun`)."""
    return {phase.number for phase in directory.phases() if is_begun(phase)}


def check_unchanged(spec: RunSpec, directory: RunDirectory, fixed: Collection[int] | None = None) -> None:
    """Make sure that the settings which decide a run's weights are those that its phases began with.

    Args:
        fixed: numbers of the phases whose settings must stay; None: those that have begun.

    Raises:
        InputError: they are not; names the settings. Or its run.yml cannot be read.
    """
    if not directory.lockfile.is_file():
        return
    before = read_lockfile(directory.lockfile)
    numbers = begun_phases(directory) if fixed is None else set(fixed)
    kept = replace(before, phases=tuple(phase for phase in before.phases if phase.phase in numbers))
    if numbers and (changed := difference(kept, spec)):
        words = " and ".join(map(str, sorted(numbers)))
        raise InputError(
            f"phase {words} of run {spec.run!r} was started with other settings: {', '.join(changed)}",
            where=str(directory.lockfile),
            hint="set them back, or start another run, with another RUN or: "
            f"bertjobs submit --recipes {directory.lockfile} --recipe {spec.recipe} --run NAME",
        )


def settings_text(directory: RunDirectory, spec: RunSpec) -> str:
    """run.yml of a run; phases that it already has and ``spec`` has not are kept.

    Raises:
        InputError: the existing run.yml cannot be read.
    """
    locked = replace(spec, steps_this_run=0)  # concerns one job, not the run
    if directory.lockfile.is_file():
        locked = with_phases_of(locked, read_lockfile(directory.lockfile))
    return lockfile(locked)


def write_settings(directory: RunDirectory, spec: RunSpec) -> None:
    """Write run.yml, unless it is right already.

    Raises:
        InputError: as in `settings_text`.
        OSError: it cannot be written.
    """
    text = settings_text(directory, spec)
    if not directory.lockfile.is_file() or directory.lockfile.read_text(encoding="utf-8") != text:
        directory.write_lockfile(text)


@contextmanager
def restored_on_failure(
    directory: RunDirectory, *, unless: tuple[type[Exception], ...] | type[Exception] = ()
) -> Iterator[None]:
    """run.yml is again what it was if what is done here fails: nothing was queued with the changed settings; after
    errors of the type ``unless`` something may have been."""
    before = directory.lockfile.read_text(encoding="utf-8") if directory.lockfile.is_file() else None
    try:
        yield
    except BaseException as error:
        if before is not None and not isinstance(error, unless):
            directory.write_lockfile(before)
        raise
