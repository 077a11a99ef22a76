"""The figure of a run of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertjobs.report.task_curves import draw_task
from bertjobs.report.task_summary import TaskSummary

NAMES = ("$5 or less", "$", "a $ b $ c", "$x^$")


@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_names_of_classes_are_no_formulas(names: tuple[str, ...]) -> None:
    nothing: Any = None
    steps = tuple({"step": step, "loss_nats": 1.0, "learning_rate": 1e-5} for step in (1, 2))
    validations = ({"step": 2, "a$_$b": 0.5, "dev_loss_nats": 1.0},)
    confusion = {(gold, guess): 1 for gold in names for guess in names}
    result = {"measure": "a$_$b", "step": 2}
    summary = TaskSummary(
        Path("$run"), nothing, None, steps, validations, result, confusion, {}, (), (), None, ()
    )  # fmt: skip
    svg = draw_task(summary).decode()
    for name in (*names, "a$_$b"):
        assert f">{name}</text>" in svg
    assert draw_task(summary, "png").startswith(b"\x89PNG")
