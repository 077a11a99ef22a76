"""What the pairs of a phase use of the text, and whether next sentences can be learned from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.limit import OverLimitError
from bertjobs.data.prepare.one_sentence import SHORTEST_HALVED, unpaired_documents
from bertjobs.data.prepare.pairs import Pairs, TokenizedCorpus

Int64s = NDArray[np.int64]

MANY_UNPAIRED = 0.5
"""Share of the pairs above which prepare says that they have no true next sentence."""


@dataclass(frozen=True)
class PairCounts:
    """Counts over the pairs of a phase's split; add two to have those of both.

    Attributes:
        pairs: how many there are.
        random_next: those whose B is a random segment.
        unpaired: those of ``random_next`` that cannot be otherwise: their document is one sentence, too short to halve.
        tokens: of the documents that are drawn.
        tokens_used: those of them that are in at least one pair.
    """

    pairs: int = 0
    random_next: int = 0
    unpaired: int = 0
    tokens: int = 0
    tokens_used: int = 0

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )

    @property
    def used_share(self) -> float:
        """Tokens used of those read."""
        return self.tokens_used / max(1, self.tokens)

    @property
    def unpaired_share(self) -> float:
        """Pairs that cannot have a true next sentence."""
        return self.unpaired / max(1, self.pairs)

    def to_json(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)

    @classmethod
    def sum(cls, counted: Iterable[Mapping[str, Any]]) -> PairCounts:
        """The sum of counts in the form of ``to_json``."""
        return sum((cls(**counts) for counts in counted), cls())


class NewTokens(NamedTuple):
    """Segments in ascending order of their starts, and how many tokens each has that none before it has: all
    ``[segments]``. A segment is of one document."""

    starts: Int64s
    counts: Int64s

    @classmethod
    def of(cls, starts: Int64s, lengths: Int64s) -> NewTokens:
        """Those of segments in any order."""
        ends = starts + lengths
        # Sorted by start as one number each, which is faster than to sort places.
        keys = np.sort(starts.astype(np.uint64) << np.uint64(32) | ends.astype(np.uint64))
        starts, ends = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
        ends = np.maximum.accumulate(ends)
        before = np.concatenate([starts[:1], ends[:-1]])  # up to here the segments before have used the tokens
        return cls(starts, np.maximum(ends - np.maximum(starts, before), 0))

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> NewTokens:
        """Those of A and B of all pairs."""
        return cls.of(
            np.concatenate([pairs.a_starts, pairs.b_starts]), np.concatenate([pairs.a_lengths, pairs.b_lengths])
        )


def count_tokens(corpus: TokenizedCorpus, copies: Int64s, new: NewTokens) -> PairCounts:
    """The tokens of the documents that are drawn, ``copies`` ``[documents]`` times, and those of them in a segment."""
    drawn, counts = copies > 0, new.counts
    if not drawn.all():
        first_tokens = corpus.sentence_offsets[corpus.document_offsets]
        counts = counts[drawn[np.searchsorted(first_tokens, new.starts, side="right") - 1]]
    return PairCounts(tokens=int(corpus.document_tokens[drawn].sum()), tokens_used=int(counts.sum()))


def count_pairs(corpus: TokenizedCorpus, pairs: Pairs, copies: Int64s, new: NewTokens) -> PairCounts:
    """The counts of pairs that were drawn from each document as often as ``copies`` says, ``[documents]``; ``new`` is
    that of the pairs."""
    return replace(
        count_tokens(corpus, copies, new),
        pairs=len(pairs),
        random_next=int(pairs.is_random_next.sum()),
        unpaired=int(copies[unpaired_documents(corpus)].sum()),
    )


def refuse_poor_pairs(phase: int, counts: PairCounts, most_unpaired: float, least_used: float) -> None:
    """OverLimitError if more of a phase's training pairs than ``most_unpaired`` cannot have a true next sentence, or
    fewer of its tokens than ``least_used`` are used."""
    if counts.unpaired_share > most_unpaired:
        raise OverLimitError(
            f"{counts.unpaired_share:.0%} of phase {phase}'s pairs cannot have a true next sentence: their documents "
            f"are one sentence of fewer than {SHORTEST_HALVED} tokens",
            where="--corpus",
            hint="make documents of more than one sentence, prepare for masked tokens only with --no-next-sentence, or "
            "accept this with --most-unpaired 1",
        )
    if counts.tokens and counts.used_share < least_used:
        raise OverLimitError(
            f"only {counts.used_share:.1%} of the corpus's tokens would be in phase {phase}'s sequences",
            where="--corpus",
            hint="try another way to split sentences (--sentences), more --duplicates, or accept this with "
            "--least-used 0",
        )


def remark_on(phase: int, counts: PairCounts) -> str:
    """What a person should know about a phase's training pairs; "" if nothing."""
    if counts.unpaired_share <= MANY_UNPAIRED:
        return ""
    return (
        f"{counts.unpaired_share:.0%} of phase {phase}'s pairs cannot have a true next sentence: their documents are "
        f"one sentence of fewer than {SHORTEST_HALVED} tokens; --no-next-sentence prepares for masked tokens only"
    )
