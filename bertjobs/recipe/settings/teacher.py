"""What a student learns from its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import Setting


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Distillation."""

    teacher: Annotated[
        str,
        Setting(
            "Hugging Face BERT folder that the run's model, the student, is distilled from",
            kind="path",
            env="TEACHER",
            example="/models/bert-base-uncased",
            default_words="none: no distillation",
        ),
    ] = ""
    teacher_sha256: Annotated[
        str,
        Setting(
            "digest of the teacher's files; a run whose teacher has another one is refused",
            kind="text",
            flag="",
            decisive=True,
            later=True,
            example="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            default_words="filled in when the run starts",
        ),
    ] = ""
    teacher_layers: Annotated[
        str,
        Setting(
            "teacher's layer that each of the student's layers learns from, counted from 1",
            kind="text",
            decisive=True,
            later=True,
            example="2,4,6",
            default_words="evenly spaced, up to the last",
        ),
    ] = ""
    distill_labels: Annotated[
        float,
        Setting(
            "weight of the loss that the run would have without a teacher: masked words, or the task's labels",
            decisive=True,
            later=True,
            example="0.5",
        ),
    ] = 0.0
    distill_logits: Annotated[
        float,
        Setting(
            "weight of the divergence between the student's probabilities and the teacher's: of masked words, where "
            "the teacher has a head for them, or of the task's classes",
            decisive=True,
            later=True,
            example="5",
        ),
    ] = 1.0
    distill_hidden: Annotated[
        float,
        Setting(
            "weight of the squared error of hidden states: of the embeddings, and of each layer and the teacher's that "
            "it learns from",
            decisive=True,
            later=True,
            example="1",
        ),
    ] = 0.0
    distill_relations: Annotated[
        float,
        Setting(
            "weight of the divergence between relations among queries, keys and values in attention (MiniLM)",
            decisive=True,
            later=True,
            example="1",
        ),
    ] = 0.0
    distill_temperature: Annotated[
        float,
        Setting(
            "what logits are divided by before their probabilities are compared",
            decisive=True,
            later=True,
            above=True,
            example="2",
        ),
    ] = 1.0
    relation_layer: Annotated[
        int,
        Setting(
            "teacher's layer whose relations the student's last layer learns; 0: the last",
            decisive=True,
            later=True,
            example="10",
        ),
    ] = 0
    relation_heads: Annotated[
        int,
        Setting(
            "parts that queries, keys and values are cut into for relations; it must divide both widths; 0: the most "
            "up to the teacher's heads",
            decisive=True,
            later=True,
            example="48",
        ),
    ] = 0

    @property
    def is_distilled(self) -> bool:
        """Whether the model learns from a teacher: it has one, or its settings make sense with one alone."""
        return bool(self.teacher) or any((self.distill_labels, self.distill_hidden, self.distill_relations))
