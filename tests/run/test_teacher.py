"""A teacher's digest: the same for the same files, another for any change that matters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.run.teacher import check_same_teacher, predicts_words, teacher_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"config.json": '{"architectures": ["BertForMaskedLM"]}', "vocab.txt": "a\n", "model.safetensors": "x"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors", "task.json"])
def test_a_change_of_what_decides_changes_the_digest(folder: Path, name: str) -> None:
    before = teacher_sha256(folder)
    (folder / "README.md").write_text("new")
    assert teacher_sha256(folder) == before
    (folder / name).write_text("changed")
    assert teacher_sha256(folder) != before


def test_a_moved_teacher_is_the_same(folder: Path) -> None:
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "distill"}, environ={}).spec
    spec = replace(spec, teacher=str(folder), teacher_sha256=teacher_sha256(folder))
    moved = folder.rename(folder.parent / "moved")
    check_same_teacher(replace(spec, teacher=str(moved)))
    (moved / "vocab.txt").write_text("b\n")
    with pytest.raises(InputError, match="the teacher has changed since the run was started"):
        check_same_teacher(replace(spec, teacher=str(moved)))


def test_a_teacher_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="the teacher has no weights"):
        teacher_sha256(folder)


def test_a_folder_says_whether_it_predicts_words(folder: Path) -> None:
    assert predicts_words(folder)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert not predicts_words(folder)
    (folder / "config.json").write_text("{}")
    assert not predicts_words(folder)


@pytest.mark.parametrize("odd", ["BertForMaskedLM", 5, {"BertForMaskedLM": 1}, [["BertForMaskedLM"]]])
def test_classes_that_are_not_names_are_refused(folder: Path, odd: object) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": odd}))
    with pytest.raises(InputError, match=r"architectures is .*; it must be a list of names"):
        predicts_words(folder)
