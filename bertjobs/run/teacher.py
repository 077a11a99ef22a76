"""The model that a run's student learns from: what it is made of, whether it fits, and whether it is still the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.recipe.bert_config import classes_of, read_bert_config, read_model_spec
from bertjobs.recipe.distillation import Matching, matching_of
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.run.weights import weights_file

HEADS = {"BertForMaskedLM", "BertForPreTraining"}
"""Hugging Face's classes that have a masked-LM head."""
BESIDE = ("config.json", "task.json", "vocab.txt")


def teacher_sha256(folder: Path) -> str:
    """A digest, 64 hex digits, over what decides what a teacher says: its shape, task, vocabulary and weights.

    Raises:
        InputError: there are no weights, or a file cannot be read.
    """
    weights = weights_file(folder, "the teacher").name
    digest = hashlib.sha256()
    try:
        for name in (*(name for name in BESIDE if (folder / name).is_file()), weights):
            digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    except OSError as error:
        raise InputError(f"the teacher cannot be read: {error.strerror}", where=str(folder / name)) from error
    return digest.hexdigest()


def with_teacher_sha256(spec: RunSpec) -> RunSpec:
    """The run with the digest of its teacher, if it has none yet.

    Raises:
        InputError: as in `teacher_sha256`.
    """
    return spec if spec.teacher_sha256 else replace(spec, teacher_sha256=teacher_sha256(Path(spec.teacher)))


def check_same_teacher(spec: RunSpec) -> None:
    """Make sure that a run's teacher is the one that it began with.

    Raises:
        InputError: it is another, or cannot be read.
    """
    if spec.teacher_sha256 and spec.teacher_sha256 != teacher_sha256(Path(spec.teacher)):
        raise InputError(
            "the teacher has changed since the run was started",
            where=spec.teacher,
            hint="put its files back, or start another run with another name",
        )


def teacher_of(spec: RunSpec) -> tuple[ModelSpec, Matching]:
    """A run's teacher, and what the student learns from it; no weights are read.

    Raises:
        InputError: it has no config.json, or as in `matching_of`.
    """
    shape = read_model_spec(Path(spec.teacher))
    return shape, matching_of(spec, shape)


def predicts_words(folder: Path) -> bool:
    """Whether a model's folder says that it has a masked-LM head."""
    return not HEADS.isdisjoint(classes_of(read_bert_config(folder)))
