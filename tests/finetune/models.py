"""Folders of tiny fine-tuned models of random weights, as `bertjobs finetune` and Hugging Face write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.finetune.description import task_files
from bertjobs.finetune.model import BertForTask
from bertjobs.model.huggingface import WEIGHTS_FILE, WEIGHTS_METADATA
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.task import open_task
from tests.finetune.nano import NANO

WORDS = ("a", "fine", "film", "bad", "good", "harry", "likes", "apples", "what", "does", "like", "?", ".", "##s", "and")
FILMS = (
    "from bertjobs.tasks.example import Sentences\n"
    "from bertjobs.tasks.sentences import SentenceTask\n\n\n"
    "class Films(SentenceTask):\n"
    '    files = {"train": ("train.txt",), "dev": ("dev.txt",), "test": ("test.txt",)}\n\n'
    "    def read(self, path, split):\n"
    "        for number, line in enumerate(path.read_text().splitlines(), 1):\n"
    '            label, _, text = line.partition(" ")\n'
    '            label = None if label == "-" else label\n'
    '            yield Sentences(f"f{number}", text, label=label, where=f"{path}, line {number}")\n'
)
LINES = ("good a fine film .", "bad a bad film ?", "good apples", "bad harry likes a bad film and a bad film .")


def vocabulary(folder: Path) -> Path:
    """A folder with a vocab.txt of few words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n")
    return folder


def our_folder(folder: Path, prepared: PreparedTask, seed: int = 0) -> Path:
    """A checkpoint of a prepared task, without having been trained."""
    spec = replace(NANO, vocab_size=Vocabulary.of_folder(prepared.folder).size, initializer_range=0.5)
    torch.manual_seed(seed)
    model = BertForTask(spec, prepared.head)
    folder.mkdir(parents=True)
    task_files(spec, prepared, folder)
    state = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    save_file(state, folder / WEIGHTS_FILE, metadata=WEIGHTS_METADATA)
    return folder


def films(folder: Path) -> PreparedTask:
    """A task of one's own in ``folder``, prepared: films.py, train.txt, dev.txt and test.txt, which has no labels."""
    (folder / "films.py").write_text(FILMS)
    for split in ("train", "dev"):
        (folder / f"{split}.txt").write_text("\n".join(LINES) + "\n")
    (folder / "test.txt").write_text("- a good film\n- bad apples\n")
    task = open_task("films:Films")
    encoder = TextEncoder.of_folder(vocabulary(folder / "words"), 32)
    return prepare_task(task, "films:Films", task.find(folder), encoder, folder / "prepared")


def their_folder(
    folder: Path, architecture: str, labels: Sequence[str] = (), max_length: int = 64, **settings: Any
) -> torch.nn.Module:
    """A model that Hugging Face has made and written, with its tokenizer; returns it."""
    vocabulary(folder)
    size = len(SPECIAL_TOKENS) + len(WORDS)
    names = {"id2label": dict(enumerate(labels))} if labels else {}
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=max_length, initializer_range=0.5, **names, **settings,
    )  # fmt: skip
    torch.manual_seed(1)
    model = getattr(transformers, architecture)(config).eval()
    model.save_pretrained(folder)
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return model
