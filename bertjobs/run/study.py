"""A study: runs that differ in a few settings, started, watched and summed up as one thing.

Its members are ordinary runs beside all others, ``RESULTS/NAME-1``, ``NAME-2``, ...; ``RESULTS/.studies/NAME.json``
says which belong together and in what they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, write_json
from bertjobs.files.reading import read_json, record_of
from bertjobs.recipe.names import check_name
from bertjobs.run.directory import RunDirectory

FOLDER = ".studies"
"""Below the folder of all runs."""


@dataclass(frozen=True)
class Member:
    """One run of a study: its number, from 1, and the settings in which it differs from the others, as text."""

    number: int
    settings: Mapping[str, str]

    @property
    def words(self) -> str:
        """``phase1.lr=1e-5, seed=43``."""
        return settings_in_words(self.settings)


@dataclass(frozen=True)
class Study:
    """A study called ``name`` below the folder ``results``."""

    results: Path
    name: str
    members: tuple[Member, ...]

    @classmethod
    def of(cls, results: Path, name: str, settings: Sequence[Mapping[str, str]]) -> Study:
        """A new one, its members numbered in order."""
        return cls(results, name, tuple(Member(number, one) for number, one in enumerate(settings, 1)))

    @property
    def file(self) -> Path:
        return study_file(self.results, self.name)

    @property
    def script(self) -> Path:
        """The batch script of its array, as it was last submitted."""
        return self.file.with_suffix(".sub")

    @property
    def report(self) -> Path:
        """The page of all its runs."""
        return self.file.with_suffix(".html")

    def run(self, member: Member) -> str:
        """A member's name as a run; an element of a Slurm array has the same number."""
        return f"{self.name}-{member.number}"

    def directory(self, member: Member) -> RunDirectory:
        return RunDirectory(self.results / self.run(member))

    @property
    def directories(self) -> list[RunDirectory]:
        """Of all members, in order."""
        return [self.directory(member) for member in self.members]

    def write(self) -> None:
        """Write its file."""
        self.file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        write_json(self.file, self.as_json())

    def as_json(self) -> dict[str, Any]:
        members = [{"run": self.run(one), "number": one.number, "settings": dict(one.settings)} for one in self.members]
        return {"study": self.name, "members": members}


def settings_in_words(settings: Mapping[str, str]) -> str:
    """``phase1.lr=1e-5, seed=43``."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def study_file(results: Path, name: str) -> Path:
    """Where a study of this name is kept."""
    return results / FOLDER / f"{name}.json"


def find_study(results: Path, name: str) -> Study | None:
    """The study called ``name``; None if there is none.

    Raises:
        DamagedFileError: its file cannot be read.
    """
    if Path(name).name != name:
        return None
    return read_json(study_file(results, name), lambda value: Study(results, name, _members(value)))


def all_studies(results: Path) -> list[str]:
    """The names of the studies below a results folder, sorted."""
    return sorted(file.stem for file in (results / FOLDER).glob("*.json"))


def check_new(study: Study) -> None:
    """Make sure that a study's name is free, and that its runs' names are valid.

    Raises:
        InputError: they are not.
    """
    if study.file.exists():
        raise InputError(
            f"a study named {study.name!r} exists",
            where=str(study.file),
            hint=f"bertjobs resume {study.name}, or another name: --run NAME",
        )
    check_name(study.run(study.members[-1]), "run")
    check_not_a_run(study)


def check_not_a_run(study: Study) -> None:
    """InputError if a run has the study's name, which would then mean either."""
    if RunDirectory(study.results / study.name).is_run:
        raise InputError(
            f"a run named {study.name!r} exists", where=str(study.results / study.name), hint="give another --run NAME"
        )


def _members(value: Any) -> tuple[Member, ...]:
    members = value.get("members") if isinstance(value, dict) else None
    if not isinstance(members, list) or not members:
        raise ValueError("it has no members")
    return tuple(_member(one) for one in members)


def _member(value: Any) -> Member:
    settings = value.get("settings") if isinstance(value, dict) else None
    if not isinstance(settings, dict):
        raise ValueError("a member lacks its settings")
    return record_of(Member, value, settings={str(key): str(text) for key, text in settings.items()})
