"""Next-sentence pairs by BERT's algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.pairs import Pairs, TokenizedCorpus, sample_pairs, truncate
from bertjobs.data.ragged import offsets_of

LONG = st.integers(1, 90)


def _corpus(documents: int = 40, seed: int = 0) -> TokenizedCorpus:
    """Each token's id is its place in the corpus."""
    draw = np.random.default_rng(seed)
    sentences = draw.integers(1, 60, size=documents)
    lengths = draw.integers(1, 40, size=int(sentences.sum()))
    ids = np.arange(lengths.sum(), dtype=np.int32)
    return TokenizedCorpus(ids, offsets_of(lengths), offsets_of(sentences))


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
    one = Pairs(*(np.array([n]) for n in (1000, a, 2000, b)), np.array([False]))
    cut = truncate(one, limit, np.random.default_rng(0))
    assert (cut.a_lengths[0], cut.b_lengths[0]) == (expected_a, expected_b)
    assert 0 <= cut.a_starts[0] - 1000 <= a - expected_a
    assert 0 <= cut.b_starts[0] - 2000 <= b - expected_b


def test_truncation_takes_half_from_the_front() -> None:
    many = Pairs(*(np.full(4000, n) for n in (0, 120, 0, 120)), np.zeros(4000, dtype=bool))
    cut = truncate(many, 125, np.random.default_rng(1))
    lost = 120 - cut.a_lengths[0]
    assert abs(cut.a_starts.mean() - lost / 2) < 5 * np.sqrt(lost / 4 / 4000)


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
    # What follows really follows: the gap between A and B is only what was cut at a sentence's border.
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
    """Every token is in an A, or in a true B: nothing is skipped, save what truncation cuts."""
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


def test_one_document_takes_its_random_segments_from_itself() -> None:
    pairs = sample_pairs(_corpus(documents=1), 64, 0.1, 20, "seed")
    assert pairs.is_random_next.any()
