"""How all output is worded: durations, text in columns, colour on terminals; and how text from elsewhere is shown."""

from __future__ import annotations

import re
import reprlib
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

_OURS = re.compile(rf"\x1b\[(?:0|{'|'.join(Colour)})m")
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1: what terminals obey
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # order of writing: text would read as what it is not
    "\u2028\u2029\ud800-\udfff]"  # other line breaks; halves of characters, which cannot be printed
)


def harmless(text: str, paint: Paint = PLAIN) -> str:
    """Text from a log, a journal, a folder's name or Slurm, so that showing it does nothing else: what terminals obey
    and what changes the order of writing is written as ``\\x1b``. Tabs and line feeds stay; so do our own colours where
    ``paint`` is on."""
    if not paint.on:
        return _UNSAFE.sub(_written, text)
    plain, colours = _OURS.split(text), _OURS.findall(text)
    return "".join(_UNSAFE.sub(_written, part) + colour for part, colour in zip(plain, [*colours, ""], strict=True))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """A value of any kind, as Python writes it; what is long or deeply nested is shortened."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a very large {type(value).__name__}"


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; colours take no width."""

    def width(cell: str) -> int:
        return len(_PAINTED.sub("", cell))

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def right_aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines like ``columns``, all but the first column set to the right, as for numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return columns([
        [row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows
    ])  # fmt: skip


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
