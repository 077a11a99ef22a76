"""A teacher on the device of its student: frozen, in evaluation, never part of what is trained or saved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.finetune.model import BertForTask, load_weights
from bertjobs.model.attention import ChosenAttention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import initialise_from
from bertjobs.model.packed import Tokens
from bertjobs.model.states import States, states_of
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.tasks.rows import Head
from bertjobs.train.precision import attention_for


class Teacher:
    """What a student asks of its teacher. It is not a module: a forward pass that holds one has only the student's
    parameters."""

    def __init__(self, model: BertForPreTraining | BertForTask, attention: ChosenAttention) -> None:
        self._model, self._attention = model.eval().requires_grad_(False), attention

    @torch.no_grad()
    def states(self, pack: Tokens, matching: Matching) -> States:
        """Its layers on a pack, as far as the student learns from them."""
        attended = matching.relation_layer if matching.relations else None
        return states_of(self._model.bert, pack, self._attention, matching.teacher_layers, attended)

    @torch.no_grad()
    def word_logits(self, hidden: Tensor) -> Tensor:
        """Masked-LM logits [N, V] of its hidden states [N, W]."""
        assert isinstance(self._model, BertForPreTraining)
        return self._model.mlm_logits(hidden)

    @torch.no_grad()
    def decide(self, hidden: Tensor) -> Tensor:
        """Its task's outputs, float32 [R, outputs], for its hidden states [R, W]."""
        assert isinstance(self._model, BertForTask)
        return self._model.decide(hidden).float()


def open_pretrained(spec: RunSpec, shape: ModelSpec, device: torch.device, *, has_words: bool) -> Teacher:
    """A teacher of pretraining.

    Args:
        has_words: its masked-LM head is needed.

    Raises:
        InputError: its weights cannot be read, or lack the head; the attention does not work for it.
    """
    folder = Path(spec.teacher)
    model = BertForPreTraining(shape, next_sentence=False)
    lacking = initialise_from(model, folder)
    if has_words and lacking:
        raise InputError(
            f"the teacher's masked-LM head is not complete: it lacks {lacking[0]}",
            where=str(folder),
            hint="--set distill_logits=0 learns from its layers alone",
        )
    return Teacher(model.to(device), attention_for(spec.attention, shape, spec.precision, device))


def open_fine_tuned(spec: RunSpec, shape: ModelSpec, head: Head, device: torch.device) -> Teacher:
    """A teacher of a task.

    Raises:
        InputError: its weights cannot be read, or lack the head; the attention does not work for it.
    """
    folder = Path(spec.teacher)
    model = BertForTask(shape, head)
    if lacking := load_weights(model, folder, with_head=True):
        raise InputError(f"the teacher's weights lack those of its head: {', '.join(lacking)}", where=str(folder))
    return Teacher(model.to(device), attention_for(spec.attention, shape, spec.precision, device))
