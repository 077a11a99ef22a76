"""What the report of a run of fine-tuning says first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertjobs.report.task_page import task_text
from bertjobs.report.task_summary import TaskSummary


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"measure": "f1", "step": 4, "dev": {"f1": 0.5}}, "dev f1 0.5000 at step 4 of 4"),
        (
            {"measure": None, "step": 4, "dev": None},
            "done after 4 steps; without labelled dev data",
        ),
        (
            {"measure": None, "step": 4, "dev": {"phase": 1, "step": 4, "validation_s": 0.0}},
            "done after 4 steps; without labelled dev data",
        ),
        ({"measure": "f1", "step": 4, "dev": {"accuracy": 0.5}}, "done after 4 steps; its dev data have no f1"),
    ],
)
def test_the_headline_says_what_was_measured(result: dict[str, Any], words: str) -> None:
    spec: Any = SimpleNamespace(task="own:Own")
    steps = ({"step": 4},)
    summary = TaskSummary(Path("/runs/one"), spec, None, steps, (), result, {}, {}, (), (), None, ())
    assert words in task_text(summary).splitlines()[0]


def test_evaluate_is_offered_where_there_are_dev_data_with_labels() -> None:
    spec: Any = SimpleNamespace(task="own:Own")
    result = {"measure": "f1", "step": 4, "dev": {"f1": 0.5}}
    for labelled in (True, False):
        prepared: Any = SimpleNamespace(splits={"dev": SimpleNamespace(facts=SimpleNamespace(labelled=labelled))})
        summary = TaskSummary(Path("/runs/one"), spec, prepared, ({"step": 4},), (), result, {}, {}, (), (), None, ())
        assert ("bertjobs evaluate /runs/one" in task_text(summary)) == labelled
        assert "bertjobs predict /runs/one" in task_text(summary)
