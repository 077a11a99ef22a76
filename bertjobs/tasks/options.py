"""Reading the options of a task."""

from __future__ import annotations

from collections.abc import Mapping

from bertjobs.errors import InputError


def whole_number(options: Mapping[str, str], key: str, default: int, *, minimum: int = 1) -> int:
    """An option that is a whole number.

    Raises:
        InputError: it is not one of at least ``minimum``.
    """
    text = options.get(key)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise InputError(f"{text!r} is not a whole number of at least {minimum}", where=f"--option {key}")
    return number


def flag(options: Mapping[str, str], key: str) -> bool:
    """An option that is true or false, by default false.

    Raises:
        InputError: it is neither.
    """
    text = options.get(key, "false")
    if text not in ("true", "false"):
        raise InputError(f"{text!r} is neither true nor false", where=f"--option {key}")
    return text == "true"
