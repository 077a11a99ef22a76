"""Teachers that Hugging Face has fine-tuned: what their configuration says of their labels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bertjobs.distill.task_labels import check_task_teacher
from bertjobs.errors import InputError
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.rows import Head
from bertjobs.tasks.task import Fitted

CLASSES = tuple(f"class-{number}" for number in range(12))


def a_task(head: Head, labels: tuple[str, ...] = ()) -> PreparedTask:
    facts = SimpleNamespace(task="sentences", head=head, fitted=Fitted(labels), folder=Path("/prepared"))
    return cast(PreparedTask, facts)


def a_teacher(folder: Path, architecture: str, labels: Any = None) -> Path:
    config = {"architectures": [architecture]} | ({"id2label": labels} if labels is not None else {})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_labels_are_compared_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = a_teacher(tmp_path, "BertForSequenceClassification", {str(n): name for n, name in enumerate(CLASSES)})
    check_task_teacher(folder, a_task(Head("sequence", 12), CLASSES))
    with pytest.raises(InputError, match=r"the teacher's labels are class-0, .* and 6 more, and those of the data"):
        check_task_teacher(folder, a_task(Head("sequence", 12), CLASSES[::-1]))


def test_answers_need_no_labels_and_numbers_one_output(tmp_path: Path) -> None:
    check_task_teacher(a_teacher(tmp_path, "BertForQuestionAnswering"), a_task(Head("span", 2)))
    number = Head("sequence", 1, "squared_error")
    check_task_teacher(a_teacher(tmp_path, "BertForSequenceClassification", {"0": "LABEL_0"}), a_task(number))
    with pytest.raises(InputError, match="its head has 2 outputs, not 1"):
        check_task_teacher(a_teacher(tmp_path, "BertForSequenceClassification"), a_task(number))


@pytest.mark.parametrize(
    ("architecture", "labels", "what"),
    [
        ("BertModel", None, "not fine-tuned for task sentences: it is a BertModel without task.json"),
        ("BertForTokenClassification", None, "it is a BertForTokenClassification without"),
        ("BertForSequenceClassification", {"one": "a"}, "id2label is damaged"),
        ("BertForSequenceClassification", ["a"], "id2label is damaged"),
    ],
)
def test_other_models_are_no_teachers(tmp_path: Path, architecture: str, labels: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        check_task_teacher(a_teacher(tmp_path, architecture, labels), a_task(Head("sequence", 1), ("a",)))
