"""A small BERT of random numbers, as other programs write it and compute with it.

The names, shapes and formulas are those of NVIDIA's modeling.py (which HetSeq has, too) and of Google's modeling.py.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 24, 2, 3, 40, 64
ROOT_OF_2 = 1.41421
"""As NVIDIA and HetSeq write it in their GELU."""

NVIDIA = {
    "words": "bert.embeddings.word_embeddings",
    "positions": "bert.embeddings.position_embeddings",
    "segments": "bert.embeddings.token_type_embeddings",
    "embeddings_norm": "bert.embeddings.LayerNorm",
    "query": "bert.encoder.layer.{}.attention.self.query",
    "key": "bert.encoder.layer.{}.attention.self.key",
    "value": "bert.encoder.layer.{}.attention.self.value",
    "attended": "bert.encoder.layer.{}.attention.output.dense",
    "attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "inner": "bert.encoder.layer.{}.intermediate.dense_act",
    "outer": "bert.encoder.layer.{}.output.dense",
    "layer_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "pooler": "bert.pooler.dense_act",
    "transform": "cls.predictions.transform.dense_act",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "next": "cls.seq_relationship",
}
"""Part of the model -> its name in a state_dict, before ``.weight`` and ``.bias``; {} is the layer."""

GOOGLE = {
    "words": "bert/embeddings/word_embeddings",
    "positions": "bert/embeddings/position_embeddings",
    "segments": "bert/embeddings/token_type_embeddings",
    "embeddings_norm": "bert/embeddings/LayerNorm",
    "query": "bert/encoder/layer_{}/attention/self/query",
    "key": "bert/encoder/layer_{}/attention/self/key",
    "value": "bert/encoder/layer_{}/attention/self/value",
    "attended": "bert/encoder/layer_{}/attention/output/dense",
    "attention_norm": "bert/encoder/layer_{}/attention/output/LayerNorm",
    "inner": "bert/encoder/layer_{}/intermediate/dense",
    "outer": "bert/encoder/layer_{}/output/dense",
    "layer_norm": "bert/encoder/layer_{}/output/LayerNorm",
    "pooler": "bert/pooler/dense",
    "transform": "cls/predictions/transform/dense",
    "transform_norm": "cls/predictions/transform/LayerNorm",
    "next": "cls/seq_relationship",
}
"""Part of the model -> its scope in a checkpoint of TensorFlow."""

TABLES = ("words", "positions", "segments")
Parts = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Programs:
    """The same model as every program has it.

    Attributes:
        parts: by part and layer: a table, a matrix [outputs, inputs] and a bias, or a norm's weight and bias.
        decoder_bias: [rows].
    """

    parts: Parts
    decoder_bias: Tensor

    @classmethod
    def drawn(cls, rows: int, seed: int = 5) -> Programs:
        """Of random numbers; ``rows`` of the word embeddings."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return 0.3 * torch.randn(*shape, generator=generator)

        widths = {"inner": (INNER, HIDDEN), "outer": (HIDDEN, INNER), "next": (2, HIDDEN)}
        heights = {"words": rows, "positions": POSITIONS, "segments": 2}
        parts: Parts = {}
        for part, name in NVIDIA.items():
            for layer in range(LAYERS if "{}" in name else 1):
                place = f"{part}{layer}" if "{}" in name else part
                if part in TABLES:
                    parts[place] = (draw(heights[part], HIDDEN),)
                elif part.endswith("norm"):
                    parts[place] = (1 + draw(HIDDEN), draw(HIDDEN))
                else:
                    outputs, inputs = widths.get(part, (HIDDEN, HIDDEN))
                    parts[place] = (draw(outputs, inputs), draw(outputs))
        return cls(parts, draw(rows))

    def logits(self, batch: Mapping[str, Tensor], root: float = math.sqrt(2)) -> tuple[Tensor, Tensor]:
        """Of masked words [sequences, length, rows] and of next sentences [sequences, 2]."""

        def linear(place: str, x: Tensor) -> Tensor:
            return F.linear(x, *self.parts[place])

        def norm(place: str, x: Tensor) -> Tensor:
            return F.layer_norm(x, (HIDDEN,), *self.parts[place], eps=1e-12)

        def gelu(x: Tensor) -> Tensor:
            return x * 0.5 * (1.0 + torch.erf(x / root))

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (HEADS, HIDDEN // HEADS)).transpose(1, 2)

        ids = batch["input_ids"]
        (words,), (positions,), (segments,) = (self.parts[part] for part in TABLES)
        x = norm("embeddings_norm", words[ids] + positions[: ids.shape[1]] + segments[batch["token_type_ids"]])
        away = (1.0 - batch["attention_mask"][:, None, None, :].float()) * -10000.0
        for layer in range(LAYERS):
            query, key, value = (split(linear(f"{part}{layer}", x)) for part in ("query", "key", "value"))
            weights = (query @ key.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS) + away).softmax(-1)
            attended = linear(f"attended{layer}", (weights @ value).transpose(1, 2).flatten(2))
            x = norm(f"attention_norm{layer}", attended + x)
            x = norm(f"layer_norm{layer}", linear(f"outer{layer}", gelu(linear(f"inner{layer}", x))) + x)
        guesses = norm("transform_norm", gelu(linear("transform", x))) @ words.T + self.decoder_bias
        return guesses, linear("next", torch.tanh(linear("pooler", x[:, 0])))

    def nvidia(self) -> dict[str, Tensor]:
        """The state_dict of NVIDIA's and HetSeq's BertForPreTraining."""
        state = OrderedDict()
        for place, tensors in self.parts.items():
            name = _named(NVIDIA, place)
            for tensor, word in zip(tensors, ("weight", "bias"), strict=False):
                state[f"{name}.{word}"] = tensor
        state["cls.predictions.bias"] = self.decoder_bias
        state["cls.predictions.decoder.weight"] = self.parts["words"][0]
        return state

    def google(self, moments: bool = True) -> dict[str, np.ndarray]:
        """The variables of Google's checkpoint; with those of its optimizer."""
        variables = {"cls/predictions/output_bias": self.decoder_bias}
        for place, tensors in self.parts.items():
            scope = _named(GOOGLE, place)
            if place in TABLES:
                variables[scope] = tensors[0]
            elif "norm" in place:
                variables |= {f"{scope}/gamma": tensors[0], f"{scope}/beta": tensors[1]}
            elif place == "next":
                variables |= {f"{scope}/output_weights": tensors[0], f"{scope}/output_bias": tensors[1]}
            else:
                variables |= {f"{scope}/kernel": tensors[0].T, f"{scope}/bias": tensors[1]}
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in variables.items()}
        if moments:
            arrays |= {f"{name}/adam_{one}": 0 * array for name, array in list(arrays.items()) for one in "mv"}
            arrays["global_step"] = np.array(1000, dtype="<i8")
        return arrays


def _named(names: Mapping[str, str], place: str) -> str:
    """The name of a part, of a layer if it has one."""
    return names[place] if place in names else names[place[:-1]].format(place[-1])


def config(tokens: int) -> dict[str, Any]:
    """What NVIDIA's, HetSeq's and Google's bert_config.json say."""
    return {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 2,
        "vocab_size": tokens,
    }


def write_nvidia(path: Path, state: Mapping[str, Tensor], **others: Any) -> Path:
    """A checkpoint as run_pretraining.py writes it."""
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"step": torch.tensor([7]), "params": [0]}]}
    content = {"model": state, "optimizer": moments, "grad_scaler": {"scale": 2.0**20}, "epoch": 0, **others}
    torch.save(content, path)
    return path


def write_hetseq(path: Path, state: Mapping[str, Tensor], **arguments: Any) -> Path:
    """A checkpoint as HetSeq's checkpoint_utils.py writes it."""
    history = [{"optimizer_name": "_Adam", "lr_scheduler_state": {"best": None}, "num_updates": 7}]
    args = Namespace(task="bert", lr=[0.0001], update_freq=[4], clip_norm=25, **arguments)
    content = {
        "args": args,
        "model": state,
        "optimizer_history": history,
        "extra_state": {},
        "last_optimizer_state": {},
    }
    torch.save(content, path)
    return path
