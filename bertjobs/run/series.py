"""The series of a phase, metrics.jsonl and validation.jsonl: which of their lines count, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TRAIN, HELD_OUT = "train", "held_out"
"""Scalars are called ``train/FIELD`` for metrics.jsonl, ``held_out/FIELD`` for validation.jsonl."""

PLACE_FIELDS = ("phase", "step", "attempt", "time_unix_s")
"""The fields of a line that say where it belongs; all others are what was measured."""


def continued(lines: Iterable[Any], last_step: int) -> list[dict[str, Any]]:
    """The lines of steps up to ``last_step``, in order, each step once: its newest line.

    Later lines belong to steps that a crash undid and that will be repeated.
    """
    by_step = {line["step"]: line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)}
    return [by_step[step] for step in sorted(by_step) if 1 <= step <= last_step]
