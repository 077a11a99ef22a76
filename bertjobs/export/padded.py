"""Models as other programs call them: padded batches in, named outputs out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bertjobs.finetune.model import BertForTask
from bertjobs.model.bert import Bert, BertForPreTraining

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Each int64 ``[B, S]``, in this order, as Hugging Face's exporters name them."""

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
        hidden, pooled = bert(input_ids, token_type_ids, attention_mask)
        if isinstance(model, Bert):
            return (hidden,)
        if isinstance(model, BertForPreTraining):
            return (model.mlm_logits(hidden),)
        if model.head.kind == "span":
            logits = model.qa_outputs(hidden)
            return logits[..., 0], logits[..., 1]
        return (model.classifier(hidden if pooled is None else pooled),)


def padded(rows: list[list[int]], seconds: list[int], pad: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids of several lengths as the three `INPUTS`.

    Args:
        rows: token ids of each sequence.
        seconds: the place of the first token of its second segment.
        pad: the id of padding.
    """
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.arange(int(lengths.max()))[None, :]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    mask = places < lengths[:, None]
    types = (places >= torch.tensor(seconds)[:, None]) & mask
    return ids, mask.long(), types.long()
