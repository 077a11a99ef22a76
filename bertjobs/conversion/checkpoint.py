"""What a checkpoint of another program holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint, read.

    Attributes:
        origin: what wrote it, in words.
        path: its file, or the prefix of its files.
        tensors: by the names of `BertForPreTraining`, as far as it has them; on the CPU, of any type of numbers.
        others: names of what else it holds, such as the optimizer.
        config: the model's configuration that it names itself; None if it names none.
        vocabulary: likewise.
    """

    origin: str
    path: Path
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    config: Path | None = None
    vocabulary: Path | None = None
