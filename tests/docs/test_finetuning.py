"""The page about fine-tuning: its own task works as printed, and its table has all tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.task import TASKS, open_task
from tests.docs.pages import SITE, Page
from tests.finetune.trained import prepared, validated
from tests.tasks.reading.files import write

PAGE = Page(SITE / "finetuning.md")
REVIEWS = ["1\t5\tgood film", "2\t1\tbad film", "3\t4\tgood book", "4\t2\tbad book"]


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The files of the page's task, which lies in the working directory."""
    (code,) = [token.content for token in PAGE.tokens if token.type == "fence" and token.info == "python"]
    (tmp_path / "reviews.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "reviews", raising=False)
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.txt", *REVIEWS)
    return open_task("reviews:Reviews").find(tmp_path)


def test_the_task_of_one_s_own_is_trained(reviews: dict[str, Path], tmp_path: Path) -> None:
    task = prepared(tmp_path, "reviews:Reviews", reviews, "good bad film book")
    line, _ = validated(task)
    assert task.fitted.labels == ("bad", "good")
    assert line["accuracy"] == 1.0


def test_its_errors_name_file_and_line(reviews: dict[str, Path], tmp_path: Path) -> None:
    write(reviews["dev"], REVIEWS[0], "2\tbad film")
    with pytest.raises(InputError, match=r"dev\.txt, line 2"):
        prepared(tmp_path, "reviews:Reviews", reviews, "good bad film book")


def test_the_page_names_every_task_of_sentences() -> None:
    text = PAGE.path.read_text()
    names = [name for name, place in TASKS.items() if "benchmarks:" in place or "table:" in place]
    assert len(names) == 12
    for name in names:
        assert f"`{name}`" in text
    for option in open_task("sentences").option_help:
        assert f"`{option}=" in text
