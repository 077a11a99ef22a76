"""The small files of a fine-tuned model's folder: Hugging Face's configuration and tokenizer, and task.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertjobs.files.atomic import write_json
from bertjobs.files.reading import read_json
from bertjobs.model.tokenizer import write_tokenizer
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.prepared import PreparedTask

TASK_FILE = "task.json"
PROBLEMS = {
    "cross_entropy": "single_label_classification",
    "squared_error": "regression",
    "binary_cross_entropy": "multi_label_classification",
}
"""What Hugging Face calls a head of kind "sequence", by its loss."""


def task_files(spec: ModelSpec, prepared: PreparedTask, folder: Path) -> None:
    """Write all files of a checkpoint but its tensors; the same bytes for the same arguments.

    Raises:
        InputError: the tokenizer cannot be read.
    """
    vocabulary = prepared.folder / "vocab.txt"
    write_tokenizer(folder, vocabulary, lowercase=True, max_length=spec.max_position_embeddings)
    names = prepared.fitted.labels or [f"LABEL_{number}" for number in range(prepared.head.outputs)]
    config = config_from_model_spec(spec) | {"architectures": [prepared.head.architecture]}
    if prepared.head.kind != "span":
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
    if prepared.head.kind == "sequence":
        config["problem_type"] = PROBLEMS[prepared.head.loss]
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    write_json(folder / TASK_FILE, prepared.as_description())


def read_description(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's task.json; None if it has none.

    Raises:
        DamagedFileError: it is not JSON.
    """
    return read_json(folder / TASK_FILE, lambda value: dict(value))
