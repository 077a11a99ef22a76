"""Sentence pairs for next-sentence prediction (BERT, arXiv 1810.04805, A.2), as NVIDIA's LDDL draws them.

Segments are slices of the tokenised corpus, so a pair is four numbers and a flag: no token is copied
before the shards are written.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPECIALS = 3  # [CLS] A [SEP] B [SEP]


@dataclass(frozen=True)
class TokenizedCorpus:
    """The sentences of a set of documents as ids.

    Attributes:
        ids: ``[tokens]``.
        sentence_offsets: ``[sentences + 1]``, into ``ids``; no sentence is empty.
        document_offsets: ``[documents + 1]``, into the sentences; no document is empty.
    """

    ids: NDArray[np.int32]
    sentence_offsets: NDArray[np.int64]
    document_offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Pairs A, B, each a slice of ``TokenizedCorpus.ids``, by its start and length: all ``[pairs]``."""

    a_starts: NDArray[np.int64]
    a_lengths: NDArray[np.int64]
    b_starts: NDArray[np.int64]
    b_lengths: NDArray[np.int64]
    is_random_next: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.a_starts)

    @property
    def num_tokens(self) -> NDArray[np.int64]:
        """Tokens of [CLS] A [SEP] B [SEP]: ``[pairs]``."""
        return self.a_lengths + self.b_lengths + SPECIALS


def sample_pairs(
    corpus: TokenizedCorpus, sequence_length: int, short_sequence_share: float, duplicates: int, seed: str
) -> Pairs:
    """Draw pairs from every document ``duplicates`` times.

    Sentences are collected up to a target length: ``sequence_length`` - 3, or, in a
    ``short_sequence_share`` of the documents, uniform in 2 to that. A is a random number of them from the
    front; B is the rest, or, half the time and whenever the chunk is one sentence, what follows a random
    sentence of another document. Then the unused sentences are put back. A corpus of one document takes
    its random B from itself.

    Args:
        seed: any string; equal seeds give equal pairs.

    Returns:
        Pairs cut to ``sequence_length``, in the order of the documents.
    """
    draw = random.Random(seed)
    limit = sequence_length - SPECIALS
    sentences, documents = corpus.sentence_offsets.tolist(), corpus.document_offsets.tolist()
    rows: list[tuple[int, int, int, int, bool]] = []
    for _ in range(duplicates):
        for document in range(len(documents) - 1):
            target = draw.randint(2, limit) if draw.random() < short_sequence_share else limit
            _pairs_of_document(document, sentences, documents, target, draw.random, rows)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    a_start, a_end, b_start, b_end, is_random = columns
    pairs = Pairs(a_start, a_end - a_start, b_start, b_end - b_start, is_random.astype(bool))
    return truncate(pairs, limit, np.random.Generator(np.random.Philox(draw.getrandbits(64))))


def _pairs_of_document(
    document: int,
    sentences: list[int],
    documents: list[int],
    target: int,
    draw: Callable[[], float],
    rows: list[tuple[int, int, int, int, bool]],
) -> None:
    """Append (A start, A end, B start, B end, is random) in tokens, uncut, for one pass over a document."""
    first, last = documents[document], documents[document + 1]
    while first < last:
        # The chunk is sentences[first:end]: the fewest that reach the target, or the rest of the document.
        end = bisect_left(sentences, sentences[first] + target, first + 1, last)
        middle = first + 1 + int(draw() * (end - first - 1))
        is_random = end - first == 1 or draw() < 0.5
        if is_random:
            b_first, b_end = _random_segment(
                document, sentences, documents, target - sentences[middle] + sentences[first], draw
            )
            following = middle
        else:
            b_first, b_end, following = middle, end, end
        rows.append((sentences[first], sentences[middle], sentences[b_first], sentences[b_end], is_random))
        first = following


def _random_segment(
    document: int, sentences: list[int], documents: list[int], length: int, draw: Callable[[], float]
) -> tuple[int, int]:
    """First and end sentence of at least ``length`` tokens (if there are) in another document."""
    others = len(documents) - 2
    other = int(draw() * others)
    if other >= document and others:
        other += 1
    first, last = documents[other], documents[other + 1]
    first += int(draw() * (last - first))
    return first, bisect_left(sentences, sentences[first] + length, first + 1, last)


def truncate(pairs: Pairs, limit: int, draws: np.random.Generator) -> Pairs:
    """Cut A and B to ``limit`` tokens together, as BERT does it token by token.

    BERT takes a token off the longer of the two (B when equal), at its front or its back by the toss of a
    coin, until they fit. So the final lengths are known, and the tokens lost at the front are binomial.
    """
    excess = pairs.a_lengths + pairs.b_lengths > limit
    a_fit = np.minimum(pairs.a_lengths, np.maximum(limit - pairs.b_lengths, (limit + 1) // 2))
    a_lengths = np.where(excess, a_fit, pairs.a_lengths)
    b_lengths = np.where(excess, limit - a_fit, pairs.b_lengths)
    a_front = draws.binomial(pairs.a_lengths - a_lengths, 0.5)
    b_front = draws.binomial(pairs.b_lengths - b_lengths, 0.5)
    return Pairs(pairs.a_starts + a_front, a_lengths, pairs.b_starts + b_front, b_lengths, pairs.is_random_next)
