"""Sequences of contiguous text, without next-sentence pairs (RoBERTa, arXiv 1907.11692, 4.2).

A document is cut wherever a sequence is full, also inside a sentence: no token is left out. Across documents (RoBERTa's
FULL-SENTENCES; otherwise its DOC-SENTENCES) the documents of a bucket follow each other in a random order with a [SEP]
between two of them, and all of that is cut. What stands at a sequence's edge needs no separator.

A sequence is made of pieces, each a slice of the tokenised corpus, so that no token is copied before the shards are
written. A separator is a piece too: of one token, the [SEP] that stands after the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.pair_counts import NewTokens
from bertjobs.data.prepare.pairs import CounterDraws, TokenizedCorpus
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS_ALONE

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Sequences, as pieces of the ids of a `TokenizedCorpus`.

    Attributes:
        offsets: ``[sequences + 1]``, into the pieces: where each sequence begins.
        starts, lengths: ``[pieces]``, into ``ids``; ``len(ids)`` is a separator.
    """

    offsets: Int64s
    starts: Int64s
    lengths: Int64s

    @property
    def num_tokens(self) -> Int64s:
        """Tokens of [CLS] text [SEP]: ``[sequences]``."""
        return np.diff(offsets_of(self.lengths)[self.offsets]) + SPECIALS_ALONE

    def new_tokens(self, corpus: TokenizedCorpus) -> NewTokens:
        """Which tokens of the corpus are in at least one sequence."""
        is_text = self.starts < len(corpus.ids)
        return NewTokens.of(self.starts[is_text], self.lengths[is_text])

    def take(self, sequences: Int64s) -> Spans:
        """These sequences, in their order."""
        firsts, counts = self.offsets[sequences], np.diff(self.offsets)[sequences]
        return Spans(offsets_of(counts), gather(self.starts, firsts, counts), gather(self.lengths, firsts, counts))


def sample_spans(
    corpus: TokenizedCorpus,
    sequence_length: int,
    short_sequence_share: float,
    copies: Int64s | int,
    seed: str,
    *,
    across_documents: bool,
) -> Spans:
    """Cut every document ``copies`` times into sequences.

    Without ``across_documents`` each begins and ends with its document, and the documents of a
    ``short_sequence_share`` are cut into sequences of a length that is drawn, uniform in 2 to the longest. The second
    and further copies of a document are cut elsewhere than the first: their first sequence has a length that is drawn.

    Args:
        copies: for all documents or ``[documents]``.
        seed: any string; equal seeds give equal sequences, whatever the platform and the versions.

    Returns:
        Sequences of at most ``sequence_length`` tokens with [CLS] and [SEP], copy by copy. Each token of a document is
        in them as often as it is copied.
    """
    limit = sequence_length - SPECIALS_ALONE
    starts, lengths = corpus.sentence_offsets[corpus.document_offsets[:-1]], corpus.document_tokens
    copies = np.broadcast_to(copies, len(lengths))
    parts = []
    for copy in range(int(copies.max(initial=0))):
        drawn = np.flatnonzero(copies > copy)
        draws = CounterDraws(f"{seed}\n{copy}", short_sequence_share)
        if across_documents:
            order = drawn[np.argsort(draws.ranks(drawn), kind="stable")]
            parts.append(_across(starts[order], lengths[order], limit, len(corpus.ids)))
        else:
            targets = draws.targets(drawn, limit)
            firsts = 1 + draws.starts(drawn, targets) if copy else targets  # a number from 1 to the target
            parts.append(_within(starts[drawn], lengths[drawn], targets, firsts))
    return _joined(parts)


def _within(starts: Int64s, lengths: Int64s, targets: Int64s, firsts: Int64s) -> Spans:
    """Each document by itself, cut first after ``firsts`` tokens and then after every ``targets``: all
    ``[documents]``."""
    counts = 1 + -(-np.maximum(lengths - firsts, 0) // targets)
    owners = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(owners)) - offsets_of(counts)[owners]
    begins = np.where(places, firsts[owners] + (places - 1) * targets[owners], 0)
    ends = np.minimum(firsts[owners] + places * targets[owners], lengths[owners])
    return Spans(np.arange(len(owners) + 1), starts[owners] + begins, ends - begins)


def _across(starts: Int64s, lengths: Int64s, limit: int, separator: int) -> Spans:
    """The documents one after the other, a separator between two, cut after every ``limit`` tokens; a separator at the
    edge of a sequence is left out."""
    runs = np.full(2 * len(starts) - 1, separator)  # a document, a separator, a document, ...
    runs[::2] = starts
    sizes = np.ones(len(runs), dtype=np.int64)
    sizes[::2] = lengths
    ends = offsets_of(sizes)
    begins = np.union1d(ends[:-1], np.arange(0, ends[-1], limit))
    lengths = np.diff(np.append(begins, ends[-1]))
    owners = np.searchsorted(ends, begins, side="right") - 1
    sequences = begins // limit
    at_edge = (begins % limit == 0) | ((begins + lengths) % limit == 0)
    kept = (owners % 2 == 0) | ~at_edge
    counts = np.bincount(sequences[kept], minlength=int(sequences[-1]) + 1)
    return Spans(offsets_of(counts), (runs[owners] + begins - ends[owners])[kept], lengths[kept])


def _joined(parts: list[Spans]) -> Spans:
    nothing = np.zeros(0, dtype=np.int64)
    counts, starts, lengths = ([nothing] for _ in range(3))
    for part in parts:
        counts.append(np.diff(part.offsets))
        starts.append(part.starts)
        lengths.append(part.lengths)
    return Spans(offsets_of(np.concatenate(counts)), np.concatenate(starts), np.concatenate(lengths))
