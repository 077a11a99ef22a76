"""The settings that a run was started with: the one writer of its run.yml, and the one check that none has changed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.reading import read_text
from bertjobs.recipe.lockfile import decisive_settings, difference, lockfile, read_lockfile, with_phases_of
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import (
    check_settings,
    newest_valid,
    read_manifest,
    result_problem,
    steps,
)
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
            f"bertjobs submit --recipes {shlex.quote(str(directory.lockfile))} --recipe {spec.recipe} --run NAME",
        )


def check_start(spec: RunSpec, directory: RunDirectory) -> Path | None:
    """Make sure that the first of these phases can begin where the run's folder says: from a checkpoint of its own that
    was trained with its settings, or from the result of the phase before it. No large file is read.

    Args:
        spec: with the phases that are not done.

    Returns:
        The checkpoint; None if it begins from other weights, or if nothing can be said before its files are read.

    Raises:
        InputError: it cannot; names what is damaged, missing or different.
    """
    phase = directory.phase(spec.phases[0].phase)
    if newest := newest_valid(phase.checkpoints, read_manifest)[0]:
        check_settings(read_manifest(newest), decisive_settings(spec, phase.number), newest)
        return newest
    previous = max((one.number for one in directory.phases() if one.number < phase.number), default=None)
    if steps(phase.checkpoints) or previous is None:
        return None
    before = directory.phase(previous)
    if (done := before.done()) is None:
        return None
    if problem := result_problem(before.checkpoints, done.checkpoint, done.sha256):
        raise InputError(
            f"phase {phase.number} begins from the result of phase {previous}: {problem}",
            where=str(before.checkpoints),
            hint=f"restore it from a copy, or delete {before.done_file} to finish phase {previous} again from an "
            "earlier one",
        )
    return before.checkpoints / done.checkpoint


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
    if read_text(directory.lockfile) != text:
        directory.write_lockfile(text)


@contextmanager
def restored_on_failure(
    directory: RunDirectory, *, unless: tuple[type[Exception], ...] | type[Exception] = ()
) -> Iterator[None]:
    """run.yml is again what it was if what is done here fails: nothing was queued with the changed settings; after
    errors of the type ``unless`` something may have been."""
    before = read_text(directory.lockfile)
    try:
        yield
    except BaseException as error:
        if before is not None and not isinstance(error, unless):
            directory.write_lockfile(before)
        raise
