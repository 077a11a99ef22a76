"""What of a run's folder cannot be read, or is missing: collected, so that it costs its own row and not the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from bertjobs.errors import InputError, InputErrors
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import result_problem
from bertjobs.run.directory import Done, PhaseDirectory, RunDirectory
from bertjobs.run.series import Line, read_steps
from bertjobs.wording import counted

T = TypeVar("T")


class Damage:
    """Collects what of a run cannot be read, by phase; 0 for what concerns the whole run."""

    def __init__(self) -> None:
        self.words: dict[int, tuple[str, ...]] = {}

    def note(self, phase: int, words: str) -> None:
        """Add something that is damaged or missing."""
        self.words[phase] = (*self.words.get(phase, ()), words)

    def read(self, phase: int, reader: Callable[[], T], otherwise: T) -> T:
        """What a reader returns; ``otherwise``, and a note of it, if the file is damaged."""
        try:
            return reader()
        except InputError as error:
            self.note(phase, _words(error))
            return otherwise

    def lines(self, phase: int, path: Path, *fields: str, with_loss: bool = False, newest: bool = False) -> list[Line]:
        """The lines of a file about steps (`read_steps`); none, and a note of it, if the file is damaged."""
        return self.read(phase, lambda: read_steps(path, *fields, with_loss=with_loss, newest=newest), [])


def in_order(words: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    """All that is damaged: what concerns the run first, then phase by phase."""
    return tuple(text for number in sorted(words) for text in words[number])


def _words(error: InputError) -> str:
    if isinstance(error, InputErrors):
        return f"{_words(error.errors[0])}; and {counted(len(error.errors) - 1, 'more problem')}"
    where, hint = f" ({error.where})" if error.where else "", f"; {error.hint}" if error.hint else ""
    return f"{error.what}{where}{hint}"


def settings_of(directory: RunDirectory, damage: Damage) -> RunSpec | None:
    """A run's settings; None, and a note of it, if it has no run.yml or a damaged one."""
    if not directory.has_lockfile:
        damage.note(0, f"there is no run.yml: no attempt has got as far as writing one ({directory.root})")
        return None
    return damage.read(0, lambda: read_lockfile(directory.lockfile), None)


def note_result(phase: PhaseDirectory, done: Done, damage: Damage) -> None:
    """Note if a finished phase's checkpoint is damaged or gone."""
    if problem := result_problem(phase.checkpoints, done.checkpoint, done.sha256):
        damage.note(phase.number, f"its result is not whole: {problem} ({phase.checkpoints})")
