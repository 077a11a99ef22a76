"""A run's prepared data, checked alike before it is queued and by its worker."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch.plan.preflight import check_task, task_problems
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.tasks.prepare import prepare_task, prepared_name
from bertjobs.tasks.prepared import prepared_for
from bertjobs.tasks.task import open_task
from tests.tasks.encoders import encoder_in


def spec_of(data: Path, rows: int | None = 2) -> RunSpec:
    flags = {"recipe": "finetune", "data": str(data)}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, training_rows=rows).spec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    (folder / "train.jsonl").write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "b"}\n')
    task, files = open_task("sentences"), {"train": folder / "train.jsonl"}
    prepare_task(task, "sentences", files, encoder_in(folder / "model", 64), folder / "prepared")
    return folder / "prepared"


def test_what_was_prepared_for_the_run_is_taken(data: Path) -> None:
    assert prepared_for(spec_of(data)).folder == data
    check_task(spec_of(data))


def test_what_was_prepared_for_another_run_is_refused(data: Path) -> None:
    spec = spec_of(data)
    (phase,) = spec.phases
    others = {
        "task sentences": replace(spec, task="tagging"),
        "sequences of up to 64 tokens": replace(spec, phases=(replace(phase, sequence_length=32),)),
        "a vocabulary of": replace(spec, model=replace(spec.model, vocab_size=8)),
    }
    for words, other in others.items():
        with pytest.raises(InputError, match=f"the data were prepared for {words}"):
            check_task(other)


def test_a_run_that_nothing_can_end_early_is_warned_of(data: Path) -> None:
    spec = spec_of(data)
    assert task_problems(spec) == []
    (problem,) = task_problems(replace(spec, phases=(replace(spec.phases[0], early_stop=2),)))
    assert problem.is_warning
    assert "without labelled dev data, no run ends early" in problem.render()


def test_no_more_layers_are_tuned_than_there_are(data: Path) -> None:
    spec = spec_of(data)
    assert spec.model.num_hidden_layers == 12
    for layers in (0, 1, 12):
        check_task(replace(spec, tune_layers=layers))
    for layers in (13, -1):
        with pytest.raises(InputError, match=rf"the last {layers} layers were to be fine-tuned, and the model has 12"):
            check_task(replace(spec, tune_layers=layers))


def test_a_class_that_has_changed_prepares_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run would be trained on what the class said before."""
    monkeypatch.chdir(tmp_path)
    encoder, names = encoder_in(tmp_path / "model", 64), set()
    (tmp_path / "train.txt").write_text("good\nbad\n")
    for body in ('"x"', '"y"', '"y"\n    measure = "macro_f1"'):
        code = f"from bertjobs.tasks.sentences import SentenceTask\nclass Own(SentenceTask):\n    name = {body}\n"
        (tmp_path / "own.py").write_text(code)
        monkeypatch.delitem(sys.modules, "own", raising=False)
        importlib.invalidate_caches()
        task = open_task("own:Own")
        names |= {prepared_name(task, "own:Own", {"train": tmp_path / "train.txt"}, encoder) for _ in range(2)}
    assert len(names) == 3


def test_steps_must_be_known_and_files_be_whole(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the steps of a task's epochs follow from its data"):
        check_task(spec_of(data, None))
    with pytest.raises(InputError, match=r"it is not a prepared task"):
        check_task(spec_of(tmp_path))
    (data / "train" / "ids.bin").write_bytes(b"")
    with pytest.raises(InputError, match="missing or was changed"):
        check_task(spec_of(data))
