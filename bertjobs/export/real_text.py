"""Real text for a model: of the dev data that its run was fine-tuned with, else a few sentences of our own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from bertjobs.errors import InputError
from bertjobs.export.onnx_file import Batch
from bertjobs.export.padded import padded
from bertjobs.export.source import Source
from bertjobs.finetune.run_data import prepared_split
from bertjobs.tasks.prepared import Split

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


def dev_split(source: Source) -> tuple[Split | None, str]:
    """The labelled dev data of the model's run; else None, and why there are none."""
    if source.trained is None:
        return None, "the model has no task"
    try:
        _, split = prepared_split(source.folder, "dev")
    except InputError as error:
        return None, error.what
    return (split, "") if split.facts.labelled else (None, "the dev data have no labels")


def real_batches(source: Source, split: Split | None) -> list[Batch]:
    """Padded batches of real text, of two segments where the task has pairs."""
    rows, seconds = _rows(source, split)
    pad = source.encoder.vocabulary.pad_id
    return [
        padded(rows[first : first + BATCH], seconds[first : first + BATCH], pad) for first in range(0, len(rows), BATCH)
    ]


def _rows(source: Source, split: Split | None) -> tuple[list[list[int]], list[int]]:
    if split is not None and source.trained is not None:
        model = source.trained
        examples: Sequence[object] = list(islice(split.examples(), EXAMPLES))
        found = [row for rows in model.task.rows(examples, model.encoder, model.fitted) for row in rows]
        return [list(row.ids) for row in found], [row.second for row in found]
    ids = [source.encoder.single(pieces) for pieces in source.encoder.ids(SENTENCES)]
    source.encoder.truncated = 0
    return ids, [len(one) for one in ids]
