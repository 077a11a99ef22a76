"""Shards of real text, a teacher of random weights for them, and one that says what a task's fine-tuned model says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.finetune.description import task_files
from bertjobs.finetune.model import BertForTask
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import WEIGHTS_FILE, WEIGHTS_METADATA, save_pretrained
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.task import open_task
from tests.finetune.conftest import place  # noqa: F401  a fixture
from tests.train.conftest import Trial, prepared

TEACHER = ModelSpec(
    name="teacher",
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=128,
    initializer_range=0.3,
)
STUDENT = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
           "max_position_embeddings": 128}  # fmt: skip
RECIPE = {
    "system": "cpu-node",
    "model": "student",
    "precision": "fp32",
    "next_sentence": False,
    "decay": "linear",
    "distill_labels": 1.0,
    "distill_logits": 2.0,
    "distill_hidden": 1.0,
    "distill_relations": 1.0,
    "distill_temperature": 2.0,
    "optimizer": {"name": "adamw"},
    "phases": {1: {"global_batch": 8, "steps": 12, "lr": 0.01, "warmup": 0.1, "micro_batch": 4, "checkpoint_every": 4,
                   "validate_every": 6}},
}  # fmt: skip
LAYERS = {key: value for key, value in RECIPE.items() if key not in ("distill_labels", "distill_relations")} | {
    "distill_logits": 0.0,
    "phases": {1: {"global_batch": 8, "steps": 2, "lr": 0.01, "warmup": 0.1, "micro_batch": 4}},
}
"""A student that learns hidden states and nothing else."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return prepared(slice(0, 4), tmp_path_factory.mktemp("speeches"))


def pretrained(data: DataManifest, folder: Path, seed: int = 1) -> Path:
    """A BERT of random weights with the data's vocabulary, as pretraining writes it."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = BertForPreTraining(replace(TEACHER, vocab_size=data.vocabulary_size))
    save_pretrained(model, data.vocabulary_path, folder, lowercase=True)
    return folder


@pytest.fixture(scope="session")
def teacher(data: DataManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(data, tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's configuration folder with the recipe of these tests."""
    home = tmp_path_factory.mktemp("home")
    (home / "bertjobs").mkdir()
    content = {"models": {"student": STUDENT}, "recipes": {"taught": RECIPE, "layers": LAYERS}}
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump(content))
    return home


@pytest.fixture
def trial(home: Path, data: DataManifest, teacher: Path, tmp_path: Path) -> Trial:
    return Trial(home, data.folder, tmp_path / "results", {"RECIPE": "taught", "TEACHER": str(teacher)})


@pytest.fixture(scope="session")
def straight(home: Path, data: DataManifest, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A run that was never stopped, done."""
    from bertjobs.train.signals import StopRequest
    from bertjobs.train.worker import main

    results = tmp_path_factory.mktemp("straight") / "results"
    trial = Trial(home, data.folder, results, {"RECIPE": "taught", "TEACHER": str(teacher)})
    torch.set_num_threads(1)
    assert main(trial.environment(1), StopRequest()) == 0
    return trial


@pytest.fixture(scope="module")
def task_data(place: Path) -> PreparedTask:  # noqa: F811
    """The sentences of `place`, prepared for its model."""
    task = open_task("sentences")
    encoder = TextEncoder.of_folder(place / "model", 32)
    return prepare_task(task, "sentences", task.find(place / "data"), encoder, place / "prepared")


@pytest.fixture(scope="module")
def tuned(place: Path, task_data: PreparedTask) -> Path:  # noqa: F811
    """A folder as fine-tuning writes it: a BERT with the head and the labels of the task, of random weights."""
    return tuned_in(place / "tuned", task_data)


def tuned_in(folder: Path, prepared: PreparedTask, *, labels: tuple[str, ...] | None = None, seed: int = 3) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if labels is not None:
        prepared = replace(prepared, fitted=replace(prepared.fitted, labels=labels))
    still = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # which depends on the ranks
    size = Vocabulary.of_folder(prepared.folder).size
    spec = replace(TEACHER, vocab_size=size, max_position_embeddings=64, **still)
    torch.manual_seed(seed)
    model = BertForTask(spec, prepared.head)
    task_files(spec, prepared, folder)
    state = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    save_file(state, folder / WEIGHTS_FILE, metadata=WEIGHTS_METADATA)
    return folder
