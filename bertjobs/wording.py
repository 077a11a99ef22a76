"""How all output is worded: durations, text in columns, colour on terminals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO


class Colour(StrEnum):
    """Of a terminal, by what it says; the values are those of ANSI's "select graphic rendition"."""

    GOOD = "32"
    WAITING = "33"
    BAD = "31"
    HEAD = "1"


@dataclass(frozen=True)
class Paint:
    """Colours text, if it is ``on``."""

    on: bool = False

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Paint:
        """On for a terminal that knows colours, unless its user wants none (https://no-color.org)."""
        is_wanted = not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"
        return cls(is_wanted and stream.isatty())

    def __call__(self, text: str, colour: Colour | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.on and colour and text else text


PLAIN = Paint()

_PAINTED = re.compile(r"\x1b\[\d*m")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; colours take no width."""

    def width(cell: str) -> int:
        return len(_PAINTED.sub("", cell))

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``, ``1,024 ranks``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
