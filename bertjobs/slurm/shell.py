"""The one quoting function for everything that reaches a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence


def shell_line(words: Sequence[str]) -> str:
    """A command as a person would type it."""
    return " ".join(quote(word) for word in words)


def quote(value: str) -> str:
    """``value`` as one word of a POSIX shell."""
    return shlex.quote(value)


def export_lines(values: Mapping[str, str]) -> str:
    """Shell lines that export ``values``, in order."""
    return "".join(f"export {name}={quote(value)}\n" for name, value in values.items())
