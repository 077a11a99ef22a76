"""What a student has besides a BERT, and what it begins with: the teacher's own weights, as far as its shape allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bertjobs.model.huggingface import TRAINING_ONLY, load_pretrained, load_training_only
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.spec import ModelSpec

_LAYER = re.compile(r"(bert\.encoder\.layer\.)(\d+)(\..*)")
_TABLES = ("word", "position", "token_type")
_SHAPE = ("hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings",
          "type_vocab_size")  # fmt: skip


class Projections(nn.Module):
    """From a student's width to its teacher's: of the embeddings, and one for all layers, as in TinyBERT (Jiao et al.,
    arXiv 1909.10351). Only training needs them."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.embeddings = nn.Linear(student, teacher, bias=False)
        self.layers = nn.Linear(student, teacher, bias=False)
        for linear in (self.embeddings, self.layers):
            nn.init.orthogonal_(linear.weight)


def add_projections(model: nn.Module, student: ModelSpec, teacher: ModelSpec, matching: Matching) -> None:
    """Give a model projections, if its hidden states are compared with wider or narrower ones."""
    if matching.hidden and student.hidden_size != teacher.hidden_size:
        model.add_module(TRAINING_ONLY, Projections(student.hidden_size, teacher.hidden_size))


def projected(model: nn.Module, hidden: Tensor, layer: int) -> Tensor:
    """A layer's hidden states [T, W] in the teacher's width; layer 0 are the embeddings."""
    projections = cast("Projections | None", getattr(model, TRAINING_ONLY, None))
    if projections is None:
        return hidden
    return projections.layers(hidden) if layer else projections.embeddings(hidden)


def load_beside(model: nn.Module, folder: Path, fresh: tuple[str, ...]) -> tuple[str, ...]:
    """Load what a folder has for training only; returns what stays ``fresh``, as in `Learner.load_weights`."""
    lacking = load_training_only(model, folder)
    return (*(name for name in fresh if not name.startswith(f"{TRAINING_ONLY}.")), *lacking)


@torch.no_grad()
def start_from_teacher(
    model: nn.Module, student: ModelSpec, folder: Path, teacher: ModelSpec, matching: Matching
) -> tuple[str, ...]:
    """Copy what a student can use of its teacher's weights; returns the parameters that stay random.

    Where all widths and the number of heads agree, that is everything of the layers that it learns from, and heads of
    the same names. Else the embeddings: all of them where the student is as wide, otherwise their principal components,
    as many as it is wide; projections begin as the way back.

    Raises:
        InputError: the teacher's weights cannot be read.
    """
    parameters = dict(model.named_parameters())
    if all(getattr(student, field) == getattr(teacher, field) for field in _SHAPE):
        made = _layers(parameters, folder, matching)
    else:
        made = _components(parameters, folder, student, teacher)
    for name, tensor in made.items():
        parameters[name].copy_(tensor)
    return tuple(name for name in parameters if name not in made)


def source_of(name: str, matching: Matching) -> str:
    """The teacher's parameter that a student's of this name begins as."""
    match = _LAYER.fullmatch(name)
    return f"{match[1]}{matching.layers[int(match[2])] - 1}{match[3]}" if match else name


def _layers(parameters: Mapping[str, Tensor], folder: Path, matching: Matching) -> dict[str, Tensor]:
    sources = {name: source_of(name, matching) for name in parameters if not name.startswith(f"{TRAINING_ONLY}.")}
    weights = load_pretrained(folder, None, {source: parameters[name].shape for name, source in sources.items()})
    return {name: weights.state[source] for name, source in sources.items() if source in weights.state}


def _components(
    parameters: Mapping[str, Tensor], folder: Path, student: ModelSpec, teacher: ModelSpec
) -> dict[str, Tensor]:
    names = {f"bert.embeddings.{table}_embeddings.weight" for table in _TABLES}
    fitting = {name for name in names if len(parameters[name]) == _rows(name, teacher)}
    if student.hidden_size > teacher.hidden_size or not fitting:
        return {}
    shapes = {name: torch.Size((_rows(name, teacher), teacher.hidden_size)) for name in names}
    tables = load_pretrained(folder, None, shapes).state
    if student.hidden_size == teacher.hidden_size:  # nothing lies between their hidden states: no axis may be turned
        norms = {name: parameters[name].shape for name in parameters if name.startswith("bert.embeddings.LayerNorm.")}
        return {name: tables[name] for name in fitting} | load_pretrained(folder, None, norms).state
    basis = principal(tables["bert.embeddings.word_embeddings.weight"], student.hidden_size)
    made = {name: tables[name] @ basis for name in fitting}
    return made | {name: basis for name in parameters if name.startswith(f"{TRAINING_ONLY}.")}


def _rows(name: str, model: ModelSpec) -> int:
    """Rows of a table of embeddings."""
    rows = {
        "word": model.vocab_size,
        "position": model.max_position_embeddings,
        "token_type": model.type_vocab_size,
    }
    return next(count for table, count in rows.items() if f".{table}_embeddings." in name)


def principal(table: Tensor, count: int) -> Tensor:
    """An orthonormal basis [W, count] of the directions in which the rows of a table [N, W] are largest."""
    squares = table.double().T @ table.double()
    return torch.linalg.eigh(squares).eigenvectors[:, -count:].flip(1).to(table.dtype).contiguous()
