"""Tables of sentences as a task: options, labels, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.asked import read_asked
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.sentences import SentenceTask
from bertjobs.tasks.task import open_task
from tests.finetune.trained import prepared
from tests.tasks.reading.files import refused, write

HEADER = "text\tlabel"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"kind": "classes"}, "'class'"),
        ({"labels": "a,,b"}, "not a list of different names"),
        ({"labels": "a,a"}, "not a list of different names"),
        ({"labels": "a,b", "kind": "number"}, "numbers have no labels"),
        ({"separator": ";"}, "kind=several"),
        ({"separator": "", "kind": "several"}, "not empty"),
        ({"lable": "x"}, "'label'"),
    ],
)
def test_bad_options(options: dict[str, str], part: str) -> None:
    with pytest.raises(InputError) as caught:
        open_task("sentences", options)
    assert part in str(caught.value)


def test_a_fixed_order_of_labels(tmp_path: Path) -> None:
    train = write(tmp_path / "train.tsv", HEADER, "good\tyes", "bad\tno")
    task = prepared(tmp_path, "sentences", {"train": train}, "good bad", labels="yes,no,maybe")
    assert task.fitted.labels == ("yes", "no", "maybe")
    write(train, HEADER, "good\tyes", "bad\tmayb")
    message = refused(open_task("sentences", {"labels": "yes,no,maybe"}).read(train, "train"))
    assert "train.tsv, line 3" in message
    assert "'maybe'" in message


@pytest.mark.parametrize(
    ("options", "train", "dev", "notes"),
    [
        ({"labels": "x,y,z"}, ["good\tx", "bad\ty"], ["good\tx"],
         ["train has no example of 1 label, which training cannot teach: z",
          "dev has no example of 2 labels, whose own measures count as 0: y, z"]),
        ({"kind": "several"}, ["good\tx", "bad\ty,z"], ["good\ty"],
         ["dev has no example of 2 labels, whose own measures count as 0: x, z"]),
        ({"kind": "number"}, ["good\t1", "bad\t2"], ["good\t1"], []),
        ({}, ["good\tx", "bad\ty"], ["bad\ty", "good\tx"], []),
    ],
    ids=["classes", "several", "numbers", "complete"],
)  # fmt: skip
def test_labels_without_an_example_are_noted_at_preparation(
    tmp_path: Path, options: dict[str, str], train: list[str], dev: list[str], notes: list[str]
) -> None:
    files = {split: write(tmp_path / f"{split}.tsv", HEADER, *rows) for split, rows in (("train", train), ("dev", dev))}
    assert list(prepared(tmp_path, "sentences", files, "good bad", **options).notes) == notes


@pytest.mark.parametrize(
    ("options", "train", "dev", "parts"),
    [
        ({}, ["good\tx", "bad\ty"], ["good\tx", "bad\tz"], ("'z' does not occur in training", "dev.tsv, line 3")),
        ({}, ["good\tx", "bad\tx"], ["good\tx"], ("all examples have the same label: 'x'",)),
        ({"labels": "x"}, ["good\tx"], ["good\tx"], ("there is one label: 'x'", "at least two")),
        ({"kind": "number"}, ["good\t1", "bad\ttwo"], ["good\t1"], ("'two'", "not a number", "train.tsv, line 3")),
        ({"kind": "several"}, ["good\tx", "bad\tx"], ["good\tx"], ("there is one: x",)),
        ({"kind": "several"}, ["good\t", "bad\t"], ["good\t"], ("no training example has a label",)),
        (
            {"id": "text"},
            ["good\tx", "good\ty"],
            ["good\tx"],
            ("'good' occurs a second time", "train.tsv, line 3", "leave out"),
        ),
        ({"label": "lable"}, ["good\tx"], ["good\tx"], ("no column 'lable'", "'label'")),
    ],
)
def test_bad_data(
    tmp_path: Path, options: dict[str, str], train: list[str], dev: list[str], parts: tuple[str, ...]
) -> None:
    files = {split: write(tmp_path / f"{split}.tsv", HEADER, *rows) for split, rows in (("train", train), ("dev", dev))}
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, "sentences", files, "good bad", **options)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "prepared").exists()


PAIR = {"text": "a", "second": "b"}


@pytest.mark.parametrize(
    ("options", "alone", "pair"),
    [
        ({}, "", "the task takes no 'second'"),
        ({"second": "hypothesis"}, "there is no 'second'", ""),
        ({"second": "hypothesis", "second_optional": "true"}, "", ""),
        ({"second_optional": "true"}, "", ""),
    ],
)
def test_pairs_are_asked_of_a_task_of_pairs_alone(
    tmp_path: Path, options: dict[str, str], alone: str, pair: str
) -> None:
    task = open_task("sentences", options)
    for number, (texts, what) in enumerate((({"text": "a"}, alone), (PAIR, pair))):
        path = write(tmp_path / f"{number}.jsonl", json.dumps(texts))
        if what:
            with pytest.raises(InputError, match=what):
                task.from_text([texts])
        else:
            assert task.from_text([texts]) == [Sentences("1", "a", texts.get("second"))]
            assert [asked.example for asked in read_asked(task, path)] == task.from_text([texts])
    if pair:
        assert pair in refused(read_asked(task, tmp_path / "1.jsonl"))


def test_a_second_text_of_null_or_nothing_is_none_where_it_is_optional(tmp_path: Path) -> None:
    task = open_task("sentences", {"second_optional": "true"})
    path = write(tmp_path / "a.jsonl", *(json.dumps({"text": "a", "second": second}) for second in ("b", None, "")))
    assert [asked.example.second for asked in read_asked(task, path)] == ["b", None, None]


def test_labels_of_own_tasks_are_checked() -> None:
    class Numbers(SentenceTask):
        kind = "number"

    class Strange(SentenceTask):
        kind = "strange"

    with pytest.raises(InputError, match="not a number"):
        Numbers()._target(Sentences("1", "", label="many"), {})
    with pytest.raises(InputError, match="name of one class"):
        SentenceTask()._target(Sentences("1", "", label=("a", "b")), {"a": 0, "b": 1})
    with pytest.raises(InputError, match="kind of labels"):
        Strange()
