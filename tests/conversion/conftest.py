"""A small BERT and its vocabulary, for every program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bertjobs.conversion.folder import ImportOptions
from tests.conversion.programs import Programs, config
from tests.tasks.encoders import encoder_in

PADDED = 8


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this folder's tests."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with vocab.txt and bert_config.json."""
    folder = tmp_path / "uncased_L-2_H-24_A-3"
    size = encoder_in(folder, 32).vocabulary.size
    (folder / "bert_config.json").write_text(json.dumps(config(size)))
    return folder


@pytest.fixture
def tokens(home: Path) -> int:
    """Of the vocabulary; not a multiple of 8."""
    size = json.loads((home / "bert_config.json").read_text())["vocab_size"]
    assert size % PADDED
    return size


@pytest.fixture
def plain(tokens: int) -> Programs:
    """A model with a row for each token, as HetSeq and Google have it."""
    return Programs.drawn(tokens)


@pytest.fixture
def padded(tokens: int) -> Programs:
    """A model with rows for a multiple of 8 tokens, as NVIDIA has it."""
    return Programs.drawn(-(-tokens // PADDED) * PADDED)


@pytest.fixture
def batch(tokens: int) -> dict[str, Tensor]:
    """Three sequences of 11 tokens, two of them padded."""
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(11) < torch.tensor([11, 6, 8])[:, None]).long()
    return {
        "input_ids": torch.randint(0, tokens, (3, 11), generator=generator) * mask,
        "token_type_ids": (torch.arange(11) > 4).long() * mask,
        "attention_mask": mask,
    }


@pytest.fixture
def options(tmp_path: Path) -> ImportOptions:
    """To be completed with a checkpoint."""
    return ImportOptions(tmp_path / "none", tmp_path / "made")
