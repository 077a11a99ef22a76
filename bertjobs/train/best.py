"""Which of a phase's checkpoints is its result, where an objective says by which measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """By what checkpoints are compared: a field of validation.jsonl, of which more is better, or ``less``."""

    field: str
    less: bool = False

    def of(self, line: Mapping[str, Any]) -> float | None:
        """Its value in a validation, so that more is better; None without a number."""
        value = line.get(self.field)
        return -value if self.less and value is not None else value


@dataclass
class Best:
    """The best validation so far; of equal ones the first.

    Attributes:
        measure: by what they are compared; None: nothing is.
        patience: so many validations in a row without a better one end the phase; 0: none do.
        step: of the best one; None before the first.
        value: as in `Measure.of`.
        worse: how many have followed the best one.
    """

    measure: Measure | None
    patience: int = 0
    step: int | None = None
    value: float = -math.inf
    worse: int = 0

    @classmethod
    def of(cls, measure: Measure | None, patience: int, lines: Iterable[Mapping[str, Any]]) -> Best:
        """After the validations of earlier attempts, those whose steps are not repeated."""
        best = cls(measure, patience)
        for line in lines:
            best.see(line)
        return best

    def see(self, line: Mapping[str, Any]) -> bool:
        """Take in a validation; returns whether it is the best so far. One without a number counts as worse."""
        value = self.measure.of(line) if self.measure else None
        if value is None:
            return False
        if value > self.value:
            self.step, self.value, self.worse = line["step"], value, 0
            return True
        self.worse += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return bool(self.patience) and self.worse >= self.patience
