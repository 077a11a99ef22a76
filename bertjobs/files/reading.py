"""Reading a file that may be damaged or absent: its content, or one typed error, whatever lies under its name."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from bertjobs.errors import InputError, first_line

T = TypeVar("T")


class DamagedFileError(InputError):
    """A file of ours that is there, and cannot be read or does not hold what it should; ``where`` is the file."""


def read_bytes(path: Path, last: int | None = None) -> bytes | None:
    """A file's bytes, or the ``last`` ones of it; None if nothing has this name.

    Raises:
        DamagedFileError: something has the name and cannot be read: a folder, a link to nothing, a file that is closed
            to this user or that the disk does not give.
    """
    try:
        # Opening what another program was to write to (a named pipe) must not wait for that program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DamagedFileError(f"{path.name} is a link to nothing", where=str(path)) from None
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            if last is not None:
                file.seek(max(0, status.st_size - last))
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> DamagedFileError:
    return DamagedFileError(f"{path.name} cannot be read: {error.strerror or first_line(error)}", where=str(path))


def read_text(path: Path) -> str | None:
    """A file's text; None if nothing has this name.

    Raises:
        DamagedFileError: as in `read_bytes`; or it is not UTF-8.
    """
    content = read_bytes(path)
    try:
        return None if content is None else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path.name} cannot be read: not UTF-8: {first_line(error)}", where=str(path)) from None


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """What ``json.loads`` makes of a text.

    Raises:
        ValueError: it is not JSON, or it is nested too deeply to be read; or, where its numbers must be ``finite``, it
            holds NaN or Infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse if finite else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def read_json(path: Path, parse: Callable[[Any], T]) -> T | None:
    """What ``parse`` makes of a file's JSON; None if nothing has this name.

    Raises:
        DamagedFileError: the file cannot be read, is not JSON, or ``parse`` refuses its value with a ValueError.
    """
    if (text := read_text(path)) is None:
        return None
    try:
        return parse(parse_json(text))
    except ValueError as error:
        what = first_line(error) if text.strip() else "it is empty"
        raise DamagedFileError(f"{path.name} cannot be read: {what}", where=str(path)) from None


def object_of(value: Any) -> dict[str, Any]:
    """A value of JSON that is an object, for `read_json`.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def record_of(kind: type[T], value: Any, **given: Any) -> T:
    """A dataclass of plain fields (text, numbers, true or false) from a value of JSON; ``given`` are its other fields.
    What else the value has, such as the fields of a later version, is left out.

    Raises:
        ValueError: the value lacks a field, or has one of another type; names it.
    """
    value = object_of(value)
    hints = get_type_hints(kind)
    content = dict(given)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = field.name
        if name in given or (name not in value and field.default is not dataclasses.MISSING):
            continue
        if name not in value:
            raise ValueError(f"it lacks {name!r}")
        if not _is_of(hints[name], value[name]):
            raise ValueError(f"its {name!r} is not {_WORDS[hints[name]]}")
        content[name] = value[name]
    return kind(**content)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value of JSON is of a plain type: a whole number is a number too, true and false are not numbers."""
    if kind is float:
        return type(value) is int or type(value) is float
    return type(value) is kind
