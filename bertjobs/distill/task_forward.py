"""A student's step on a pack of a task: what it adds to the loss of the step."""

from __future__ import annotations

from collections.abc import Iterator

from bertjobs.distill.losses import task_divergence
from bertjobs.distill.teacher import Teacher
from bertjobs.distill.terms import inner_terms, reaching_all, student_states, weighted
from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.forward import TaskForward, loss_term
from bertjobs.finetune.model import BertForTask
from bertjobs.model.attention import ChosenAttention
from bertjobs.recipe.distillation import Matching
from bertjobs.train.objective import Term


class TaughtForward(TaskForward):
    """``model``, a student, on packs; its parameters are the model's own, not the teacher's."""

    def __init__(self, model: BertForTask, attention: ChosenAttention, teacher: Teacher, matching: Matching) -> None:
        super().__init__(model, attention)
        self._teacher, self._matching = teacher, matching

    def forward(self, batch: TaskBatch) -> tuple[Term, ...]:
        """A `Term` for each summand, in their order: of the task over what it scores, of layers over tokens."""
        return reaching_all(self._each(batch.to(self.device, non_blocking=True)), self.model)

    def _each(self, batch: TaskBatch) -> Iterator[Term]:
        matching, head = self._matching, self.model.head
        ours = student_states(self.model.bert, batch, self.attention, matching)
        theirs = self._teacher.states(batch, matching)
        outputs = self.model.decide(ours.last.index_select(0, batch.read)).float()
        own = loss_term(outputs, batch, head)
        yield weighted(matching.labels, own.loss_sum, batch.scored, *own.score_sums)
        if matching.logits:
            taught = self._teacher.decide(theirs.last.index_select(0, batch.read))
            apart = task_divergence(outputs, taught, batch, head, matching.temperature)
            yield weighted(matching.logits, apart, batch.scored)
        yield from inner_terms(ours, theirs, batch.lengths, self.model, matching)
