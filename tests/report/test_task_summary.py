"""What the predictions of a run of fine-tuning are wrong about."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import append_line
from bertjobs.report.task_summary import Mistake, _mistakes, summarise_task
from bertjobs.tasks.example import Sentences
from tests.report.conftest import MakeRun


@pytest.mark.parametrize(
    ("label", "line", "wanted"),
    [
        (2.5, {"value": 2.0}, ("2.5", "2", 0.5)),
        ("2.50", {"value": 2.0}, ("2.5", "2", 0.5)),  # as a task of one's own may read it
        (("x", "y"), {"labels": ["y", "x"]}, None),
        ("xy", {"labels": ["xy"]}, None),
        ("xy", {"labels": []}, ("xy", "none", None)),
        ((), {"labels": ["x", "y"]}, ("none", "x, y", None)),
        ("x", {"label": "y", "probabilities": {"y": 0.75}}, ("x", "y", 0.75)),
    ],
)
def test_a_label_is_what_it_is_in_training(label: Any, line: dict[str, Any], wanted: tuple[Any, ...] | None) -> None:
    found = list(_mistakes(Sentences("1", "a", label=label), line, Counter(), Counter()))
    assert found == ([Mistake("1", "a", *wanted)] if wanted else [])


def test_measures_that_are_undefined_are_said(make_run: MakeRun) -> None:
    directory = make_run()
    phase = directory.phase(1)
    phase.root.mkdir()
    append_line(phase.metrics, {"step": 4})
    write_json(phase.result, {"step": 4, "measure": "f1", "dev": {"f1": 0.0, "notes": ["matthews is undefined"]}})
    assert "matthews is undefined" in summarise_task(directory).notes
