"""What is allowed as a name or a path: both reach folders, jobs and batch scripts."""

from __future__ import annotations

import re
import unicodedata

from bertjobs.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PATH_MARKS = frozenset("._-/+@=~:#")


def check_path(value: str, setting: str, where: str | None = None) -> str:
    """The path, if it is safe in every script it reaches: letters of any alphabet, digits and ``._-/+@=~:#``.

    ``#`` occurs in enroot's image URIs, ``:`` in mounts. Empty means unset and is allowed. Raises InputError.
    """
    for character in value:
        category = unicodedata.category(character)
        if character not in _PATH_MARKS and category[0] not in "LM" and category != "Nd":
            raise InputError(
                f"{setting}: {value!r} contains {character!r}, which is not allowed in a path",
                where=where,
                hint="use letters, digits and . _ - / + @ = ~ : #",
            )
    if value.startswith("-"):
        raise InputError(f"{setting}: {value!r} starts with '-', like a flag", where=where, hint=f"write ./{value}")
    return value


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
