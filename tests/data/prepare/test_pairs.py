"""Next-sentence pairs by BERT's algorithm."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.pairs import CounterDraws, Pairs, TokenizedCorpus, fit, sample_pairs
from bertjobs.data.ragged import offsets_of

PINNED_ROWS = 476
PINNED_SHA256 = "4bb0f8c3f7831267133cafc8a578b9ce6801313ded17e529fa2d4dc02c791b2f"

LONG = st.integers(1, 90)


def _corpus(documents: int = 40, seed: int = 0) -> TokenizedCorpus:
    """A corpus in which each token's id is its place."""
    draw = np.random.default_rng(seed)
    sentences = draw.integers(1, 60, size=documents)
    lengths = draw.integers(1, 40, size=int(sentences.sum()))
    ids = np.arange(lengths.sum(), dtype=np.int32)
    return TokenizedCorpus(ids, offsets_of(lengths), offsets_of(sentences))


def _regular_corpus() -> TokenizedCorpus:
    lengths = np.arange(300) * 7 % 23 + 1
    return TokenizedCorpus(np.arange(lengths.sum(), dtype=np.int32), offsets_of(lengths), np.arange(0, 301, 20))


def _document_of(corpus: TokenizedCorpus, tokens: np.ndarray) -> np.ndarray:
    bounds = corpus.sentence_offsets[corpus.document_offsets]
    return np.searchsorted(bounds, tokens, side="right") - 1


@given(a=LONG, b=LONG, limit=st.integers(2, 100))
def test_truncation_ends_where_berts_loop_ends(a: int, b: int, limit: int) -> None:
    expected_a, expected_b = a, b
    while expected_a + expected_b > limit:
        if expected_a > expected_b:
            expected_a -= 1
        else:
            expected_b -= 1
    a_fit, b_fit = fit(np.array([a]), np.array([b]), limit)
    assert (a_fit[0], b_fit[0]) == (expected_a, expected_b)


@given(a=st.integers(1, 700), b=st.integers(1, 700), limit=st.integers(2, 509), first=st.integers(0, 2**40))
def test_no_more_is_cut_at_the_front_than_in_all(a: int, b: int, limit: int, first: int) -> None:
    lengths = np.array([a]), np.array([b])
    fronts = CounterDraws("seed", 0.1).fronts(np.array([first]), *lengths, limit)
    for front, length, fitting in zip(fronts, lengths, fit(*lengths, limit), strict=True):
        assert 0 <= front[0] <= length[0] - fitting[0]


@pytest.mark.parametrize("lost", [1, 3, 63, 64, 65, 200])
def test_each_lost_token_is_a_fair_coin_toss(lost: int) -> None:
    """Mean and variance of a binomial, within 6 standard deviations: false alarms have p < 1e-8."""
    rows = 40_000
    fronts, _ = CounterDraws("seed", 0.1).fronts(
        np.arange(rows), np.full(rows, 100 + lost), np.ones(rows, dtype=int), 101
    )
    assert fronts.min() >= 0
    assert fronts.max() <= lost
    deviations = fronts - lost / 2
    assert abs(deviations.mean()) < 6 * np.sqrt(lost / 4 / rows)
    # The fourth central moment of a binomial is at most 3 variances squared.
    assert abs((deviations**2).mean() - lost / 4) < 6 * lost / 4 * np.sqrt(2 / rows)


@pytest.mark.parametrize("length", [32, 128, 512])
def test_pairs_are_what_they_claim(length: int) -> None:
    corpus = _corpus()
    pairs = sample_pairs(corpus, length, 0.1, 5, "seed")
    assert pairs.num_tokens.max() <= length
    assert min(pairs.a_lengths.min(), pairs.b_lengths.min()) >= 1
    a, b = _document_of(corpus, pairs.a_starts), _document_of(corpus, pairs.b_starts)
    for starts, lengths, documents in ((pairs.a_starts, pairs.a_lengths, a), (pairs.b_starts, pairs.b_lengths, b)):
        assert (_document_of(corpus, starts + lengths - 1) == documents).all()
    assert ((a != b) == pairs.is_random_next).all()
    # A true B really follows A: the gap between them is only what was cut at the end of a sentence.
    follows = ~pairs.is_random_next
    assert (pairs.b_starts >= pairs.a_starts + pairs.a_lengths)[follows].all()
    uncut = follows & (pairs.num_tokens < length)
    assert (pairs.b_starts == pairs.a_starts + pairs.a_lengths)[uncut].all()


def test_half_of_the_pairs_are_random_where_chunks_have_two_sentences() -> None:
    lengths = np.full(8000, 10)
    corpus = TokenizedCorpus(np.zeros(80_000, dtype=np.int32), offsets_of(lengths), offsets_of(np.full(40, 200)))
    pairs = sample_pairs(corpus, 128, 0.0, 5, "seed")
    assert abs(pairs.is_random_next.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(pairs))


def test_unused_sentences_are_put_back() -> None:
    """Every token is in an A, or in a true B: nothing is skipped, except what truncation cuts."""
    corpus = _corpus()
    pairs = sample_pairs(corpus, 512, 0.0, 1, "seed")
    covered = np.zeros(len(corpus.ids), dtype=bool)
    for start, size, b_start, b_size, random_next in zip(
        pairs.a_starts, pairs.a_lengths, pairs.b_starts, pairs.b_lengths, pairs.is_random_next, strict=True
    ):
        covered[start : start + size] = True
        if not random_next:
            covered[b_start : b_start + b_size] = True
    assert covered.mean() > 0.95


def test_short_sequences_come_at_their_share() -> None:
    lengths = np.full(60_000, 5)
    corpus = TokenizedCorpus(np.zeros(300_000, dtype=np.int32), offsets_of(lengths), offsets_of(np.full(3000, 20)))
    plain = sample_pairs(corpus, 64, 0.0, 1, "seed")
    short = sample_pairs(corpus, 64, 1.0, 1, "seed")
    assert short.num_tokens.mean() < 0.75 * plain.num_tokens.mean()


def test_the_seed_alone_decides() -> None:
    corpus = _corpus()
    one, same, other = (sample_pairs(corpus, 128, 0.1, 2, seed) for seed in ("a", "a", "b"))
    assert (one.a_starts == same.a_starts).all()
    assert (one.b_starts == same.b_starts).all()
    assert len(one) != len(other) or (one.b_starts != other.b_starts).any()


def _rows(pairs: Pairs) -> list[tuple[int, ...]]:
    columns = (pairs.a_starts, pairs.a_lengths, pairs.b_starts, pairs.b_lengths, pairs.is_random_next)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("length", [16, 128])
def test_documents_are_drawn_as_often_as_asked(length: int) -> None:
    """Copy c of a document is the same, however often the others are drawn."""
    corpus = _corpus(documents=6)
    copies = np.array([3, 0, 1, 2, 0, 5])
    pairs = sample_pairs(corpus, length, 0.5, copies, "seed")
    expected: list[tuple[int, ...]] = []
    for copy in range(5):
        before = len(sample_pairs(corpus, length, 0.5, copy, "seed"))
        rows = _rows(sample_pairs(corpus, length, 0.5, copy + 1, "seed"))[before:]
        starts = _document_of(corpus, np.array([row[0] for row in rows]))
        expected += [row for row, document in zip(rows, starts, strict=True) if copies[document] > copy]
    assert _rows(pairs) == expected
    drawn = _document_of(corpus, pairs.a_starts)
    assert set(drawn) == {0, 2, 3, 5}
    # Documents that are not drawn lend their text.
    assert {1, 4} < set(_document_of(corpus, pairs.b_starts))


def test_copies_differ() -> None:
    corpus = _corpus()
    one, two = (_rows(sample_pairs(corpus, 128, 0.1, copies, "seed")) for copies in (1, 2))
    assert two[: len(one)] == one
    assert two[len(one) :] != one


@pytest.mark.parametrize("documents", [0, 3])
def test_nothing_drawn_gives_no_pairs(documents: int) -> None:
    corpus = _corpus(documents) if documents else TokenizedCorpus(*(np.zeros(n, dtype=np.int64) for n in (0, 1, 1)))
    assert len(sample_pairs(corpus, 128, 0.1, np.zeros(documents, dtype=np.int64), "seed")) == 0


def test_pairs_are_the_same_everywhere() -> None:
    """The draws are fixed by their algorithm: neither numpy's nor Python's version may change them."""
    rows = _rows(sample_pairs(_regular_corpus(), 32, 0.3, 3, "seed"))
    assert len(rows) == PINNED_ROWS
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == PINNED_SHA256


def test_a_document_of_one_enormous_sentence_is_cut() -> None:
    corpus = TokenizedCorpus(np.zeros(500_007, dtype=np.int32), offsets_of(np.array([500_000, 7])), np.array([0, 1, 2]))
    pairs = sample_pairs(corpus, 128, 0.0, 1, "seed")
    assert pairs.num_tokens.tolist() == [128, 128]
    assert pairs.is_random_next.all()


@pytest.mark.parametrize("copies", [2, 40])
def test_memory_beside_the_pairs_does_not_grow_with_the_copies(copies: int) -> None:
    corpus = _corpus(documents=200)
    sample_pairs(corpus, 128, 0.1, 1, "seed")
    tracemalloc.start()
    pairs = sample_pairs(corpus, 128, 0.1, copies, "seed")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The pairs per copy and again joined, and what one copy takes for each sentence.
    assert peak < 2.2 * 33 * len(pairs) + 200 * corpus.document_offsets[-1] + 100_000


def test_one_document_takes_its_random_segments_from_itself() -> None:
    pairs = sample_pairs(_corpus(documents=1), 64, 0.1, 20, "seed")
    assert pairs.is_random_next.any()
