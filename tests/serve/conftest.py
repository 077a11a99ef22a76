"""A model of each kind, tiny and of random weights; all of them in this process, and behind one server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bertjobs.serve.served import Served, load_served
from tests.finetune.models import their_folder
from tests.serve.client import Running, serving

LABELS = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCES = "BertForSequenceClassification"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by the model's name."""
    place = tmp_path_factory.mktemp("models")
    several = {"problem_type": "multi_label_classification"}
    their_folder(place / "films", SENTENCES, ("bad", "good", "fair"))
    their_folder(place / "stars", SENTENCES, ("score",))
    their_folder(place / "topics", SENTENCES, ("x", "y"), **several)
    their_folder(place / "names", "BertForTokenClassification", LABELS)
    their_folder(place / "answers", "BertForQuestionAnswering", max_length=384)
    their_folder(place / "passages", SENTENCES, ("not relevant", "relevant"))
    their_folder(place / "words", "BertForMaskedLM")
    head = {"kind": "sequence", "outputs": 2, "loss": "cross_entropy"}
    task = {"task": "ranking", "options": {}, "labels": ["not relevant", "relevant"], "head": head, "max_length": 64}
    (place / "passages" / "task.json").write_text(json.dumps(task))
    names = ("films", "stars", "topics", "names", "answers", "passages", "words")
    return {name: place / name for name in names}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, Served]:
    """The same models, loaded here."""
    return {name: load_served(name, 1, folder, torch.device("cpu")) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with all of them, that looks at no folder again."""
    limits = ("--max-rows", 8, "--max-body-bytes", 20000, "--body-seconds", 2, "--max-tokens", 1000)
    place = tmp_path_factory.mktemp("server")
    with serving(place, *folders.values(), "--watch-seconds", 0, *limits) as running:
        yield running
