"""A tiny BERT, data that it learns, and the command line beside them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import save_pretrained
from tests.finetune.nano import NANO
from tests.tasks.encoders import encoder_in


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT of random weights, and sentences that are good or bad by one word."""
    folder = tmp_path_factory.mktemp("finetune")
    encoder = encoder_in(folder / "vocabulary", 32)
    spec = replace(NANO, vocab_size=encoder.vocabulary.size)
    torch.manual_seed(1)
    (folder / "model").mkdir()
    save_pretrained(BertForPreTraining(spec), folder / "vocabulary" / "vocab.txt", folder / "model", lowercase=True)
    draw = random.Random(2)
    (folder / "data").mkdir()
    for split, count in (("train", 96), ("dev", 40)):
        lines = []
        for _ in range(count):
            word = draw.choice(["good", "bad"])
            text = " ".join([*draw.choices(["apples", "red", "the", "i", "my"], k=draw.randint(1, 9)), word])
            lines.append(json.dumps({"text": text, "label": word}) + "\n")
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines))
    return folder


def bertjobs(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bertjobs", *words], cwd=place, capture_output=True, text=True, check=False
    )
