"""Models as other programs call them: padded batches in, named outputs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bertjobs.export.padding import padded
from bertjobs.finetune.model import BertForTask
from bertjobs.model.bert import Bert, BertForPreTraining
from bertjobs.tasks.rows import Row

Kind = Literal["sequence", "token", "span", "fill-mask", "features"]
"""What comes out: the head of a task, words for masks, or vectors."""

OUTPUTS: dict[Kind, tuple[str, ...]] = {
    "sequence": ("logits",),
    "token": ("logits",),
    "span": ("start_logits", "end_logits"),
    "fill-mask": ("logits",),
    "features": ("last_hidden_state",),
}


class Padded(nn.Module):
    """A model on padded batches. Its parameters are the model's own.

    Args:
        model: with the head of a task, with the pretraining heads, or the encoder alone.

    Attributes:
        kind: what comes out.
    """

    def __init__(self, model: BertForTask | BertForPreTraining | Bert) -> None:
        super().__init__()
        self.model = model
        self.kind: Kind = "features"
        if isinstance(model, BertForTask):
            self.kind = model.head.kind
        elif isinstance(model, BertForPreTraining):
            self.kind = "fill-mask"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what `forward` returns."""
        return OUTPUTS[self.kind]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        """Three `INPUTS` to float32 outputs: of a sequence head ``[B, outputs]``, of a token head ``[B, S, outputs]``,
        of a span head twice ``[B, S]``, of masks ``[B, S, V]``, of the encoder ``[B, S, H]``."""
        model = self.model
        bert = model if isinstance(model, Bert) else model.bert
        hidden, _ = bert(input_ids, token_type_ids, attention_mask)
        if isinstance(model, Bert):
            return (hidden,)
        if isinstance(model, BertForPreTraining):
            return (model.mlm_logits(hidden),)
        outputs = model.decide(hidden[:, 0] if model.head.kind == "sequence" else hidden)
        return (outputs[..., 0], outputs[..., 1]) if model.head.kind == "span" else (outputs,)


def as_batch(rows: Sequence[Row], pad: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as the three `INPUTS`; ``pad`` is the id of padding."""
    ids, mask, types = (torch.from_numpy(array) for array in padded(rows, pad).values())
    return ids, mask, types
