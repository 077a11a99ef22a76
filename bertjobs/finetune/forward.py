"""A task's loss on a pack: what it adds to the loss of the step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.model import BertForTask
from bertjobs.model.attention import ChosenAttention
from bertjobs.model.bert import IGNORED_LABEL
from bertjobs.tasks.rows import Head
from bertjobs.train.objective import Term
from bertjobs.train.precision import attention_for


class TaskForward(nn.Module):
    """``model`` on packs. Its parameters are the model's own."""

    def __init__(self, model: BertForTask, attention: ChosenAttention) -> None:
        super().__init__()
        self.model, self.attention = model, attention

    def forward(self, batch: TaskBatch) -> tuple[Term, ...]:
        """The task's term: the loss in nats, or for numbers squared errors, and how many guesses are right."""
        batch = batch.to(self.device, non_blocking=True)
        if not batch.sequences:
            return (nothing(self.model),)
        return (loss_term(self.outputs(batch), batch, self.model.head),)

    def outputs(self, batch: TaskBatch) -> Tensor:
        """The head's outputs, float32 ``[R, outputs]``, of a batch on the device."""
        return self.model.outputs(batch, batch.read, self.attention).float()

    @property
    def device(self) -> torch.device:
        return self.model.bert.embeddings.word_embeddings.weight.device


def open_forward(model: BertForTask, precision: str, device: torch.device, attention: str = "auto") -> TaskForward:
    """The forward pass of a model on a device.

    Raises:
        InputError: the attention of this name does not work there.
    """
    return TaskForward(model, attention_for(attention, model.spec, precision, device))


def loss_term(outputs: Tensor, batch: TaskBatch, head: Head) -> Term:
    """The loss of outputs ``[R, outputs]`` with the batch's targets."""
    loss, hits = _LOSSES["span" if head.kind == "span" else head.loss](outputs, batch)
    return Term(loss, torch.full((), batch.scored, device=outputs.device), (hits,))


def _cross_entropy(outputs: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    targets = batch.targets.long()
    loss = F.cross_entropy(outputs, targets, ignore_index=IGNORED_LABEL, reduction="sum")
    return loss, (outputs.detach().argmax(1) == targets).sum()


def _squared_error(outputs: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    errors = outputs[:, 0] - batch.targets
    return errors.square().sum(), errors.detach().abs().sum()


def _binary_cross_entropy(outputs: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    targets = batch.targets.view_as(outputs)
    loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / outputs.shape[1]
    return loss, ((outputs.detach() > 0) == (targets > 0.5)).all(1).sum()


def _span(outputs: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """The mean of the two cross-entropies, over the tokens of each sequence, of its answer's first and last token."""
    padded = by_sequence(outputs, batch, float("-inf"))
    targets = batch.targets.long().view(-1, 2)
    loss = sum(F.cross_entropy(padded[:, :, side], targets[:, side], reduction="sum") for side in (0, 1)) / 2
    return loss, (padded.detach().argmax(1) == targets).all(1).sum()  # type: ignore[return-value]


def by_sequence(outputs: Tensor, batch: TaskBatch, filler: float) -> Tensor:
    """Outputs of all tokens ``[T, outputs]`` as ``[sequences, longest, outputs]``, filled up with ``filler``."""
    ends = batch.cumulative_lengths.long()
    places = torch.arange(len(outputs), device=outputs.device)
    sequence = torch.searchsorted(ends[1:], places, right=True)
    padded = outputs.new_full((batch.sequences, batch.max_length, outputs.shape[1]), filler)
    return padded.index_put((sequence, places - ends[sequence]), outputs)


_LOSSES: dict[str, Callable[[Tensor, TaskBatch], tuple[Tensor, Tensor]]] = {
    "cross_entropy": _cross_entropy,
    "squared_error": _squared_error,
    "binary_cross_entropy": _binary_cross_entropy,
    "span": _span,
}


def nothing(model: nn.Module) -> Term:
    """The term of no sequences: 0, with a gradient of 0 for every parameter."""
    zero = sum(parameter.flatten()[0] * 0 for parameter in model.parameters() if parameter.requires_grad)
    none = torch.zeros((), dtype=torch.int64, device=zero.device)  # type: ignore[union-attr]
    return Term(zero, none, (none,))  # type: ignore[arg-type]
