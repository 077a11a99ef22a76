"""A BERT without a task's head: the words that it expects under a mask, and its vectors of a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import ARCHITECTURES, load_pretrained
from bertjobs.recipe.bert_config import classes_of, read_bert_config, read_model_spec
from bertjobs.recipe.spec import ModelSpec
from bertjobs.tasks.encoding import TextEncoder

MASK = "[MASK]"
ENCODER_ALONE = ARCHITECTURES[False, False]


@dataclass(frozen=True)
class Guess:
    """A word for a mask, with its probability; a piece that continues a word begins with ``##``."""

    token: str
    probability: float


@dataclass(frozen=True)
class PretrainedBert:
    """A BERT for vectors of texts, and for words under masks if its folder has that head.

    Attributes:
        lacks: what the folder has not of a masked-LM head: its first missing parameter, or anything learnt; "" if it
            has all.
    """

    folder: Path
    model: BertForPreTraining
    lacks: str

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def device(self) -> torch.device:
        return self.model.bert.embeddings.word_embeddings.weight.device

    def check_words(self) -> None:
        """Make sure that it can say which words it expects.

        Raises:
            InputError: the folder has no masked-LM head.
        """
        if self.lacks:
            raise InputError(
                f"the model has no masked-LM head: it lacks {self.lacks}",
                where=str(self.folder),
                hint="give a pretraining checkpoint, or a folder of BertForMaskedLM or BertForPreTraining",
            )


@torch.no_grad()
def load_bert(folder: Path, device: torch.device) -> PretrainedBert:
    """Load a BERT without a task's head.

    Raises:
        InputError: the folder has no BERT, or a damaged one.
    """
    weights = load_pretrained(folder, read_model_spec(folder))
    model = BertForPreTraining(weights.spec, next_sentence=False)
    for name, parameter in model.named_parameters():
        if name in weights.state:
            parameter.copy_(weights.state[name])
    lacks = next((name for name in weights.missing if name.startswith("cls.predictions.")), "")
    if not lacks and classes_of(read_bert_config(folder)) == (ENCODER_ALONE,):
        lacks = "one that has learnt anything"  # as a student of `bertjobs distill` that learns no words
    return PretrainedBert(folder, model.to(device).eval(), lacks)


@torch.inference_mode()
def fill_masks(folder: Path, text: str, count: int, device: torch.device) -> list[list[Guess]]:
    """For each [MASK] in a text the likeliest ``count`` tokens, the likeliest first.

    Raises:
        InputError: the text has no mask, or one beyond what the model reads; the folder has no masked-LM head.
    """
    spec = read_model_spec(folder)
    encoder, (pieces, ids) = _encoded(folder, spec, text)
    mask = encoder.vocabulary.mask_id
    places = [place for place, number in enumerate(ids) if number == mask]
    if len(places) < pieces.count(mask):
        raise InputError(
            f"a mask lies beyond the {encoder.max_length} tokens that the model reads", where="--fill-mask"
        )
    if not places:
        raise InputError(f"the text has no {MASK}", where="--fill-mask",
                         hint='such as --fill-mask "The capital of France is [MASK]."')  # fmt: skip
    bert = load_bert(folder, device)
    bert.check_words()
    model = bert.model
    hidden, _ = model.encode(*_inputs(ids, device))
    probabilities = model.mlm_logits(hidden[0, places]).float().softmax(1)
    best = probabilities.topk(min(count, encoder.vocabulary.size), dim=1)
    tokens = encoder.vocabulary.tokens
    return [
        [Guess(tokens[number], probability) for probability, number in zip(*row, strict=True) if number < len(tokens)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


@torch.inference_mode()
def features(folder: Path, text: str, device: torch.device) -> dict[str, Any]:
    """The last layer's vectors of a text: that of [CLS], and the mean over all tokens.

    Raises:
        InputError: the folder has no BERT or no tokenizer.
    """
    encoder, (_, ids) = _encoded(folder, read_model_spec(folder), text)
    hidden, _ = load_bert(folder, device).model.bert(*_inputs(ids, device))
    return {
        "text": text,
        "tokens": len(ids),
        "truncated": bool(encoder.truncated),
        "cls": hidden[0, 0].tolist(),
        "mean": hidden[0].mean(0).tolist(),
    }


def _encoded(folder: Path, spec: ModelSpec, text: str) -> tuple[TextEncoder, tuple[list[int], list[int]]]:
    """The folder's encoder; a text's tokens, all of them, and as the model reads them."""
    encoder = TextEncoder.of_folder(folder, spec.max_position_embeddings)
    encoder.check_fits(spec.vocab_size, str(folder))
    (pieces,) = encoder.pieces([text])
    return encoder, (pieces.ids, encoder.single(pieces.ids))


def _inputs(ids: list[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.tensor([ids], device=device)
    return tokens, torch.zeros_like(tokens), torch.ones_like(tokens)
