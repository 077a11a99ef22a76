"""Ways of asking a model in words: texts to rows, and outputs to what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertjobs.errors import InputError
from bertjobs.finetune.encoder import MASK
from bertjobs.finetune.loading import TrainedModel
from bertjobs.serve.engine import Outputs, Scorer
from bertjobs.serve.refusal import Refusal, refused
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.rows import Row
from bertjobs.tasks.task import Prediction, without_ids
from bertjobs.wording import counted

Texts = Mapping[str, str]


class Encoded(NamedTuple):
    """Texts as the model reads them.

    Attributes:
        examples: what an ask needs to know of them later.
        rows: of each text, at least one.
        cut: how many of them lost tokens.
    """

    examples: Sequence[Any]
    rows: list[list[Row]]
    cut: int


class Ask(Protocol):
    """One way of asking. Its methods are called in one thread.

    Attributes:
        keys: of its texts; those in ``optional`` may be missing.
    """

    @property
    def scorer(self) -> Scorer: ...
    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def optional(self) -> tuple[str, ...]: ...

    def encode(self, texts: Sequence[Texts]) -> Encoded:
        """The rows of some texts.

        Raises:
            Refusal: one cannot be asked.
        """

    def decode(self, encoded: Encoded, outputs: Sequence[Outputs]) -> list[Prediction]:
        """What the outputs of each text's rows mean."""


@dataclass(frozen=True)
class TaskAsk:
    """What a model was fine-tuned for."""

    scorer: Scorer
    trained: TrainedModel
    keys: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, scorer: Scorer, trained: TrainedModel) -> TaskAsk:
        """With the keys of the model's task."""
        return cls(scorer, trained, trained.task.text_keys, trained.task.optional_keys)

    def encode(self, texts: Sequence[Texts]) -> Encoded:
        encoder = self.trained.encoder
        before = encoder.truncated, encoder.shortened
        try:
            examples = self.trained.task.from_text(texts)
            rows = self.trained.task.rows(examples, encoder, self.trained.fitted)
        except InputError as error:
            raise refused(error) from error
        cut = max(encoder.truncated - before[0], encoder.shortened - before[1])
        return Encoded(examples, rows, min(cut, len(texts)))

    def decode(self, encoded: Encoded, outputs: Sequence[Outputs]) -> list[Prediction]:
        trained = self.trained
        predictions = trained.task.predict(encoded.examples, outputs, trained.encoder, trained.fitted)
        return [without_ids(one) for one in predictions]


@dataclass(frozen=True)
class EmbeddingAsk:
    """Vectors of texts: ``mean``, over all tokens, and ``cls``, that of [CLS]; with the number of ``tokens``."""

    scorer: Scorer
    encoder: TextEncoder
    keys: tuple[str, ...] = ("text",)
    optional: tuple[str, ...] = ()

    def encode(self, texts: Sequence[Texts]) -> Encoded:
        before = self.encoder.truncated
        sequences = [self.encoder.single(ids) for ids in self.encoder.ids([one["text"] for one in texts])]
        rows = [[Row(ids, len(ids))] for ids in sequences]
        return Encoded([len(ids) for ids in sequences], rows, self.encoder.truncated - before)

    def decode(self, encoded: Encoded, outputs: Sequence[Outputs]) -> list[Prediction]:
        return [
            {"mean": of_text[0][0], "cls": of_text[0][1], "tokens": tokens}
            for of_text, tokens in zip(outputs, encoded.examples, strict=True)
        ]


@dataclass(frozen=True)
class MaskAsk:
    """The likeliest words for each [MASK] of a text: ``masks``, each a list of ``token`` and ``probability``."""

    scorer: Scorer
    encoder: TextEncoder
    keys: tuple[str, ...] = ("text",)
    optional: tuple[str, ...] = ()

    def encode(self, texts: Sequence[Texts]) -> Encoded:
        mask, before = self.encoder.vocabulary.mask_id, self.encoder.truncated
        rows = []
        for number, pieces in enumerate(self.encoder.ids([one["text"] for one in texts])):
            ids = self.encoder.single(pieces)
            places = [place for place, one in enumerate(ids) if one == mask]
            beyond = pieces.count(mask) - len(places)
            if beyond or not places:
                what = f"{counted(beyond, 'mask')} beyond the {len(ids)} tokens that the model reads"
                raise Refusal(what if beyond else f"text {number + 1} has no {MASK}", hint=f"write {MASK} for a word")
            rows.append([Row(ids, len(ids), (), places)])
        return Encoded(texts, rows, self.encoder.truncated - before)

    def decode(self, encoded: Encoded, outputs: Sequence[Outputs]) -> list[Prediction]:  # noqa: ARG002
        tokens = self.encoder.vocabulary.tokens
        return [{"masks": [_guesses(of_mask, tokens) for of_mask in of_text[0]]} for of_text in outputs]


def _guesses(best: np.ndarray, tokens: Sequence[str]) -> list[dict[str, Any]]:
    """``best`` is ``[words, 2]``, ids and probabilities; ids that are no word's are left out."""
    return [
        {"token": tokens[int(number)], "probability": float(share)} for number, share in best if number < len(tokens)
    ]
