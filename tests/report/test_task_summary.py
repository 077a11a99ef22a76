"""What the predictions of a run of fine-tuning are wrong about."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bertjobs.report.task_summary import Mistake, _mistakes
from bertjobs.tasks.example import Sentences


@pytest.mark.parametrize(
    ("label", "line", "wanted"),
    [
        (2.5, {"value": 2.0}, ("2.5", "2", 0.5)),
        ("2.50", {"value": 2.0}, ("2.5", "2", 0.5)),  # as a task of one's own may read it
        (("x", "y"), {"labels": ["y", "x"]}, None),
        ("xy", {"labels": ["xy"]}, None),
        ("xy", {"labels": []}, ("xy", "none", None)),
        ("x", {"label": "y", "probabilities": {"y": 0.75}}, ("x", "y", 0.75)),
    ],
)
def test_a_label_is_what_it_is_in_training(label: Any, line: dict[str, Any], wanted: tuple[Any, ...] | None) -> None:
    found = list(_mistakes(Sentences("1", "a", label=label), line, Counter(), Counter()))
    assert found == ([Mistake("1", "a", *wanted)] if wanted else [])
