"""Models by name, and their replacement on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertjobs.errors import InputError
from bertjobs.serve.models import Models, ModelSource, Observer, source_of
from bertjobs.serve.refusal import Refusal
from bertjobs.serve.served import Served, load_served
from bertjobs.serve.server import Log
from bertjobs.tasks.questions import options_for
from bertjobs.tasks.rows import Row
from tests.finetune.models import their_folder

CPU = torch.device("cpu")
SENTENCES = "BertForSequenceClassification"


class Told(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def loaded(self, served: Served) -> None:
        self.words.append(f"loaded {served.version}")

    def kept(self, served: Served, error: str) -> None:
        self.words.append(f"kept {served.version}: {error}")

    def current(self, served: Served) -> None:
        self.words.append(f"current {served.version}")


def load(name: str, version: int, folder: Path) -> Served:
    return load_served(name, version, folder, CPU)


@pytest.fixture
def folder(tmp_path: Path, folders: dict[str, Path]) -> Path:
    return Path(shutil.copytree(folders["films"], tmp_path / "films"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same kind of model with one more label, so with other weights."""
    their_folder(tmp_path / "other", SENTENCES, ("bad", "good", "fair", "odd"))
    return tmp_path / "other"


def test_the_log_says_what_was_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    their_folder(tmp_path, "BertForQuestionAnswering")
    head = {"kind": "span", "outputs": 2, "loss": "cross_entropy"}
    task = {"task": "squad2", "options": options_for(64), "labels": [], "head": head, "max_length": 64}
    (tmp_path / "task.json").write_text(json.dumps(task))
    Log(Told()).loaded(load("answers", 1, tmp_path))
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("model answers, version 1: task squad2")
    assert second.startswith("model answers: the threshold of null odds is 0.5")


def opened(folder: Path) -> tuple[Models, Told]:
    told = Told()
    return Models([ModelSource("films", lambda: folder)], load, told), told


def replace(folder: Path, other: Path) -> None:
    """As a careful person does it: a rename."""
    shutil.rmtree(folder)
    other.rename(folder)


def test_a_replaced_folder_is_loaded_once_it_has_settled(folder: Path, other: Path) -> None:
    models, told = opened(folder)
    before = models.get("films")
    models.refresh()
    assert models.get("films") is before
    replace(folder, other)
    models.refresh()  # seen for the first time: it may still be written to
    assert models.get("films") is before
    models.refresh()
    after = models.get("films")
    assert (after.version, len(after.labels)) == (2, 4)
    models.refresh()
    assert models.get("films") is after
    assert told.words == ["loaded 1", "loaded 2"]
    (old,), (new,) = (one.scorer([Row([2, 5, 3], 3)]) for one in (before, after))
    assert (old.shape, new.shape) == ((1, 3), (1, 4))  # who got the old one still uses it


def test_a_broken_replacement_keeps_the_old_one_and_says_so_once(folder: Path) -> None:
    models, told = opened(folder)
    before, weights = models.get("films"), (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    for _ in range(4):
        models.refresh()
    assert models.get("films") is before
    assert len(told.words) == 2
    assert told.words[1].startswith("kept 1: the weights cannot be read")
    shutil.rmtree(folder)
    for _ in range(3):
        models.refresh()
    assert models.get("films") is before
    assert len(told.words) == 3


def test_a_repaired_replacement_is_loaded(folder: Path) -> None:
    models, told = opened(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    for _ in range(3):
        models.refresh()
    (folder / "model.safetensors").write_bytes(weights)
    for _ in range(2):
        models.refresh()
    assert models.get("films").version == 2
    assert told.words[-1] == "loaded 2"


def test_a_folder_that_cannot_be_looked_at_once_is_loaded_when_it_can(folder: Path, other: Path) -> None:
    """As on a network's file system, between the look that saw new files and the one that would have loaded them."""
    away = False

    def find() -> Path:
        if away:
            raise OSError("stale file handle")
        return folder

    models = Models([ModelSource("films", find)], load)
    replace(folder, other)
    models.refresh()
    away = True
    models.refresh()
    away = False
    models.refresh()
    assert models.get("films").version == 2


def test_a_run_s_result_is_read_again_only_if_it_has_changed(folder: Path, other: Path) -> None:
    read: list[str] = []

    def find(place: str) -> Path:
        read.append(place)
        return folder

    source = source_of("films=run", find, lambda _: folder, lambda _: False)
    models = Models([source], load)
    at_start = len(read)
    for _ in range(4):
        models.refresh()
    assert len(read) == at_start
    replace(folder, other)
    for _ in range(4):
        models.refresh()
    assert len(read) == at_start + 1
    assert models.get("films").version == 2


def test_weights_that_are_not_numbers_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="the model's outputs are not numbers"):
        opened(folder)


def test_names_and_versions(folder: Path) -> None:
    models, _ = opened(folder)
    assert models.get("films", "1").name == "films"
    for name, version, words in (("film", None, "did you mean 'films'?"), ("films", "2", "version 1 is loaded")):
        with pytest.raises(Refusal) as caught:
            models.get(name, version)
        assert caught.value.status == 404
        assert words in str(caught.value.hint)
    with pytest.raises(InputError, match="two models are called 'films'"):
        Models([ModelSource("films", lambda: folder)] * 2, load)


@pytest.mark.parametrize(
    ("words", "name", "found"),
    [
        ("a=runs/x", "a", "runs/x"),
        ("runs/x", "x", "runs/x"),
        ("runs/k=v", "k=v", ""),
        ("k=v", "k=v", ""),
        ("a b=x", "", ""),
    ],
)
def test_names_on_the_command_line(words: str, name: str, found: str) -> None:
    existing = {"runs/x", "runs/k=v", "k=v"}
    asked: list[str] = []

    def find(place: str) -> Path:
        asked.append(place)
        return Path(place)

    if not found:
        with pytest.raises(InputError, match="cannot be a model's name"):
            source_of(words, find, find, existing.__contains__)
        return
    source = source_of(words, find, find, existing.__contains__)
    assert (source.name, asked[0]) == (name, found)


def test_a_run_s_checkpoint_is_called_like_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "my-run" / "phase1" / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    (tmp_path / "my-run" / "run.yml").write_text("")
    assert source_of("my-run", lambda _: folder, lambda _: folder, lambda _: False).name == "my-run"
