"""The small files of a fine-tuned model's folder: Hugging Face's configuration and tokenizer, and task.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjobs.files.atomic import write_json
from bertjobs.files.reading import object_of, read_json
from bertjobs.model.tokenizer import write_tokenizer
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.rows import Head

TASK_FILE = "task.json"
TUNED = "tuned"
"""Its key for what was chosen on the dev data; a checkpoint in a run has it in validation.jsonl instead."""
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
    write_config(folder, task_config(spec, prepared.head, prepared.fitted.labels))
    write_json(folder / TASK_FILE, prepared.as_description())


def task_config(spec: ModelSpec, head: Head, labels: Sequence[str]) -> dict[str, Any]:
    """The content of config.json for a model with the head of a task."""
    names = labels or [f"LABEL_{number}" for number in range(head.outputs)]
    config = config_from_model_spec(spec) | {"architectures": [head.architecture]}
    if head.kind != "span":
        config["id2label"] = {str(number): name for number, name in enumerate(names)}
        config["label2id"] = {name: number for number, name in enumerate(names)}
    if head.kind == "sequence":
        config["problem_type"] = PROBLEMS[head.loss]
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def is_same_task(folder: Path, prepared: PreparedTask) -> bool:
    """Whether a folder's model is of the same task with the same labels; what was tuned for it does not count.

    Raises:
        DamagedFileError: as `read_description`.
    """
    content = read_description(folder)
    return content is not None and {**content, TUNED: None} == {**prepared.as_description(), TUNED: None}


def read_description(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's task.json; None if it has none.

    Raises:
        DamagedFileError: it is not JSON.
    """
    return read_json(folder / TASK_FILE, object_of)
