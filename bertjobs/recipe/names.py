"""What is allowed as a name or a path: both reach folders, jobs, batch scripts and terminals."""

from __future__ import annotations

import re
import unicodedata

from bertjobs.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MARKS = frozenset("._-/+@=~#")


def check_path(value: str, setting: str, where: str | None = None) -> str:
    """The path, if it can be written in every script and shown on every terminal that it reaches: without control
    characters, line breaks, blanks other than spaces, marks that change the order of writing, and ``\\``, which Slurm
    takes out of the names of files. Empty means unset and is allowed. Raises InputError.
    """
    for character in value:
        category = unicodedata.category(character)
        if category[0] == "C" or (category[0] == "Z" and character != " ") or character == "\\":
            raise InputError(
                f"{setting}: {value!r} contains {character!r}, which is not allowed in a path",
                where=where,
                hint="rename the folder, or give it a symbolic link with a plainer name",
            )
    return value


def check_mounted(path: str, name: str, where: str | None = None) -> str:
    """The path, if a container can have it mounted: mounts are written ``SRC:DST``, separated by commas, and enroot
    separates their parts by blanks; what a shell would read is refused as well. Raises InputError.
    """
    odd = next((character for character in path if not _is_plain(character)), "-" if path.startswith("-") else "")
    if odd:
        raise InputError(
            f"{name}: {path!r} cannot be mounted in a container: it contains {odd!r}",
            where=where,
            hint="of letters, digits and . _ - / + @ = ~ # only: rename the folder, or give it a symbolic link",
        )
    return path


def _is_plain(character: str) -> bool:
    category = unicodedata.category(character)
    return character in _MARKS or category[0] in "LM" or category == "Nd"


def check_name(value: str, setting: str, where: str | None = None) -> str:
    """The name, if a folder and a job can have it: ASCII letters, digits, ``.``, ``_``, ``-``, at most 128.

    It starts with a letter or digit. Raises InputError.
    """
    if not _NAME.fullmatch(value):
        raise InputError(
            f"{setting}: {value!r} is not a valid name",
            where=where,
            hint="use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128 characters",
        )
    return value
