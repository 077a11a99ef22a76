"""A Hugging Face folder of a model, and the small files that every export has."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from bertjobs.export.source import ExportedModel
from bertjobs.files.atomic import write_json
from bertjobs.finetune.description import TASK_FILE, write_config
from bertjobs.model.huggingface import WEIGHTS_FILE, WEIGHTS_METADATA
from bertjobs.model.tokenizer import write_vocabulary


def write_description(source: ExportedModel, folder: Path) -> None:
    """Write all of a Hugging Face folder but the weights: config.json, the tokenizer's files, and with a task
    task.json."""
    write_config(folder, source.config)
    write_vocabulary(folder, source.encoder.vocabulary, source.spec.max_position_embeddings)
    if source.task is not None:
        write_json(folder / TASK_FILE, source.task)


def write_weights(source: ExportedModel, folder: Path) -> None:
    """Write model.safetensors, in float32."""
    state = {name: tensor.float().contiguous() for name, tensor in source.state.items()}
    save_file(state, folder / WEIGHTS_FILE, metadata=WEIGHTS_METADATA)
