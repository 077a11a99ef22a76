"""HDF5 files as NVIDIA's earlier create_pretraining_data.py writes them, from instances that are drawn here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertjobs.data.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Instance:
    """A training instance: ids with the masks applied, and the original ids at the masked positions."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    positions: tuple[int, ...]
    labels: tuple[int, ...]
    is_random_next: int


def draw_instances(vocabulary: Vocabulary, count: int, longest: int, predictions: int, seed: int) -> list[Instance]:
    """Instances of 5 to ``longest`` tokens, a fifth of them of the full length, masked as BERT masks."""
    draw = random.Random(seed)
    cls, sep, mask = (vocabulary.tokens.index(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    words = [number for number, token in enumerate(vocabulary.tokens) if not token.startswith("[")]
    instances = []
    for number in range(count):
        length = longest if number % 5 == 0 else draw.randint(5, longest)
        in_a = draw.randint(1, length - 4)
        ids = [cls, *draw.choices(words, k=in_a), sep, *draw.choices(words, k=length - in_a - 3), sep]
        segments = [0] * (in_a + 2) + [1] * (length - in_a - 2)
        candidates = [place for place, one in enumerate(ids) if one not in (cls, sep)]
        chosen = sorted(draw.sample(candidates, min(predictions, max(1, round(length * 0.15)))))
        labels = [ids[place] for place in chosen]
        for place in chosen:
            ids[place] = draw.choices([mask, ids[place], draw.choice(words)], [8, 1, 1])[0]
        made = Instance(tuple(ids), tuple(segments), tuple(chosen), tuple(labels), draw.randint(0, 1))
        instances.append(made)
    return instances


def arrays_of(instances: Sequence[Instance], tokens: int, predictions: int) -> dict[str, Any]:
    """The six arrays, filled row by row."""
    arrays = {name: np.zeros([len(instances), tokens], dtype="int32")
              for name in ("input_ids", "input_mask", "segment_ids")}  # fmt: skip
    arrays |= {name: np.zeros([len(instances), predictions], dtype="int32")
               for name in ("masked_lm_positions", "masked_lm_ids")}  # fmt: skip
    arrays["next_sentence_labels"] = np.zeros(len(instances), dtype="int32")
    for row, instance in enumerate(instances):
        arrays["input_ids"][row, : len(instance.ids)] = instance.ids
        arrays["input_mask"][row, : len(instance.ids)] = 1
        arrays["segment_ids"][row, : len(instance.ids)] = instance.segments
        arrays["masked_lm_positions"][row, : len(instance.positions)] = instance.positions
        arrays["masked_lm_ids"][row, : len(instance.positions)] = instance.labels
        arrays["next_sentence_labels"][row] = instance.is_random_next
    return arrays


def write_hdf5(path: Path, arrays: dict[str, Any], compression: str | None = "gzip", **chunks: Any) -> None:
    """The arrays with the script's types and compression."""
    import h5py

    types = {"input_mask": "i1", "segment_ids": "i1", "next_sentence_labels": "i1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, dtype=types.get(name, "i4"), compression=compression, **chunks)


def write_instances(
    path: Path, vocabulary: Vocabulary, count: int, *, tokens: int = 128, predictions: int = 20, seed: int = 0
) -> list[Instance]:
    """A file of drawn instances, and these."""
    instances = draw_instances(vocabulary, count, tokens, predictions, seed)
    write_hdf5(path, arrays_of(instances, tokens, predictions))
    return instances
