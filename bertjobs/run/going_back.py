"""Going back to an earlier checkpoint of a phase: those of later steps are set aside, under names that no reader takes
for a checkpoint's. They are whole: whoever wants them back renames them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.run.checkpoints import DamagedCheckpointError, read_manifest, step_of, steps
from bertjobs.run.directory import PhaseDirectory

LAST_STEP = 10**9
"""Above any that can be asked for."""
ASIDE = "set-aside-"
"""What the names of checkpoints that were set aside begin with."""


def set_aside(phase: PhaseDirectory, step: int) -> Mapping[Path, Path]:
    """Make the checkpoint of ``step`` a phase's newest one.

    Returns:
        Where each of the later ones was -> where it is.

    Raises:
        InputError: there is no such checkpoint, or it is damaged; nothing was changed.
    """
    folders = steps(phase.checkpoints)
    chosen = [folder for folder in folders if step_of(folder) == step]
    if not chosen:
        known = ", ".join(f"{step_of(folder)}" for folder in folders)
        raise InputError(
            f"phase {phase.number} has no checkpoint of step {step}",
            where=str(phase.checkpoints),
            hint=f"it has those of {known}" if known else "it has none yet",
        )
    try:
        read_manifest(chosen[0])
    except DamagedCheckpointError as error:
        raise InputError(error.what, where=error.where, hint="choose another step") from error
    moved: dict[Path, Path] = {}
    with put_back_on_failure(moved):
        for folder in folders:
            if step_of(folder) > step:
                aside = _free_name(folder)
                folder.rename(aside)
                moved[folder] = aside
    return moved


@contextmanager
def put_back_on_failure(
    moved: Mapping[Path, Path], *, unless: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Checkpoints that were set aside are where they were if what is done here fails, except by ``unless``."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, unless):
            put_back(moved)
        raise


def put_back(moved: Mapping[Path, Path]) -> None:
    """Undo `set_aside`."""
    for folder, aside in moved.items():
        aside.rename(folder)


def _free_name(folder: Path) -> Path:
    """A step may be set aside more than once."""
    names = (f"{ASIDE}{folder.name}" + (f"-{number}" if number > 1 else "") for number in range(1, 10_000))
    return next(path for path in map(folder.with_name, names) if not path.exists())
