"""Sentences longer than a pair are cut into parts that keep every token, at the starts of words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.pairs import TokenizedCorpus, sample_pairs
from bertjobs.data.prepare.sentence_cuts import cut_overlong
from bertjobs.data.ragged import offsets_of

WORD, PIECE = 0, 1  # ids
CONTINUES = np.array([False, True])


def _corpus(documents: list[list[int]], pieces: np.ndarray | None = None) -> TokenizedCorpus:
    """Documents of sentences of these lengths."""
    lengths = np.array([length for document in documents for length in document])
    ids = np.zeros(lengths.sum(), dtype=np.int32) if pieces is None else pieces.astype(np.int32)
    return TokenizedCorpus(ids, offsets_of(lengths), offsets_of(np.array([len(document) for document in documents])))


def test_a_corpus_without_overlong_sentences_is_left_as_it_is() -> None:
    corpus = _corpus([[125], [63, 64], [62] * 9, [100, 50, 50], [7, 8]])
    for document in (0, 2, 3, 4):
        lengths = np.diff(corpus.sentence_offsets)[slice(*corpus.document_offsets[document : document + 2])]
        assert cut_overlong(alone := _corpus([lengths.tolist()]), 125, CONTINUES) is alone
    cut = cut_overlong(corpus, 125, CONTINUES)
    assert np.diff(cut.document_offsets).tolist() == [1, 10, 9, 3, 2]


@given(
    documents=st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=6), min_size=1, max_size=5),
    limit=st.sampled_from([1, 5, 13, 125, 509]),
    share=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    seed=st.integers(0, 9),
)
def test_parts_are_short_whole_and_in_the_same_documents(
    documents: list[list[int]], limit: int, share: float, seed: int
) -> None:
    tokens = sum(map(sum, documents))
    corpus = _corpus(documents, np.random.default_rng(seed).random(tokens) < share)
    cut = cut_overlong(corpus, limit, CONTINUES)
    assert cut.ids is corpus.ids
    assert (np.diff(cut.sentence_offsets) > 0).all()
    assert np.diff(cut.sentence_offsets).max() <= limit
    assert set(corpus.sentence_offsets) <= set(cut.sentence_offsets)
    assert (cut.sentence_offsets[cut.document_offsets] == corpus.sentence_offsets[corpus.document_offsets]).all()
    new = sorted(set(cut.sentence_offsets.tolist()) - set(corpus.sentence_offsets.tolist()))
    lengths = np.diff(corpus.sentence_offsets)
    owners = np.searchsorted(corpus.sentence_offsets, new, side="right") - 1
    assert (lengths[owners] > limit // 2).all()
    assert set(owners.tolist()) >= set(np.flatnonzero(lengths > max(limit, 2)).tolist())


@pytest.mark.parametrize("size", [2, 3, 7])
def test_parts_begin_with_words(size: int) -> None:
    """Words of ``size`` pieces."""
    corpus = _corpus([[40], [1000], [50]], np.arange(1090) % size != 40 % size)
    cut = cut_overlong(corpus, 125, CONTINUES)
    inside = np.setdiff1d(cut.sentence_offsets, corpus.sentence_offsets)
    assert len(inside) > 60
    assert not CONTINUES[corpus.ids[inside]].any()


def test_one_endless_word_is_cut_too() -> None:
    cut = cut_overlong(_corpus([[5000]], np.ones(5000)), 125, CONTINUES)
    assert np.diff(cut.sentence_offsets).max() <= 16


def _shares(corpus: TokenizedCorpus, length: int) -> tuple[float, float]:
    """Of pairs that are drawn five times: the share of the tokens that are in one, and the share of random ones."""
    pairs = sample_pairs(corpus, length, 0.1, 5, "seed")
    covered = np.zeros(len(corpus.ids), dtype=bool)
    for starts, lengths in ((pairs.a_starts, pairs.a_lengths), (pairs.b_starts, pairs.b_lengths)):
        for start, size in zip(starts.tolist(), lengths.tolist(), strict=True):
            covered[start : start + size] = True
    return float(covered.mean()), float(pairs.is_random_next.mean())


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize(
    ("documents", "whole_uses"),
    [([[50_000], [50_000], [2000]], 0.1), ([[100, 110, 90, 120] * 10, [70, 110] * 20], 0.8)],
    ids=["endless", "long"],
)
def test_all_of_the_text_is_used(documents: list[list[int]], whole_uses: float, length: int) -> None:
    corpus = _corpus([[size * length // 128 for size in document] for document in documents])
    assert _shares(corpus, length)[0] < whole_uses
    used, random = _shares(cut_overlong(corpus, length - 3, CONTINUES), length)
    assert used > 0.99
    assert abs(random - 0.5) < 0.08
