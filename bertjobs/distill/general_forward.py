"""A student's step on a micro-batch of pretraining: what it adds to the loss of the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from bertjobs.data.batches.batches import Batch, MicroBatch
from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.data.batches.unpadded import unpadded
from bertjobs.distill.losses import divergence
from bertjobs.distill.teacher import Teacher
from bertjobs.distill.terms import inner_terms, reaching_all, student_states, weighted
from bertjobs.model.attention import ChosenAttention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.states import States
from bertjobs.recipe.distillation import Matching
from bertjobs.train.objective import Term
from bertjobs.train.pretraining.forward import Forward


class GeneralForward(Forward):
    """``model``, a student, on micro-batches; its parameters are the model's own, not the teacher's.

    Args:
        terms: the summands of the loss, as in `bertjobs.distill.terms`.
    """

    def __init__(
        self,
        model: BertForPreTraining,
        attention: ChosenAttention,
        teacher: Teacher,
        matching: Matching,
        terms: Sequence[str],
    ) -> None:
        super().__init__(model, attention)
        self._teacher, self._matching, self._terms = teacher, matching, tuple(terms)

    def forward(self, batch: MicroBatch) -> tuple[Term, ...]:
        """A `Term` for each summand, in their order: of masked words over masked tokens, of layers over tokens."""
        pack = unpadded(batch) if isinstance(batch, Batch) else batch
        return reaching_all(self._each(pack.to(self.device, non_blocking=True)), self.model)

    def _each(self, pack: PackedBatch) -> Iterator[Term]:
        assert self.attention is not None
        ours = student_states(self.model.bert, pack, self.attention, self._matching)
        theirs = self._teacher.states(pack, self._matching)
        if "labels" in self._terms:
            yield from self._of_words(pack, ours, theirs)
        yield from inner_terms(ours, theirs, pack.lengths, self.model, self._matching)

    def _of_words(self, pack: PackedBatch, ours: States, theirs: States) -> Iterator[Term]:
        places, labels = pack.masked_positions[: pack.masked], pack.labels[: pack.masked]
        logits: Tensor = self.model.mlm_logits(ours.last.index_select(0, places)).float()
        hits = (logits.detach().argmax(1) == labels).sum()
        yield weighted(self._matching.labels, F.cross_entropy(logits, labels, reduction="sum"), pack.masked, hits)
        if "logits" in self._terms:
            taught = self._teacher.word_logits(theirs.last.index_select(0, places))
            apart = divergence(logits, taught, self._matching.temperature)
            yield weighted(self._matching.logits, apart, pack.masked)
