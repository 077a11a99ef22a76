"""How other programs name the parameters of BERT, in the names of `BertForPreTraining`."""

from __future__ import annotations

import re

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before each name."""

LAST_WORDS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "output_weights": "weight",
    "output_bias": "bias",
}
"""The last words of TensorFlow's names, and torch's."""

TRANSPOSED = "kernel"
"""Matrices that TensorFlow keeps as [inputs, outputs] have this last word."""

_MOMENTS = ("adam_m", "adam_v")
_LAYER = re.compile(r"layer_(\d+)")


def from_torch(name: str) -> str:
    """NVIDIA's and HetSeq's name of a parameter: a layer that ends in an activation is called ``dense_act``."""
    while wrapper := next((one for one in WRAPPERS if name.startswith(one)), ""):
        name = name.removeprefix(wrapper)
    return name.replace(".dense_act.", ".dense.")


def from_tensorflow(name: str) -> str | None:
    """Google's name of a variable; None for what belongs to its optimizer."""
    *places, last = name.split("/")
    if last in _MOMENTS or name == "global_step":
        return None
    last = f"{last}.weight" if last.endswith("_embeddings") else LAST_WORDS.get(last, last)
    return ".".join([*(_LAYER.sub(r"layer.\1", place) for place in places), last])
