"""A model that is loaded and can be asked, in words and by token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bertjobs.errors import InputError
from bertjobs.finetune.encoder import load_bert
from bertjobs.finetune.loading import is_fine_tuned, load_trained
from bertjobs.serve.asks import Ask, EmbeddingAsk, MaskAsk, TaskAsk
from bertjobs.serve.engine import Scorer
from bertjobs.serve.scorers import EVERY_TOKEN, EmbeddingScorer, HeadScorer, MaskScorer
from bertjobs.serve.token_rows import TokenRules
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.questions import Squad1
from bertjobs.tasks.ranking import RankingTask
from bertjobs.tasks.rows import Row
from bertjobs.train.precision import attention_for, check_precision, use_precision

SENTENCE_KINDS = {"cross_entropy": "classes", "squared_error": "number", "binary_cross_entropy": "several"}
"""What a model says of a whole text, by its head's loss."""

EMBEDDING, MASKS = "embedding", "masks"


@dataclass(frozen=True)
class Served:
    """A model of a folder, as it was when it was loaded.

    Attributes:
        version: counts the loads of this name, from 1.
        kind: what it says: "classes" (one of them), "number", "several" (classes), "tags", "answer", "ranking", or
            "embedding" of a model without a task.
        task: the name of the task, "" without one.
        labels: names of classes or tags; () where there are none.
        rules: for token ids.
        scorer: of the outputs that token ids get.
        asks: ways of asking in words: the usual one first, under its kind; `MASKS` for words under masks.
        notes: what answers are made with in place of what was not tuned.
    """

    name: str
    version: int
    folder: Path
    kind: str
    task: str
    labels: tuple[str, ...]
    rules: TokenRules
    scorer: Scorer
    asks: Mapping[str, Ask] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ask(self) -> Ask:
        """The usual way of asking."""
        return self.asks[self.kind]


def load_served(name: str, version: int, folder: Path, device: torch.device, precision: str = "fp32") -> Served:
    """Load a model and let it compute once.

    Raises:
        InputError: the folder has no model, or one that is damaged, or whose outputs are not numbers.
    """
    served = (_fine_tuned if is_fine_tuned(folder) else _pretrained)(name, version, folder, device, precision)
    (output,) = served.scorer([Row([0] * min(8, served.rules.longest), 4, (), range(2))])
    if not np.isfinite(output).all():
        raise InputError("the model's outputs are not numbers: its weights are damaged", where=str(folder))
    return served


def _fine_tuned(name: str, version: int, folder: Path, device: torch.device, precision: str) -> Served:
    trained = load_trained(folder, device, precision)
    trained = replace(trained, encoder=_forgetful(trained.encoder))
    scorer = HeadScorer(name, trained)
    if trained.head.kind == "sequence":
        kind = "ranking" if isinstance(trained.task, RankingTask) else SENTENCE_KINDS[trained.head.loss]
    else:
        kind = "answer" if isinstance(trained.task, Squad1) else "tags"
    spec = trained.forward.model.spec
    rules = TokenRules(spec.vocab_size, spec.max_position_embeddings, spec.type_vocab_size, trained.head)
    ask = TaskAsk.of(scorer, trained)
    labels, notes = trained.fitted.labels, tuple(trained.task.untuned(trained.fitted))
    return Served(name, version, folder, kind, trained.name, labels, rules, scorer, {kind: ask}, notes)


def _pretrained(name: str, version: int, folder: Path, device: torch.device, precision: str) -> Served:
    check_precision(precision, device)
    use_precision(precision)
    bert = load_bert(folder, device)
    spec = bert.spec
    encoder = _forgetful(TextEncoder.of_folder(folder, spec.max_position_embeddings))
    encoder.check_fits(spec.vocab_size, str(folder))
    attention = attention_for("auto", spec, precision, device)
    scorer = EmbeddingScorer(name, bert, attention, precision)
    asks: dict[str, Ask] = {EMBEDDING: EmbeddingAsk(scorer, encoder)}
    if not bert.lacks:
        asks[MASKS] = MaskAsk(MaskScorer(name, bert, attention, precision), encoder)
    rules = TokenRules(spec.vocab_size, spec.max_position_embeddings, spec.type_vocab_size, EVERY_TOKEN)
    return Served(name, version, folder, EMBEDDING, "", (), rules, scorer, asks)


def _forgetful(encoder: TextEncoder) -> TextEncoder:
    """The same without a memory of words, which grows with each new one of any text."""
    return TextEncoder(encoder.vocabulary, encoder.max_length, remembers=False)
