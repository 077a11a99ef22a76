"""BERT's pretraining step on a micro-batch, padded or packed: what it adds to the loss of the step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from bertjobs.data.batches.batches import Batch, MicroBatch
from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.errors import first_line
from bertjobs.model.attention import ChosenAttention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.compiled import choose_parts, warm_up
from bertjobs.model.fused_layers import LayerChoice, LayerShapes, choose_layers
from bertjobs.model.packed import EAGER, TokenWise, packed_sums
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.objective import Term
from bertjobs.train.precision import AUTOCAST, attention_for, autocast
from bertjobs.train.ranks import Ranks


class Forward(nn.Module):
    """``model`` on micro-batches. Its parameters are the model's own.

    Args:
        attention, parts: how packs are computed; without ``attention`` only padded batches can be.
        layers: the choice that led to ``parts``.
    """

    def __init__(
        self,
        model: BertForPreTraining,
        attention: ChosenAttention | None = None,
        parts: TokenWise = EAGER,
        layers: LayerChoice | None = None,
    ):
        super().__init__()
        self.model, self.attention, self.parts, self.layers = model, attention, parts, layers

    def forward(self, batch: MicroBatch) -> tuple[Term, ...]:
        """The masked-LM term of one micro-batch, over masked tokens, and, if the model has that head, the next-sentence
        term, over sequences: losses in nats, and hits. It may be on the host, which is the best place for a padded
        one's labels.

        Raises:
            ValueError: it is a pack, and there is no attention for packs.
        """
        batch = on_device(batch, self.device)
        if isinstance(batch, Batch):
            sums = self.model(*batch.tensors())
        elif self.attention is None:
            raise ValueError("packs need an attention")
        else:
            sums = packed_sums(self.model, batch, self.attention, self.parts)
        masked = Term(sums.mlm_loss_sum, sums.mlm_count, (sums.mlm_correct,))
        if not self.model.next_sentence:
            return (masked,)
        return masked, Term(sums.nsp_loss_sum, sums.nsp_count, (sums.nsp_correct,))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.bert.embeddings.word_embeddings.weight.device

    def warm_up(self, pack: PackedBatch, precision: str, ranks: Ranks) -> None:
        """Compile what training on packs of this shape needs, so that no step waits for it; changes nothing else.

        All ranks call it. If one of them cannot compile, all continue with eager parts: else the others would wait for
        it in each step, or, if it ended, would end with it.
        """
        if self.attention is None:
            return
        device, problem = pack.input_ids.device, ""
        if self.parts is not EAGER:
            try:
                warm_up(self.model, pack, self.attention, self.parts, lambda: autocast(precision, device))
            except torch.OutOfMemoryError:
                raise  # eager parts need more memory, not less
            except Exception as error:  # compilers, drivers and caches fail in many ways
                problem = first_line(error)
                print(f"rank {ranks.rank}: warning: nothing can be compiled: {problem}", flush=True)
        eager, failed = ranks.sum_on_host(int(self.parts is EAGER or problem != ""), int(problem != ""))
        if eager:
            self.parts = EAGER
        if failed or 0 < eager < ranks.size:
            ranks.say(f"all ranks continue without compiled kernels, more slowly: {eager} of {ranks.size} have none")

    def describe(self) -> str:
        """One line for the log."""
        if self.attention is None:
            return "padded micro-batches"
        if self.parts is EAGER or self.layers is None:
            return f"{self.attention.describe()}, {'eager' if self.parts is EAGER else 'compiled'}"
        parts = "compiled" if self.parts.fixed_shapes else "eager"
        return f"{self.attention.describe()}, {parts}, {self.layers.describe()}"


def model_of(spec: RunSpec) -> BertForPreTraining:
    """The model that a run trains, with random weights from torch's global generator."""
    return BertForPreTraining(
        spec.model, next_sentence=spec.next_sentence, activation_checkpointing=spec.activation_checkpointing
    )


def choose_fused_layers(spec: RunSpec, device: torch.device, tokens: int | None = None) -> LayerChoice:
    """What computes the layers of packs. Where it is measured, the ranks of a run have to take the choice of one of
    them.

    Args:
        tokens: of a pack; those of the recipe's first phase by default.

    Raises:
        InputError: ``fused_layers`` names what does not work on this device.
    """
    if not spec.is_unpadded:
        return LayerChoice("eager", "padded")
    shapes = LayerShapes(
        model=spec.model,
        tokens=tokens or spec.pack_tokens(spec.phases[0]),
        dtype=AUTOCAST.get(spec.precision, torch.float32),
    )
    return choose_layers(
        spec.fused_layers,
        device,
        shapes,
        compiles=spec.compile,
        deterministic=spec.deterministic,
        mode=spec.compile_mode,
    )


def open_forward(
    model: BertForPreTraining, spec: RunSpec, device: torch.device, layers: LayerChoice | None = None
) -> Forward:
    """The forward pass that a run asks for. ``layers``: chosen here by default.

    Raises:
        InputError: the attention that it names does not work on this device; or as in `choose_fused_layers`.
    """
    if not spec.is_unpadded:
        return Forward(model)
    attention = attention_for(spec.attention, spec.model, spec.precision, device)
    layers = layers or choose_fused_layers(spec, device)
    parts = choose_parts(device, layers.name, spec.compile_mode, compiles=spec.compile)
    return Forward(model, attention, parts, layers)


def on_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """The micro-batch on the model's device; a padded one's labels stay on the host, to avoid waiting for the GPU."""
    moved = batch.to(device, non_blocking=True)
    return moved if isinstance(moved, PackedBatch) else replace(moved, labels=batch.labels)
