"""General distillation as an objective: pretraining's shards and masks, with a teacher beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from bertjobs.distill.general_forward import GeneralForward
from bertjobs.distill.general_measures import FIELDS, LOSSES, fields_of, step_words, validation_words
from bertjobs.distill.held_out import DistillationValidation
from bertjobs.distill.learner import load_student, teacher_words
from bertjobs.distill.student import add_projections
from bertjobs.distill.teacher import open_pretrained
from bertjobs.distill.terms import means, terms_of
from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining, Layer
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.flops import FORWARD_SHARE, StepCounts, step_flops
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.run.teacher import check_same_teacher, predicts_words, teacher_of, with_teacher_sha256
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.precision import attention_for
from bertjobs.train.pretraining.forward import model_of
from bertjobs.train.pretraining.objective import Pretraining, PretrainingLearner
from bertjobs.train.pretraining.shards import PhaseShards
from bertjobs.train.ranks import Ranks


@dataclass(frozen=True)
class GeneralDistillation(Pretraining):
    """Distillation of a pretrained teacher on prepared shards; an `Objective`.

    Attributes:
        teacher: its shape.
        terms: the summands of the loss, as in `bertjobs.distill.terms`.
    """

    teacher: ModelSpec
    matching: Matching
    terms: tuple[str, ...]

    _minimised = "distillation_loss"
    step_words = staticmethod(step_words)
    validation_words = staticmethod(validation_words)

    @classmethod
    def of(cls, spec: RunSpec) -> GeneralDistillation:
        """The objective of a run of one phase, checked against its data and its teacher.

        Raises:
            InputError: they are not as the run needs them.
        """
        plain = Pretraining.of(spec)
        teacher, matching = teacher_of(plain.spec)
        folder = Path(spec.teacher)
        plain.data.check_weights(folder)
        has_words = predicts_words(folder)
        if has_words and matching.logits and teacher.vocab_size != plain.spec.model.vocab_size:
            raise InputError(
                f"the teacher has {teacher.vocab_size:,} tokens and the student {plain.spec.model.vocab_size:,}",
                where=f"{folder} and {plain.data.vocabulary_path}",
                hint="start the run with `bertjobs distill`, which gives the student its teacher's",
            )
        learns_words = matching.labels > 0 or (has_words and matching.logits > 0)
        terms = terms_of(matching, has_labels=learns_words, has_logits=has_words)
        if not terms:
            raise InputError(
                "the student would learn nothing: the teacher has no masked-LM head, and other weights are 0",
                where=str(folder),
                hint="set distill_hidden or distill_relations, such as --set distill_hidden=1",
            )
        return cls(
            with_teacher_sha256(plain.spec), plain.phase, plain.data, plain.token_budget, teacher, matching, terms
        )

    @property
    def losses(self) -> Mapping[str, str]:
        shown = {field for name in self.terms for field in FIELDS[name]} | {"distillation_loss"}
        return {field: words for field, words in LOSSES.items() if field in shown}

    @property
    def scores(self) -> Sequence[str]:
        return ["distillation_loss", *(field for name in self.terms for field in FIELDS[name])]

    def open(self, ranks: Ranks, device: torch.device) -> GeneralLearner:
        return GeneralLearner(self, ranks, device)

    def measures(self, sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
        average = means(self.terms, sums, divisors)
        line = fields_of(average)
        # With hidden states alone there are no nats; what is minimised takes their place.
        loss = line.get("mlm_loss_nats", line.get("relation_loss_nats", average.total))
        return {"loss_nats": loss, "distillation_loss": average.total, **line}


class GeneralLearner(PretrainingLearner):
    """`GeneralDistillation` on one rank; a `Learner`."""

    def __init__(self, objective: GeneralDistillation, ranks: Ranks, device: torch.device) -> None:
        self._distilled = objective
        ranks.decided(lambda: check_same_teacher(objective.spec))
        super().__init__(objective, ranks, device)

    def describe(self) -> str:
        return f"{super().describe()}\n{teacher_words(self._distilled)}"

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        step, objective = StepCounts(*counts), self._distilled
        own, teacher = objective.spec.model, objective.teacher
        divisors = {"labels": step.masked_tokens, "logits": step.masked_tokens}
        words = step if "labels" in objective.terms else step._replace(masked_tokens=0)
        asked = step if "logits" in objective.terms else step._replace(masked_tokens=0)
        flops = step_flops(own, own.vocab_size, words, next_sentence=False)
        flops += FORWARD_SHARE * step_flops(teacher, teacher.vocab_size, asked, next_sentence=False)
        return GlobalBatch(
            tuple(max(1, divisors.get(name, step.tokens)) for name in objective.terms),
            step.sequences,
            step.tokens,
            flops,
        )

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        return load_student(self.model, self._distilled, folder, super().load_weights)

    @property
    def learns_words(self) -> bool:
        return "labels" in self._distilled.terms

    def _new_model(self) -> BertForPreTraining:
        objective = self._distilled
        model = model_of(objective.spec)
        add_projections(model, objective.spec.model, objective.teacher, objective.matching)
        if not self.learns_words:  # the decoder's matrix stays: it is that of the word embeddings
            model.cls.predictions.transform.requires_grad_(False)
            model.cls.predictions.bias.requires_grad_(False)
        if objective.terms == ("relations",):  # of queries, keys and values: what follows them would only decay
            last = cast("Layer", model.bert.encoder.layer[-1])
            for unused in (last.attention.output, last.intermediate, last.output):
                unused.requires_grad_(False)
        return model

    def _open_forward(self, ranks: Ranks) -> GeneralForward:
        objective, device = self._distilled, self._device
        spec, has_words = objective.spec, "logits" in objective.terms

        def opened() -> GeneralForward:
            teacher = open_pretrained(spec, objective.teacher, device, has_words=has_words)
            attention = attention_for(spec.attention, spec.model, spec.precision, device)
            return GeneralForward(self.model, attention, teacher, objective.matching, objective.terms)

        return ranks.in_turn(opened)

    def _open_validation(self, shards: PhaseShards, ranks: Ranks) -> DistillationValidation:
        objective = self._distilled
        assert isinstance(self.forward, GeneralForward)
        return DistillationValidation(
            shards,
            ranks,
            self._device,
            batch_size=objective.phase.micro_batch,
            precision=objective.spec.precision,
            forward=self.forward,
            terms=objective.terms,
        )
