"""Whether a teacher was fine-tuned for what a prepared task asks; no weights are read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError
from bertjobs.finetune.description import TASK_FILE, read_description
from bertjobs.finetune.loading import labels_in
from bertjobs.recipe.bert_config import classes_of, read_bert_config
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.rows import Head


def check_task_teacher(folder: Path, prepared: PreparedTask) -> None:
    """Make sure that a teacher's outputs mean what those of a student of this task will mean.

    Raises:
        InputError: it is not fine-tuned, or for a head of another kind or other labels.
    """
    content = read_description(folder)
    if content is None:
        _check_config(folder, read_bert_config(folder), prepared)
        return
    try:
        head, labels = Head(**content["head"]), tuple(content["labels"])
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{TASK_FILE} is damaged: {error}", where=str(folder / TASK_FILE)) from error
    if head != prepared.head and (head.kind != prepared.head.kind or head.loss != prepared.head.loss):
        raise _other_task(f"it was fine-tuned for {content.get('task')}", folder, prepared)
    _check_labels(labels, folder, prepared)


def _check_config(folder: Path, config: dict[str, Any], prepared: PreparedTask) -> None:
    """What Hugging Face's configuration says."""
    wanted, classes = prepared.head.architecture, classes_of(config)
    if wanted not in classes:
        what = f"it is a {next(iter(classes), 'BERT')} without {TASK_FILE}"
        raise _other_task(what, folder, prepared)
    if prepared.head.kind == "span":
        return
    labels = labels_in(config, folder)
    if prepared.fitted.labels:
        _check_labels(labels, folder, prepared)
    elif len(labels) != prepared.head.outputs:
        raise _other_task(f"its head has {len(labels)} outputs, not {prepared.head.outputs}", folder, prepared)


def _check_labels(labels: tuple[str, ...], folder: Path, prepared: PreparedTask) -> None:
    ours = prepared.fitted.labels
    if labels != ours:
        raise InputError(
            f"the teacher's labels are {_shown(labels)}, and those of the data {_shown(ours)}",
            where=f"{folder} and {prepared.folder}",
            hint="their order counts; for sentences, --option labels=A,B,C gives the data the teacher's",
        )


def _shown(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return (", ".join(labels[:6]) or "none") + more


def _other_task(what: str, folder: Path, prepared: PreparedTask) -> InputError:
    return InputError(
        f"the teacher is not fine-tuned for task {prepared.task}: {what}",
        where=str(folder),
        hint=f"bertjobs finetune --task {prepared.task} --from {shlex.quote(str(folder))} --data DIR makes one that is",
    )
