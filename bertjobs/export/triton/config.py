"""config.pbtxt, as Triton reads it: of the model that computes, and of the one that takes text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bertjobs.export.padding import INPUTS
from bertjobs.export.triton.answering import FP32, MOST_ROWS, STRING, Answering

ONNX_BACKEND, PYTHON_BACKEND = "onnxruntime", "python"
QUEUE_DELAY_US = 500
"""How long Triton waits for more requests before it computes those that it has: short against the time of a batch."""


@dataclass(frozen=True)
class TensorConfig:
    """An input or an output, without the first dimension, which is the batch's; -1: of any size."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Config:
    """One model."""

    name: str
    backend: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    kind: str = "KIND_AUTO"
    parameters: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The text of config.pbtxt."""
        parameters = [
            f"parameters {{\n  key: {_quoted(key)}\n  value {{ string_value: {_quoted(value)} }}\n}}\n"
            for key, value in self.parameters.items()
        ]
        return "".join([
            f"name: {_quoted(self.name)}\nbackend: {_quoted(self.backend)}\nmax_batch_size: {MOST_ROWS}\n",
            *(_tensor("input", one) for one in self.inputs),
            *(_tensor("output", one) for one in self.outputs),
            f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}\n",
            f"instance_group [ {{ count: 1 kind: {self.kind} }} ]\n",
            *parameters,
        ])  # fmt: skip


def computing_config(name: str, outputs: Mapping[str, Sequence[int]], *, in_python: bool, threads: int) -> Config:
    """The model that computes.

    Args:
        outputs: their sizes by name, without the batch's.
        in_python: ONNX Runtime is called from Python, not by Triton's own backend.
        threads: of ONNX Runtime for one batch; 0: as many as it likes.
    """
    return Config(
        name=name,
        backend=PYTHON_BACKEND if in_python else ONNX_BACKEND,
        inputs=tuple(TensorConfig(one, "TYPE_INT64", (-1,)) for one in INPUTS),
        outputs=tuple(TensorConfig(one, FP32, tuple(dims)) for one, dims in outputs.items()),
        parameters={"intra_op_thread_count": str(threads)},
    )


def text_config(name: str, computing: str, answering: Answering) -> Config:
    """The model that takes text; ``computing`` is the one that it asks."""
    return Config(
        name=name,
        backend=PYTHON_BACKEND,
        inputs=tuple(TensorConfig(text, STRING, (1,), optional) for text, optional in answering.texts.items()),
        outputs=tuple(TensorConfig(one.name, one.type, (one.size,)) for one in answering.fields),
        kind="KIND_CPU",
        parameters={"computing_model": computing},
    )


def _tensor(word: str, tensor: TensorConfig) -> str:
    dims = ", ".join(map(str, tensor.dims))
    optional = " optional: true" if tensor.optional else ""
    return f"{word} {{ name: {_quoted(tensor.name)} data_type: {tensor.type} dims: [ {dims} ]{optional} }}\n"


def _quoted(text: str) -> str:
    return json.dumps(text)
