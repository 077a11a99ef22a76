"""Pairs from documents of one sentence, and what is counted about pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.limit import OverLimitError
from bertjobs.data.prepare.one_sentence import (
    SHORTEST_HALVED,
    halved_documents,
    halved_pairs,
    unpaired_documents,
)
from bertjobs.data.prepare.pair_counts import NewTokens, PairCounts, count_pairs, refuse_poor_pairs, remark_on
from bertjobs.data.prepare.pairs import Pairs, TokenizedCorpus
from bertjobs.data.ragged import offsets_of

CONTINUES = np.array([False, True])


def _lines(lengths: list[int] | np.ndarray, share_of_pieces: float = 0.0) -> TokenizedCorpus:
    """Documents of one sentence each, of these lengths."""
    lengths = np.array(lengths, dtype=np.int64)
    ids = np.random.default_rng(1).random(lengths.sum()) < share_of_pieces
    return TokenizedCorpus(ids.astype(np.int32), offsets_of(lengths), np.arange(len(lengths) + 1))


def _many(count: int = 4000, low: int = 8, high: int = 60) -> TokenizedCorpus:
    return _lines(np.random.default_rng(0).integers(low, high, size=count), 0.3)


def _halved(corpus: TokenizedCorpus, copies: int = 1, length: int = 128, seed: str = "seed") -> Pairs:
    documents = len(corpus.document_offsets) - 1
    return halved_pairs(corpus, length, np.full(documents, copies), seed, CONTINUES)


def _covered(corpus: TokenizedCorpus, pairs: Pairs) -> np.ndarray:
    covered = np.zeros(len(corpus.ids), dtype=int)
    for starts, lengths in ((pairs.a_starts, pairs.a_lengths), (pairs.b_starts, pairs.b_lengths)):
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            covered[start : start + length] += 1
    return covered


def test_which_documents_are_halved() -> None:
    lengths = np.array([7, 8, 3, 4, 300])
    corpus = TokenizedCorpus(np.zeros(lengths.sum(), dtype=np.int32), offsets_of(lengths), np.array([0, 1, 2, 4, 5]))
    assert halved_documents(corpus).tolist() == [False, True, False, True]
    assert unpaired_documents(corpus).tolist() == [True, False, False, False]


def test_half_of_the_pairs_are_true_and_every_token_is_used_once() -> None:
    corpus = _many()
    pairs = _halved(corpus)
    assert len(pairs) == 4000
    assert abs(pairs.is_random_next.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)
    assert (_covered(corpus, pairs) == 1).all()


def test_true_halves_follow_each_other_and_random_ones_are_anothers() -> None:
    corpus = _many()
    pairs = _halved(corpus)
    of_a, of_b = (
        np.searchsorted(corpus.sentence_offsets, s, side="right") - 1 for s in (pairs.a_starts, pairs.b_starts)
    )
    assert ((of_a != of_b) == pairs.is_random_next).all()
    assert (pairs.a_starts == corpus.sentence_offsets[of_a]).all()
    assert (pairs.b_starts + pairs.b_lengths == corpus.sentence_offsets[of_b + 1]).all()
    follows = ~pairs.is_random_next
    assert (pairs.a_starts + pairs.a_lengths == pairs.b_starts)[follows].all()


def test_lengths_do_not_tell_the_labels_apart() -> None:
    pairs = _halved(_many(), copies=5)
    for lengths in (pairs.a_lengths, pairs.b_lengths, pairs.num_tokens):
        random, true = lengths[pairs.is_random_next], lengths[~pairs.is_random_next]
        deviation = np.sqrt(random.var() / len(random) + true.var() / len(true))
        assert abs(random.mean() - true.mean()) < 5 * deviation


def test_halves_begin_with_words_and_lie_in_the_middle() -> None:
    corpus = _many(low=40)
    pairs = _halved(corpus, copies=3)
    assert not CONTINUES[corpus.ids[pairs.b_starts]].any()
    true = ~pairs.is_random_next
    shares = pairs.a_lengths[true] / (pairs.a_lengths + pairs.b_lengths)[true]
    assert abs(shares.mean() - 0.5) < 0.03
    assert shares.max() <= 0.75
    assert len(set(np.round(shares, 2).tolist())) > 20


def test_a_sentence_that_is_one_word_is_halved_too() -> None:
    corpus = _lines([20] * 50, 1.0)
    assert (_covered(corpus, _halved(corpus)) == 1).all()


def test_long_halves_are_cut_to_the_sequence() -> None:
    pairs = _halved(_lines([125] * 500), length=128)
    assert pairs.num_tokens.max() == 128
    assert pairs.num_tokens.mean() > 110


def test_copies_differ_and_the_seed_alone_decides() -> None:
    corpus = _many(50)
    one, two, again, other = (
        _halved(corpus, 1), _halved(corpus, 2), _halved(corpus, 2), _halved(corpus, 2, seed="other")
    )  # fmt: skip
    assert (two.b_starts[:50] == one.b_starts).all()
    assert (two.b_starts[50:] != one.b_starts).any()
    assert (two.b_starts == again.b_starts).all()
    assert (two.b_starts != other.b_starts).any()


@pytest.mark.parametrize("documents", [0, 1])
def test_one_document_alone_has_a_true_next(documents: int) -> None:
    pairs = _halved(_lines([30] * documents), copies=10)
    assert len(pairs) == 10 * documents
    assert not pairs.is_random_next.any()


@given(
    segments=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30)), min_size=1, max_size=20),
    drawn=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_used_tokens_are_counted_as_one_by_one(segments: list[tuple[int, int]], drawn: list[int]) -> None:
    """Four documents of 30 tokens; each segment is cut at its document's end."""
    corpus = TokenizedCorpus(np.zeros(120, dtype=np.int32), offsets_of(np.full(12, 10)), np.arange(0, 13, 3))
    starts = np.array([start for start, _ in segments])
    lengths = np.minimum([length for _, length in segments], 30 - starts % 30)
    pairs = Pairs(starts, lengths, starts[::-1], lengths[::-1], np.zeros(len(starts), dtype=bool))
    copies = np.array(drawn)
    counts = count_pairs(corpus, pairs, copies, NewTokens.of_pairs(pairs))
    of_drawn = np.repeat(copies > 0, 30)
    assert counts.tokens == of_drawn.sum()
    assert counts.tokens_used == (of_drawn & (_covered(corpus, pairs) > 0)).sum()


def test_unpaired_pairs_are_counted_as_often_as_they_are_drawn() -> None:
    corpus = _lines([5, 30, 7])
    pairs = Pairs(*(np.zeros(9, dtype=np.int64) for _ in range(4)), np.ones(9, dtype=bool))  # type: ignore[arg-type]
    counts = count_pairs(corpus, pairs, np.array([3, 5, 1]), NewTokens.of_pairs(pairs))
    assert (counts.pairs, counts.random_next, counts.unpaired) == (9, 9, 4)


def test_counts_add_up_and_keep_their_names() -> None:
    one, two = PairCounts(10, 6, 2, 100, 90), PairCounts(30, 14, 0, 300, 300)
    total = PairCounts.sum([one.to_json(), two.to_json()])
    assert total == one + two == PairCounts(40, 20, 2, 400, 390)
    assert (total.used_share, total.unpaired_share) == (0.975, 0.05)
    assert PairCounts().used_share == PairCounts().unpaired_share == 0


def test_pairs_without_a_true_next_are_told_and_above_the_limit_refused() -> None:
    few, many = PairCounts(100, 70, 50, 1000, 1000), PairCounts(100, 95, 91, 1000, 1000)
    refuse_poor_pairs(1, few, 0.9, 0.5)
    assert remark_on(1, few) == ""
    assert "91% of phase 1's pairs" in remark_on(1, many)
    assert f"fewer than {SHORTEST_HALVED} tokens" in remark_on(1, many)
    with pytest.raises(OverLimitError, match="--no-next-sentence") as caught:
        refuse_poor_pairs(1, many, 0.9, 0.5)
    assert "91% of phase 1's pairs" in str(caught.value)
    refuse_poor_pairs(1, many, 1.0, 0.5)


def test_a_corpus_that_is_hardly_used_is_refused() -> None:
    counts = PairCounts(100, 50, 0, 1000, 320)
    with pytest.raises(OverLimitError, match=r"only 32.0% .* phase 2"):
        refuse_poor_pairs(2, counts, 0.9, 0.5)
    refuse_poor_pairs(2, counts, 0.9, 0.32)
    refuse_poor_pairs(2, PairCounts(), 0.9, 0.5)
