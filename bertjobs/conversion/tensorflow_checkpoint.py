"""Google's BERT: a checkpoint of TensorFlow 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertjobs.conversion.checkpoint import ForeignCheckpoint
from bertjobs.conversion.names import TRANSPOSED, from_tensorflow
from bertjobs.conversion.tensor_bundle import TensorBundle
from bertjobs.errors import InputError

_FIRST = "bert/embeddings/word_embeddings"
_OURS = ("bert/", "cls/")
_SHOWN = 3


def read_tensorflow_checkpoint(prefix: Path) -> ForeignCheckpoint:
    """Read all variables but the optimizer's; matrices are transposed to torch's [outputs, inputs].

    Raises:
        InputError: the checkpoint is damaged, or is not one of Google's BERT.
    """
    bundle = TensorBundle.open(prefix)
    if _FIRST not in bundle.entries:
        names = ", ".join(list(bundle.entries)[:_SHOWN]) or "none"
        raise InputError(
            f"the checkpoint has no variable {_FIRST}; its first ones are {names}",
            where=str(prefix),
            hint="checkpoints of Google's BERT for TensorFlow 1 are read, such as bert_model.ckpt",
        )
    named = {name: from_tensorflow(name) for name in bundle.entries}
    tensors = {ours: _tensor(bundle, name) for name, ours in named.items() if ours and name.startswith(_OURS)}
    others = {name.rpartition("/")[2] for name, ours in named.items() if not ours or not name.startswith(_OURS)}
    return ForeignCheckpoint("Google's BERT (TensorFlow)", prefix, tensors, tuple(sorted(others)))


def _tensor(bundle: TensorBundle, name: str) -> Tensor:
    array = bundle.read(name)
    if name.endswith(f"/{TRANSPOSED}"):
        array = array.T
    return torch.from_numpy(np.ascontiguousarray(array))
