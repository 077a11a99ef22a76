"""Real text for a model: of the dev data that its run was fine-tuned with, else a few sentences of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from bertjobs.errors import InputError
from bertjobs.export.onnx_file import Batch
from bertjobs.export.padded import as_batch
from bertjobs.export.source import ExportedModel
from bertjobs.finetune.run_data import prepared_split
from bertjobs.tasks.prepared import TaskSplit
from bertjobs.tasks.rows import Row

SENTENCES = (
    "The patient was admitted on Monday with a fever of 39.2 degrees, and discharged on Friday.",
    "My name is Harry and I grew up in Canada. I love apples.",
    "Why?",
    "The committee, which had met twice since March, could not agree on the wording of its report; its chairman, "
    "who had hoped for a unanimous vote, adjourned the session until the following week.",
    "Der Zug nach München fährt um 8:15 Uhr ab.",
    "It's the worst film I've seen this year: slow, loud and three hours long.",
)
"""Of several lengths; some with characters that vocabularies cut into pieces."""

EXAMPLES = 64
"""Dev examples that are looked at, where nothing is measured on all of them."""
BATCH = 16


@dataclass(frozen=True)
class RealText:
    """What is known of the texts that a model is for.

    Attributes:
        split: the labelled dev data of the model's run; None if there are none.
        why_not: why there are none.
    """

    source: ExportedModel
    split: TaskSplit | None
    why_not: str

    @classmethod
    def of(cls, source: ExportedModel) -> RealText:
        """The real text for a model."""
        if source.trained is None:
            return cls(source, None, "the model has no task")
        try:
            _, split = prepared_split(source.folder, "dev")
        except InputError as error:
            return cls(source, None, error.what)
        return cls(source, split, "") if split.facts.labelled else cls(source, None, "the dev data have no labels")

    @property
    def has_pairs(self) -> bool:
        """Whether the task's texts come in pairs, as far as its dev data show it."""
        if self.source.trained is None or self.source.module.kind != "sequence":
            return False
        if self.source.trained.name == "ranking":
            return True
        first = next(self.split.examples(), None) if self.split else None
        return getattr(first, "second", None) is not None

    @cached_property
    def batches(self) -> list[Batch]:
        """Padded batches of real text, of two segments where the task has pairs."""
        rows, pad = self._rows(), self.source.encoder.vocabulary.pad_id
        return [as_batch(rows[first : first + BATCH], pad) for first in range(0, len(rows), BATCH)]

    def _rows(self) -> list[Row]:
        encoder, model = self.source.encoder, self.source.trained
        if self.split is not None and model is not None:
            examples: Sequence[object] = list(islice(self.split.examples(), EXAMPLES))
            return [row for rows in model.task.rows(examples, model.encoder, model.fitted) for row in rows]
        ids = [encoder.single(pieces) for pieces in encoder.ids(SENTENCES)]
        encoder.truncated = 0
        return [Row(one, len(one)) for one in ids]
