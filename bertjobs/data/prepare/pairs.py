"""Sentence pairs for next-sentence prediction (BERT, arXiv 1810.04805, A.2), as NVIDIA's LDDL makes them.

Segments are slices of the tokenised corpus, so a pair is four numbers and a flag: no token is copied
before the shards are written. The rules are here; every random decision comes through ``Draws``.

A document is cut into chunks one after the other, and where a chunk begins depends on the draws of the one
before. ``CounterDraws`` hashes a chunk's first sentence: so the chunks at all sentences are made at once, and
then only those that follow each other are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.ragged import offsets_of

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

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
    sentence_offsets: Int64s
    document_offsets: Int64s

    @property
    def document_tokens(self) -> Int64s:
        """Tokens of each document: ``[documents]``."""
        return np.diff(self.sentence_offsets[self.document_offsets])


@dataclass(frozen=True)
class Pairs:
    """Pairs A, B, each a slice of ``TokenizedCorpus.ids``, by its start and length: all ``[pairs]``."""

    a_starts: Int64s
    a_lengths: Int64s
    b_starts: Int64s
    b_lengths: Int64s
    is_random_next: Bools

    def __len__(self) -> int:
        return len(self.a_starts)

    @property
    def num_tokens(self) -> Int64s:
        """Tokens of [CLS] A [SEP] B [SEP]: ``[pairs]``."""
        return self.a_lengths + self.b_lengths + SPECIALS


@dataclass(frozen=True)
class Chunks:
    """Runs of sentences that pairs are made from: all ``[chunks]``.

    Attributes:
        documents: the document that a chunk is of.
        targets: tokens that A and B aim at together.
        firsts, middles, ends: A is the sentences from ``firsts`` up to ``middles``; the rest, up to ``ends``,
            is B, or is put back where B is random.
        random: B comes from another place.
    """

    documents: Int64s
    targets: Int64s
    firsts: Int64s
    middles: Int64s
    ends: Int64s
    random: Bools

    @property
    def following(self) -> Int64s:
        """The sentence that the next chunk begins with, or the end of the document."""
        return np.where(self.random, self.middles, self.ends)

    def take(self, places: Int64s) -> Chunks:
        """The chunks at these places."""
        return Chunks(**{field.name: getattr(self, field.name)[places] for field in fields(self)})


class Draws(Protocol):
    """Every random decision of the pair builder.

    ``firsts`` is a chunk's first sentence: it tells the chunks apart. All arrays are ``[chunks]``.
    """

    def targets(self, documents: Int64s, limit: int) -> Int64s:
        """Tokens that A and B of these documents aim at: ``limit``, or now and then 2 to ``limit``."""

    def splits(self, firsts: Int64s, sizes: Int64s) -> Int64s:
        """Sentences that A gets of a chunk of ``sizes``: 1 to ``sizes`` - 1, or 1 if there is only one."""

    def randoms(self, firsts: Int64s, sizes: Int64s) -> Bools:
        """Whether B is a random segment; ignored for chunks of one sentence, whose B always is."""

    def others(self, firsts: Int64s, documents: Int64s, count: int) -> tuple[Int64s, Bools]:
        """Which of ``count`` documents B is from where it is random, and whether it is labelled as random."""

    def starts(self, firsts: Int64s, sizes: Int64s) -> Int64s:
        """The sentence, 0 to ``sizes`` - 1, that a random B starts with."""

    def fronts(self, firsts: Int64s, a_lengths: Int64s, b_lengths: Int64s, limit: int) -> tuple[Int64s, Int64s]:
        """Tokens that A and B lose at their front when they are cut to ``limit``; the rest is lost at the back."""


class CounterDraws:
    """Draws that are hashes of (seed, first sentence, decision): whatever the order, the same on every platform."""

    _TARGET, _SPLIT, _OTHER, _START, _CUT_A, _CUT_B, _MIDDLE, _RANK = (
        np.uint64(number << 48) for number in range(1, 9)
    )

    def __init__(self, seed: str, short_sequence_share: float) -> None:
        key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
        self._key, self._short = np.uint64(key), short_sequence_share

    def targets(self, documents: Int64s, limit: int) -> Int64s:
        """See ``Draws``; the share of short targets is ``short_sequence_share``."""
        draws = self._hash(documents, self._TARGET)
        short = (draws >> np.uint64(11)) * 2.0**-53 < self._short
        return np.where(short, 2 + _below(splitmix64(draws), limit - 1), limit)

    def splits(self, firsts: Int64s, sizes: Int64s) -> Int64s:
        """See ``Draws``."""
        return 1 + _below(self._hash(firsts, self._SPLIT), sizes - 1)

    def randoms(self, firsts: Int64s, sizes: Int64s) -> Bools:  # noqa: ARG002
        """See ``Draws``; a bit that ``splits`` does not look at."""
        return (self._hash(firsts, self._SPLIT) & np.uint64(1)).astype(bool)

    def others(self, firsts: Int64s, documents: Int64s, count: int) -> tuple[Int64s, Bools]:
        """See ``Draws``: all other documents are equally likely; a single one is its own "other", labelled random."""
        others = _below(self._hash(firsts, self._OTHER), count - 1)
        if count > 1:
            others += others >= documents
        return others, np.ones(len(firsts), dtype=bool)

    def starts(self, firsts: Int64s, sizes: Int64s) -> Int64s:
        """See ``Draws``."""
        return _below(self._hash(firsts, self._START), sizes)

    def fronts(self, firsts: Int64s, a_lengths: Int64s, b_lengths: Int64s, limit: int) -> tuple[Int64s, Int64s]:
        """See ``Draws``: a token is lost at the front or the back with equal chance."""
        a_fit, b_fit = fit(a_lengths, b_lengths, limit)
        a_lost, b_lost = a_lengths - a_fit, b_lengths - b_fit
        return self._heads(firsts, a_lost, self._CUT_A), self._heads(firsts, b_lost, self._CUT_B)

    def middles(self, firsts: Int64s, lengths: Int64s) -> Int64s:
        """Tokens of a sentence of ``lengths``, 4 or more, before its cut: uniform in its middle half."""
        return lengths // 4 + _below(self._hash(firsts, self._MIDDLE), lengths // 2)

    def ranks(self, firsts: Int64s) -> UInt64s:
        """Numbers to put chunks into a random order by."""
        return self._hash(firsts, self._RANK)

    def _heads(self, firsts: Int64s, tosses: Int64s, stream: np.uint64) -> Int64s:
        """Binomial(tosses, 1/2): heads among ``tosses`` fair bits."""
        words = (tosses + 63) >> 6
        offsets = offsets_of(words)
        owners = np.repeat(np.arange(len(tosses)), words)
        numbers = np.arange(offsets[-1]) - offsets[owners]
        bits = splitmix64(self._hash(firsts, stream)[owners] ^ numbers.astype(np.uint64))
        unused = np.maximum(64 * (numbers + 1) - tosses[owners], 0)
        heads = offsets_of(np.bitwise_count(bits >> unused.astype(np.uint64)))
        return heads[offsets[1:]] - heads[offsets[:-1]]

    def _hash(self, numbers: Int64s, stream: np.uint64) -> UInt64s:
        return splitmix64(self._key ^ (numbers.astype(np.uint64) | stream))


def _below(draws: UInt64s, limits: Int64s | int) -> Int64s:
    """Uniform in 0 to ``limits`` - 1, from the upper half of the bits; 0 where the limit is 0."""
    return ((draws >> np.uint64(32)) * np.asarray(limits).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def sample_pairs(
    corpus: TokenizedCorpus,
    sequence_length: int,
    short_sequence_share: float,
    copies: Int64s | int,
    seed: str,
) -> Pairs:
    """Draw pairs from every document ``copies`` times.

    Sentences are collected up to a target length: ``sequence_length`` - 3, or, in a
    ``short_sequence_share`` of the documents, uniform in 2 to that. A is a random number of them from the
    front; B is the rest, or, half the time and whenever the chunk is one sentence, what follows a random
    sentence of another document. Then the unused sentences are put back. A corpus of one document takes
    its random B from itself.

    Args:
        copies: for all documents or ``[documents]``; a document drawn 0 times still lends random segments.
        seed: any string; equal seeds give equal pairs, whatever the platform and the versions.

    Returns:
        Pairs cut to ``sequence_length``, copy by copy in the order of the documents. Other memory does
        not grow with ``copies``.
    """
    limit = sequence_length - SPECIALS
    counts = np.diff(corpus.document_offsets)
    copies = np.broadcast_to(copies, counts.shape)
    parts = []
    for copy in range(int(copies.max(initial=0))):
        draws = CounterDraws(f"{seed}\n{copy}", short_sequence_share)
        drawn = np.flatnonzero(copies > copy)
        offsets = offsets_of(counts[drawn])
        firsts = np.repeat(corpus.document_offsets[drawn] - offsets[:-1], counts[drawn]) + np.arange(offsets[-1])
        targets = np.repeat(draws.targets(drawn, limit), counts[drawn])
        chunks = chunks_at(corpus, np.repeat(drawn, counts[drawn]), targets, firsts, draws)
        # The sentences of the drawn documents stand one after the other: a document's end is the next one's start.
        following = chunks.following - firsts + np.arange(len(firsts))
        places = np.array(walk(following.tolist()), dtype=np.int64)
        parts.append(pairs_of(corpus, chunks.take(places), limit, draws))
    return joined(parts)


def joined(parts: Iterable[Pairs]) -> Pairs:
    """The pairs of all parts."""
    nothing = np.zeros(0, dtype=np.int64)
    parts = [Pairs(nothing, nothing, nothing, nothing, nothing.astype(bool)), *parts]
    return Pairs(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Pairs)}
    )


def walk(following: Sequence[int]) -> list[int]:
    """The places from 0 on that follow each other, up to the end."""
    place, end = 0, len(following)
    places = []
    while place < end:
        places.append(place)
        place = following[place]
    return places


def chunks_at(corpus: TokenizedCorpus, documents: Int64s, targets: Int64s, firsts: Int64s, draws: Draws) -> Chunks:
    """The chunks that begin with these sentences: the fewest that reach the target, or the document's rest."""
    sentences = corpus.sentence_offsets
    # A sentence is a token at least: after as many as the target the target is reached.
    ends = np.searchsorted(sentences, sentences[firsts] + targets)
    ends = np.minimum(ends, corpus.document_offsets[documents + 1])
    sizes = ends - firsts
    middles = firsts + draws.splits(firsts, sizes)
    random = draws.randoms(firsts, sizes) | (sizes == 1)
    return Chunks(documents, targets, firsts, middles, ends, random)


def pairs_of(corpus: TokenizedCorpus, chunks: Chunks, limit: int, draws: Draws) -> Pairs:
    """The pairs of these chunks, cut to ``limit`` tokens."""
    sentences, documents = corpus.sentence_offsets, corpus.document_offsets
    b_firsts, b_ends, is_random_next = chunks.middles.copy(), chunks.ends.copy(), chunks.random.copy()
    places = np.flatnonzero(chunks.random)
    if len(places):
        firsts = chunks.firsts[places]
        others, is_random_next[places] = draws.others(firsts, chunks.documents[places], len(documents) - 1)
        starts = documents[others] + draws.starts(firsts, documents[others + 1] - documents[others])
        wanted = chunks.targets[places] - (sentences[chunks.middles[places]] - sentences[firsts])
        ends = np.searchsorted(sentences, sentences[starts] + np.maximum(wanted, 1))
        b_firsts[places], b_ends[places] = starts, np.minimum(ends, documents[others + 1])
    a_starts, b_starts = sentences[chunks.firsts], sentences[b_firsts]
    a_lengths, b_lengths = sentences[chunks.middles] - a_starts, sentences[b_ends] - b_starts
    return cut_to(limit, chunks.firsts, (a_starts, a_lengths), (b_starts, b_lengths), is_random_next, draws)


def cut_to(
    limit: int,
    firsts: Int64s,
    a: tuple[Int64s, Int64s],
    b: tuple[Int64s, Int64s],
    is_random_next: Bools,
    draws: Draws,
) -> Pairs:
    """The pairs of segments A and B, each as (starts, lengths), cut to ``limit`` tokens."""
    (a_starts, a_lengths), (b_starts, b_lengths) = a, b
    a_fronts, b_fronts = draws.fronts(firsts, a_lengths, b_lengths, limit)
    a_fit, b_fit = fit(a_lengths, b_lengths, limit)
    return Pairs(a_starts + a_fronts, a_fit, b_starts + b_fronts, b_fit, is_random_next)


def fit(a_lengths: Int64s, b_lengths: Int64s, limit: int) -> tuple[Int64s, Int64s]:
    """Lengths after BERT's truncation: a token at a time off the longer of the two, B when equal."""
    excess = a_lengths + b_lengths > limit
    a_fit = np.minimum(a_lengths, np.maximum(limit - b_lengths, (limit + 1) // 2))
    return np.where(excess, a_fit, a_lengths), np.where(excess, limit - a_fit, b_lengths)
