"""A folder with a fine-tuned model, as something that can be asked: ours with task.json, or Hugging Face's own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError, object_of, read_json
from bertjobs.finetune.description import PROBLEMS, TASK_FILE, TUNED, read_description
from bertjobs.finetune.forward import TaskForward, open_forward
from bertjobs.finetune.model import BertForTask, load_weights
from bertjobs.recipe.bert_config import classes_of, model_spec_from_config, read_bert_config
from bertjobs.recipe.spec import ModelSpec
from bertjobs.run.result import measured_of
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.questions import Squad1, options_for
from bertjobs.tasks.rows import ARCHITECTURES, Head
from bertjobs.tasks.task import Fitted, Task, open_task
from bertjobs.train.precision import check_precision, use_precision

KINDS = {architecture: kind for kind, architecture in ARCHITECTURES.items()}
"""Hugging Face's classes by what their head looks at."""

GUESSES = {"sequence": "sentences", "token": "tagging", "span": "squad1"}
"""The task of a folder without task.json, by what its head looks at."""

_SENTENCE_KINDS = {"cross_entropy": "class", "squared_error": "number", "binary_cross_entropy": "several"}
_LOSSES = {problem: loss for loss, problem in PROBLEMS.items()}


@dataclass(frozen=True)
class TrainedModel:
    """A fine-tuned model with its task.

    Attributes:
        name: of the task, as it is opened.
        fitted: the labels, and what was tuned on the dev data.
    """

    folder: Path
    name: str
    task: Task[Any]
    fitted: Fitted
    encoder: TextEncoder
    forward: TaskForward
    precision: str

    @property
    def head(self) -> Head:
        return self.forward.model.head

    def as_description(self) -> dict[str, Any]:
        """What a folder of the model alone keeps of its task, as task.json: also what was tuned."""
        return {
            "task": self.name,
            "options": dict(self.task.options),
            "labels": list(self.fitted.labels),
            "head": self.head.as_json(),
            "measure": self.task.measure,
            "max_length": self.encoder.max_length,
            **({TUNED: dict(self.fitted.tuned)} if self.fitted.tuned else {}),
        }


@dataclass(frozen=True)
class _Description:
    """What a folder says of its task."""

    name: str
    options: Mapping[str, str]
    fitted: Fitted
    head: Head
    max_length: int


def is_fine_tuned(folder: Path) -> bool:
    """Whether a folder's model has the head of a task.

    Raises:
        InputError: it has no config.json, or a damaged file.
    """
    architecture = next(iter(classes_of(read_bert_config(folder))), "")
    return architecture in KINDS or read_description(folder) is not None


def load_trained(folder: Path, device: torch.device, precision: str = "fp32", name: str = "") -> TrainedModel:
    """Load a fine-tuned model for predictions.

    Args:
        name: of the task of a folder without task.json; "" for what its head is for.

    Raises:
        InputError: the folder's model is not fine-tuned, its head does not fit, it has no tokenizer, or a file is
            damaged; the device lacks the precision; the model is of another task than ``name``; or as `open_task`.
    """
    config = read_bert_config(folder)
    spec = model_spec_from_config(config, folder.name)
    description = _described(folder) or _guessed(folder, config, spec)
    task = open_task(description.name, description.options, named_by=folder)
    if name not in ("", description.name):
        task, description = _of_task(name, folder, description)
    encoder = TextEncoder.of_folder(folder, description.max_length)
    encoder.check_fits(spec.vocab_size, str(folder))
    check_precision(precision, device)
    use_precision(precision)
    model = BertForTask(spec, description.head).to(device)
    if missing := load_weights(model, folder, with_head=True):
        raise InputError(
            f"the folder's weights lack those of the task's head: {', '.join(missing)}",
            where=str(folder),
            hint=_finetune_hint(folder),
        )
    forward = open_forward(model.eval(), precision, device)
    return TrainedModel(folder, description.name, task, description.fitted, encoder, forward, precision)


def _described(folder: Path) -> _Description | None:
    """What task.json says; None if there is none."""
    content = read_description(folder)
    if content is None:
        return None
    try:
        return _Description(
            content["task"],
            content["options"],
            Fitted(tuple(content["labels"]), _tuned(folder) or content.get(TUNED) or {}),
            Head(**content["head"]),
            content["max_length"],
        )
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{TASK_FILE} is damaged: {error}", where=str(folder / TASK_FILE)) from error


def _tuned(folder: Path) -> Mapping[str, Any]:
    """What its run tuned on the dev data with this checkpoint; {} if it lies in no run, or nothing was tuned."""
    return measured_of(folder).get(TUNED) or {}


def _guessed(folder: Path, config: Mapping[str, Any], spec: ModelSpec) -> _Description:
    """The task that Hugging Face's configuration stands for."""
    architecture = next(iter(classes_of(config)), "")
    if architecture not in KINDS:
        known = f"it is a {architecture} without {TASK_FILE}" if architecture else f"it has no {TASK_FILE}"
        raise InputError(f"the model is not fine-tuned: {known}", where=str(folder), hint=_finetune_hint(folder))
    kind = KINDS[architecture]
    labels = labels_in(config, folder)
    problem = config.get("problem_type") or ("regression" if len(labels) == 1 else "")
    loss = _LOSSES.get(problem, "cross_entropy") if kind == "sequence" else "cross_entropy"
    outputs = 2 if kind == "span" else len(labels)
    has_names = kind != "span" and loss != "squared_error"
    longest = _longest(folder, spec)
    options = {
        "sequence": {"kind": _SENTENCE_KINDS[loss], "second_optional": "true"},  # nothing says whether it reads pairs
        "span": options_for(longest),
    }
    return _Description(
        GUESSES[kind],
        options.get(kind, {}),
        Fitted(labels if has_names else ()),
        Head(kind, outputs, loss),  # type: ignore[arg-type]
        longest,
    )


def _of_task(name: str, folder: Path, guess: _Description) -> tuple[Task[Any], _Description]:
    """Another task for a folder that says none.

    Raises:
        InputError: it says one, or the task has another head.
    """
    if (folder / TASK_FILE).exists():
        raise InputError(f"the model is of task {guess.name}, as its {TASK_FILE} says", where=f"--task {name}",
                         hint="leave out --task")  # fmt: skip
    task = open_task(name)
    if isinstance(task, Squad1):
        task = open_task(name, options_for(guess.max_length))
    head = task.head(guess.fitted.labels)
    if head != guess.head:
        raise InputError(f"the model's head is not of task {name}: {_in_words(guess.head)}, not {_in_words(head)}",
                         where=f"--task {name}", hint=f"without --task it is taken for {guess.name}")  # fmt: skip
    return task, replace(guess, name=name, options=task.options)


def _in_words(head: Head) -> str:
    return f"{head.outputs} outputs for each {head.kind}, {head.loss.replace('_', ' ')}"


def labels_in(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The names of a head's outputs, by number, in Hugging Face's configuration; two are what it leaves out.

    Raises:
        InputError: they are damaged.
    """
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"id2label is damaged: {error}", where=str(folder / "config.json")) from error


def _longest(folder: Path, spec: ModelSpec) -> int:
    """Tokens of a sequence at most, where only Hugging Face's files say it."""
    stated = (read_json(folder / "tokenizer_config.json", object_of) or {}).get("model_max_length")
    longest = spec.max_position_embeddings
    return min(longest, stated) if isinstance(stated, int) and stated >= 8 else longest


def _finetune_hint(folder: Path) -> str:
    return f"bertjobs finetune --task TASK --from {shlex.quote(str(folder))} --data DIR makes one that predicts"
