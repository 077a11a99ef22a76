"""Sentences of which a pair cannot hold all tokens, cut into parts, so that all of them can be used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.pairs import TokenizedCorpus
from bertjobs.data.ragged import offsets_of

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]

_PARTS = 8
"""Parts of such sentences in a pair, about: a chunk of them ends beyond its target by half a part, on average."""
_SHORTEST = 4
"""Tokens of a part, about, where sequences are very short."""


def cut_overlong(corpus: TokenizedCorpus, limit: int, continues: Bools) -> TokenizedCorpus:
    """The corpus with each overlong sentence cut into equal parts; itself if there is none.

    A part has about ``limit`` / 8 tokens and begins with a word, except inside a word that is as long as that.

    Args:
        limit: the most tokens of A and B together.
        continues: which token ids continue a word, ``[vocabulary]``.
    """
    starts, lengths = corpus.sentence_offsets[:-1], np.diff(corpus.sentence_offsets)
    overlong = np.flatnonzero(_overlong(corpus, lengths, limit))
    if not len(overlong):
        return corpus
    starts, lengths = starts[overlong], lengths[overlong]
    size = min(max(_SHORTEST, limit // _PARTS), (limit + 1) // 2)  # moved to words, a part may be twice as long less 1
    parts = -(-lengths // size)
    owners = np.repeat(np.arange(len(parts)), parts - 1)
    numbers = 1 + np.arange(len(owners)) - offsets_of(parts - 1)[owners]
    cuts = starts[owners] + lengths[owners] * numbers // parts[owners]
    cuts = at_word_starts(corpus.ids, continues, cuts, cuts - lengths[owners] // parts[owners])
    sentence_offsets = np.sort(np.concatenate([corpus.sentence_offsets, cuts]))
    document_offsets = np.searchsorted(sentence_offsets, corpus.sentence_offsets[corpus.document_offsets])
    return TokenizedCorpus(corpus.ids, sentence_offsets, document_offsets)


def _overlong(corpus: TokenizedCorpus, lengths: Int64s, limit: int) -> Bools:
    """Which sentences are cut: those beyond ``limit``; and where most tokens of a document are in sentences beyond half
    of it, these too: BERT's algorithm cuts each pair of them, and would lose a quarter of such a document and more.

    A document of one sentence has halves, see ``one_sentence``.
    """
    long = lengths > limit // 2
    if not long.any():
        return long
    counts = np.diff(corpus.document_offsets)
    tokens_in_long = np.add.reduceat(np.where(long, lengths, 0), corpus.document_offsets[:-1])
    mostly_long = (2 * tokens_in_long > corpus.document_tokens) & (counts > 1)
    return long & ((lengths > limit) | np.repeat(mostly_long, counts))


def at_word_starts(ids: NDArray[Any], continues: Bools, places: Int64s, floors: Int64s) -> Int64s:
    """Each place in ``ids`` moved back to where its word begins; it stays if that is not above its floor."""
    moved = places.copy()
    while len(inside := np.flatnonzero((moved > floors) & continues[ids[moved]])):
        moved[inside] -= 1
    return np.where(moved > floors, moved, places)
