"""Rows of shards as a person reads them: words with the masks in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import mask_text, prediction_counts, sample_keys
from bertjobs.data.shards.ids_shard import ShardRows
from bertjobs.data.text.vocabulary import Vocabulary

Int64s = NDArray[np.int64]

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'-\u2019\u2026")
_NO_SPACE_AFTER = frozenset("([{$'-\u2019")


@dataclass(frozen=True)
class Sample:
    """One row.

    Attributes:
        shard: its file's name; ``row`` counts from 0 in it.
        num_tokens: [CLS] and [SEP] included.
        masks: how many tokens are masked.
        is_random_next, b: None where there is no B.
        a, b: the text of A and B, a masked token as ``[original→what the model sees]``.
    """

    shard: str
    row: int
    num_tokens: int
    is_random_next: bool | None
    masks: int
    a: str
    b: str | None


@dataclass(frozen=True)
class DynamicDraw:
    """The masks that a run draws in an epoch, of rows of a shard whose first one is the split's ``first_row``-th."""

    seed: int
    epoch: int
    first_row: int
    ratio: float
    max_predictions: int


def choose_rows(rows: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """``count`` different rows of shards that have ``rows`` each, at random: their shards and their rows in these."""
    ends = np.cumsum(rows)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    shards = np.searchsorted(ends, chosen, side="right")
    return [(int(shard), int(row - ends[shard] + rows[shard])) for row, shard in zip(chosen, shards, strict=True)]


def read_sample(shard: ShardRows, row: int, name: str, vocabulary: Vocabulary, draw: DynamicDraw | None) -> Sample:
    """A row in words; ``draw`` says how it is masked where its shard has no masks; None masks nothing."""
    start, end = int(shard.offsets[row]), int(shard.offsets[row + 1])
    seen = shard.ids[start:end].astype(np.int64)
    original, masked = seen.copy(), np.zeros(len(seen), dtype=np.bool_)
    middle, num_tokens = int(shard.a_lengths[row]), int(shard.num_tokens[row])
    has_b = middle < len(seen)
    if shard.masks is not None:
        chosen = slice(int(shard.masks.offsets[row]), int(shard.masks.offsets[row + 1]))
        positions = shard.masks.positions[chosen].astype(np.int64)
        places = positions - 1 - (positions > middle)
        original[places], masked[places] = shard.masks.labels[chosen], True
    elif draw is not None:
        specials = num_tokens - len(seen)
        counts = prediction_counts(np.array([num_tokens]), draw.ratio, draw.max_predictions, specials)
        keys = sample_keys(draw.seed, draw.epoch, np.array([draw.first_row + row]))
        offsets = np.array([0, len(seen)])
        seen, masked = mask_text(original, offsets, np.array([middle]), counts, keys, vocabulary, whole_word=False)
    originals, words = _words(original, vocabulary), _words(seen, vocabulary)
    pieces = [
        f"[{before}→{after}]" if flag else before
        for before, after, flag in zip(originals, words, masked.tolist(), strict=True)
    ]
    return Sample(
        shard=name,
        row=row,
        num_tokens=num_tokens,
        is_random_next=bool(shard.is_random_next[row]) if has_b else None,
        masks=int(masked.sum()),
        a=join_pieces(originals[:middle], pieces[:middle]),
        b=join_pieces(originals[middle:], pieces[middle:]) if has_b else None,
    )


def _words(ids: Int64s, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.tokens[token] if token < vocabulary.size else f"<{token}>" for token in ids.tolist()]


def join_pieces(tokens: Sequence[str], shown: Sequence[str]) -> str:
    """Word pieces as text: "##" and punctuation without the space before them.

    Args:
        tokens: decide where spaces stand.
        shown: what stands for each token; its "##" is dropped where it is the token itself.
    """
    parts: list[str] = []
    for place, (token, text) in enumerate(zip(tokens, shown, strict=True)):
        continues = token.startswith("##") and len(token) > 2
        glued = continues or token in _NO_SPACE_BEFORE or tokens[place - 1] in _NO_SPACE_AFTER
        if place and not glued:
            parts.append(" ")
        parts.append(text[2:] if continues and text == token else text)
    return "".join(parts)
