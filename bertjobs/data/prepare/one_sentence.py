"""Pairs from documents of one sentence: its two halves are A and what truly follows.

BERT's algorithm gives such a document a random B each time: a corpus of them would have no true next sentence. Here a
fair coin decides: B is the second half, or that of another such document. The documents whose coin says "random" pass
their second halves on in a ring: so every token is used, and segments of both labels begin and end alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.pairs import SPECIALS, CounterDraws, Pairs, TokenizedCorpus, cut_to, joined
from bertjobs.data.prepare.sentence_cuts import at_word_starts

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]

SHORTEST_HALVED = 8
"""Tokens: a sentence of fewer has no halves that mean something."""


def halved_documents(corpus: TokenizedCorpus) -> Bools:
    """Which documents are one sentence that is long enough to be halved: ``[documents]``."""
    return (np.diff(corpus.document_offsets) == 1) & (corpus.document_tokens >= SHORTEST_HALVED)


def unpaired_documents(corpus: TokenizedCorpus) -> Bools:
    """Which documents are one sentence that is too short to be halved: ``[documents]``. Their B is always random."""
    return (np.diff(corpus.document_offsets) == 1) & (corpus.document_tokens < SHORTEST_HALVED)


def halved_pairs(corpus: TokenizedCorpus, sequence_length: int, copies: Int64s, seed: str, continues: Bools) -> Pairs:
    """Draw a pair from each document ``copies`` times, each time with the cut at another place in the middle half.

    Args:
        copies: ``[documents]``; above 0 for ``halved_documents`` only.
        continues: which token ids continue a word, ``[vocabulary]``: a half begins with a word, if it can.

    Returns:
        Pairs cut to ``sequence_length``, copy by copy in the order of the documents.
    """
    return joined(
        _halve(corpus, corpus.document_offsets[:-1][copies > copy], sequence_length - SPECIALS,
               CounterDraws(f"{seed}\n{copy}\nhalves", 0.0), continues)
        for copy in range(int(copies.max(initial=0)))
    )  # fmt: skip


def _halve(corpus: TokenizedCorpus, sentences: Int64s, limit: int, draws: CounterDraws, continues: Bools) -> Pairs:
    """A pair from each of these sentences, which are documents."""
    starts, ends = corpus.sentence_offsets[sentences], corpus.sentence_offsets[sentences + 1]
    middles = starts + draws.middles(sentences, ends - starts)
    middles = at_word_starts(corpus.ids, continues, middles, starts)
    b_starts, b_lengths = middles.copy(), ends - middles
    random = draws.randoms(sentences, ends - starts)
    ring = np.flatnonzero(random)
    if len(ring) == 1:  # nobody to exchange with
        random[ring] = False
    ring = ring[np.argsort(draws.ranks(sentences[ring]), kind="stable")]
    others = np.roll(ring, 1)
    b_starts[ring], b_lengths[ring] = b_starts[others], b_lengths[others]
    return cut_to(limit, sentences, (starts, middles - starts), (b_starts, b_lengths), random, draws)
