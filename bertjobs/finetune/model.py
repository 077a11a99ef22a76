"""BERT with the head of a task. Names of parameters are those of Hugging Face's classes (`Head.architecture`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.model.attention import Attend
from bertjobs.model.bert import Bert, initialise
from bertjobs.model.huggingface import load_pretrained
from bertjobs.model.packed import Tokens, encode, rows_read
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.rows import Head


class BertForTask(nn.Module):
    """The encoder, and one linear head on what `Head.kind` says, after dropout.

    Weights of the head are normal with standard deviation ``initializer_range``, its biases zero, as in Hugging Face's.

    Args:
        spec: the shape; ``vocab_size`` must be filled in.
    """

    def __init__(self, spec: ModelSpec, head: Head, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.spec, self.head = spec, head
        self.bert = Bert(spec, activation_checkpointing, pooled=head.kind == "sequence")
        linear = nn.Linear(spec.hidden_size, head.outputs)
        if head.kind == "span":
            self.qa_outputs = linear
        else:
            self.classifier = linear
        initialise(self, spec)

    def outputs(self, pack: Tokens, rows: Tensor, attend: Attend) -> Tensor:
        """The head's outputs [R, outputs] at ``rows``, int64 [R], ascending places in the pack."""
        return self.decide(encode(self.bert, pack, rows_read(pack, rows), attend))

    def decide(self, hidden: Tensor) -> Tensor:
        """The head's outputs [R, outputs] for the last layer's hidden states [R, H] of the rows that it reads."""
        if self.head.kind == "span":
            return self.qa_outputs(hidden)
        if self.bert.pooler is not None:
            hidden = torch.tanh(self.bert.pooler.dense(hidden))
        return self.classifier(F.dropout(hidden, self.spec.hidden_dropout_prob, self.training))


@torch.no_grad()
def load_weights(model: BertForTask, folder: Path, *, with_head: bool) -> tuple[str, ...]:
    """Copy a folder's weights into the model; returns the parameters that keep their random start.

    Args:
        with_head: whether the folder's head is of the same task; else the model keeps its own.

    Raises:
        InputError: they cannot be read, or are of another shape.
    """
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    wanted = {name: p.shape for name, p in parameters.items() if with_head or name.startswith("bert.")}
    weights = load_pretrained(folder, model.spec, wanted)
    for name, tensor in weights.state.items():
        parameters[name].copy_(tensor)
    return tuple(name for name in parameters if name not in weights.state)
