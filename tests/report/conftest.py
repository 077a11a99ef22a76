"""Runs written by hand, and a small real one: text, vocabulary, shards and a model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.files.json_lines import append_line
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import save_pretrained
from bertjobs.recipe.catalogue import load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.run.checkpoints import seal
from bertjobs.run.directory import Done, PhaseDirectory, RunDirectory

START = 1_700_000_000.0

MakeRun = Callable[..., RunDirectory]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this folder's tests."""


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run of the recipe ``laptop`` with 150 and 20 steps, without phases' files."""

    def make(name: str = "tried", **changes: Any) -> RunDirectory:
        catalogue = load_catalogue([Path(__file__).parents[2] / "configurations.yml"])
        flags = {"recipe": "laptop", "run": name, "results": str(tmp_path), "data": str(tmp_path / "no-data")}
        sets = ("phase1.steps=150", "phase2.steps=20")
        spec: RunSpec = replace(resolve(catalogue, flags=flags, sets=sets, environ={}).spec, **changes)
        directory = RunDirectory(tmp_path / name)
        directory.create()
        directory.write_lockfile(lockfile(spec))
        return directory

    return make


def step_line(phase: int, step: int, **fields: Any) -> dict[str, Any]:
    """A line of metrics.jsonl; losses fall step by step, and a step takes two seconds."""
    return {
        "phase": phase,
        "step": step,
        "time_unix_s": START + 1000 * phase + 2 * step,
        "learning_rate": 1e-3 / step,
        "loss_nats": 11.0 - 0.1 * step,
        "mlm_loss_nats": 10.3 - 0.1 * step,
        "mlm_accuracy": 0.01 * step,
        "nsp_accuracy": 0.5,
        "sequences_per_s": 10.0 + step,
        "step_time_s": 2.0,
        **fields,
    }


def write_steps(phase: PhaseDirectory, steps: Sequence[int], **fields: Any) -> None:
    phase.create()
    with open(phase.metrics, "a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(step_line(phase.number, step, **fields)) + "\n" for step in steps)


def write_validation(phase: PhaseDirectory, step: int, loss: float, unigram: float) -> None:
    line = {
        "phase": phase.number,
        "step": step,
        "mlm_loss_nats": loss,
        "mlm_accuracy": 0.25,
        "nsp_loss_nats": 0.69,
        "nsp_accuracy": 0.625,
        "masked_tokens": 4000,
        "sequences": 200,
        "unigram_cross_entropy_nats": unigram,
    }
    append_line(phase.validation, line)


def write_attempt(
    directory: RunDirectory, phase: int, start: float, end: float | None, job: str = "local-1", **fields: Any
) -> None:
    names = {"phase": phase, "job": job, "attempt": 0}
    append_line(directory.journal, {"time_unix_s": start, "event": "started", "world_size": 2, **names})
    if end is not None:
        line = {"time_unix_s": end, "event": "ended", "cause": "done", "exit_code": 0, **names, **fields}
        append_line(directory.journal, line)


def write_checkpoint(phase: PhaseDirectory, step: int) -> Path:
    """A sealed folder that holds one small file."""
    folder = phase.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    seal(folder, phase=phase.number, step=step, recipe_hash="0")
    return folder


def write_done(phase: PhaseDirectory, step: int) -> None:
    phase.write_done(Done(phase.number, step, f"step-{step:08d}", "0", "0", START))


def write_result(directory: RunDirectory, accuracy: float) -> None:
    """What a run of fine-tuning that is done leaves in its last phase."""
    phase = directory.phase(2)
    phase.create()
    phase.result.write_text(json.dumps({"measure": "accuracy", "step": 20, "dev": {"accuracy": accuracy}}))


_TEXT = """
    government people country nation congress peace treasury commerce revenue citizens service subject treaty interest
    military navy army industrial foreign public general
"""
WORDS = _TEXT.split()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    """Shards of plain sentences, in which each content word is one token."""
    folder = tmp_path_factory.mktemp("text")
    corpus = folder / "corpus"
    corpus.mkdir()
    draw = random.Random(3)
    for number in range(12):
        sentences = [
            f"The {one} of the {two} is that which we have for our {three}, and it is not the {four} alone."
            for one, two, three, four in (draw.sample(WORDS, 4) for _ in range(60))
        ]
        (corpus / f"{number}.txt").write_text(" ".join(sentences), encoding="utf-8")
    vocabulary = folder / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 400, True, vocabulary)
    options = PrepareOptions((f"text:{corpus}",), str(vocabulary), str(folder / "data"), duplicates=1, shards=2)
    prepare(options, lambda *_: None)
    return DataManifest.read(folder / "data")


@pytest.fixture(scope="session")
def tiny(data: DataManifest) -> BertForPreTraining:
    torch.manual_seed(5)
    return BertForPreTraining(ModelSpec("tiny", 16, 1, 2, 32, vocab_size=data.vocabulary_size)).eval()


@pytest.fixture(scope="session")
def checkpoint(data: DataManifest, tiny: BertForPreTraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_pretrained(tiny, data.vocabulary_path, folder, lowercase=data.lowercase)
    return folder
