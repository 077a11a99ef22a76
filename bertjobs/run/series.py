"""The series of a phase, metrics.jsonl and validation.jsonl: which of their lines count, and what they are called.

What a damaged file has in place of a line is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bertjobs.files.json_lines import LARGEST, last_lines, read_lines
from bertjobs.run.events import is_count, is_time

Line = dict[str, Any]

TRAIN, HELD_OUT = "train", "held_out"
"""Scalars are called ``train/FIELD`` for metrics.jsonl, ``held_out/FIELD`` for validation.jsonl."""

LOSSES = ("loss_nats", "squared_error")
"""The fields of a line of metrics.jsonl that hold the loss; a line has one of them: the second where the labels are
numbers."""

PLACE_FIELDS = ("phase", "step", "attempt", "time_unix_s")
"""The fields of a line that say where it belongs; all others are what was measured."""


def lines_of_steps(lines: Iterable[Any], *fields: str, with_loss: bool = False) -> list[Line]:
    """The lines about an optimizer step that have each of these ``fields``, as numbers, and ``with_loss`` one of
    `LOSSES` as well; without further times and rates that are not numbers."""
    of_steps = (line for line in lines if _is_of_a_step(line) and _has(line, fields))
    return [_clean(line) for line in of_steps if not with_loss or loss_field(line)]


def loss_field(line: Mapping[str, Any]) -> str | None:
    """The one of `LOSSES` that a line of metrics.jsonl has as a number; None if it has none."""
    return next((field for field in LOSSES if _has(line, [field])), None)


def read_steps(path: Path, *fields: str, with_loss: bool = False, newest: bool = False) -> list[Line]:
    """The lines of a file about optimizer steps, as in `lines_of_steps`; [] if it is absent.

    Args:
        newest: read only the end of the file.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return lines_of_steps(last_lines(path) if newest else read_lines(path), *fields, with_loss=with_loss)


def _is_of_a_step(line: Any) -> bool:
    return isinstance(line, dict) and is_count(line.get("step")) and line["step"] > 0


def _clean(line: Line) -> Line:
    times = {name: value for name, value in line.items() if name.endswith("_s") and value is not None}
    odd = [name for name, value in times.items() if not _is_number(name, value)]
    return {name: value for name, value in line.items() if name not in odd} if odd else line


def _has(line: Mapping[str, Any], fields: Iterable[str]) -> bool:
    return all(_is_number(name, line.get(name)) for name in fields)


def _is_number(name: str, value: Any) -> bool:
    """Times and rates are finite and not below 0; a loss may be NaN or infinite, as it is written then."""
    if name == "time_unix_s":
        return is_time(value)
    if type(value) not in (int, float):
        return False
    if name.endswith("_s"):
        return 0 <= value <= LARGEST
    return abs(value) <= LARGEST or (isinstance(value, float) and not math.isfinite(value))


def continued(lines: Iterable[Any], last_step: int) -> list[dict[str, Any]]:
    """The lines of steps up to ``last_step``, in order, each step once: its newest line.

    Later lines belong to steps that a crash undid and that will be repeated.
    """
    by_step = {line["step"]: line for line in lines if _is_of_a_step(line)}
    return [by_step[step] for step in sorted(by_step) if step <= last_step]
