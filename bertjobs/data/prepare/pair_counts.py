"""What the pairs of a phase use of the text, and whether next sentences can be learned from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.one_sentence import SHORTEST_HALVED, unpaired_documents
from bertjobs.data.prepare.pairs import Pairs, TokenizedCorpus
from bertjobs.errors import InputError

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


def count_pairs(corpus: TokenizedCorpus, pairs: Pairs, copies: Int64s) -> PairCounts:
    """The counts of pairs that were drawn from each document as often as ``copies`` says: ``[documents]``."""
    return PairCounts(
        pairs=len(pairs),
        random_next=int(pairs.is_random_next.sum()),
        unpaired=int(copies[unpaired_documents(corpus)].sum()),
        tokens=int(corpus.document_tokens[copies > 0].sum()),
        tokens_used=_tokens_used(corpus, pairs, copies > 0),
    )


def _tokens_used(corpus: TokenizedCorpus, pairs: Pairs, drawn: NDArray[np.bool_]) -> int:
    """Tokens of the documents that are drawn that are in at least one segment."""
    starts = np.concatenate([pairs.a_starts, pairs.b_starts])
    ends = starts + np.concatenate([pairs.a_lengths, pairs.b_lengths])
    if not drawn.all():
        first_tokens = corpus.sentence_offsets[corpus.document_offsets]
        own = drawn[np.searchsorted(first_tokens, starts, side="right") - 1]
        starts, ends = starts[own], ends[own]
    # Sorted by start as one number each, which is faster than to sort places.
    keys = np.sort(starts.astype(np.uint64) << np.uint64(32) | ends.astype(np.uint64))
    starts, ends = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    ends = np.maximum.accumulate(ends)
    before = np.concatenate([starts[:1], ends[:-1]])  # up to here the segments before have used the tokens
    return int(np.maximum(ends - np.maximum(starts, before), 0).sum())


def refuse_poor_pairs(phase: int, counts: PairCounts, most_unpaired: float, least_used: float) -> None:
    """InputError if more of a phase's training pairs than ``most_unpaired`` cannot have a true next sentence, or
    fewer of its tokens than ``least_used`` are used."""
    if counts.unpaired_share > most_unpaired:
        raise InputError(
            f"{counts.unpaired_share:.0%} of phase {phase}'s pairs cannot have a true next sentence: their documents "
            f"are one sentence of fewer than {SHORTEST_HALVED} tokens",
            where="--corpus",
            hint="make documents of more than one sentence, prepare for masked tokens only with --no-next-sentence, or "
            "accept this with --most-unpaired 1",
        )
    if counts.tokens and counts.used_share < least_used:
        raise InputError(
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
