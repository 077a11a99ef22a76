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
    corpus = _corpus([[125, 1], [60]])
    assert cut_overlong(corpus, 125, CONTINUES) is corpus


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
    assert (lengths[owners] > limit).all()
    assert set(owners.tolist()) == set(np.flatnonzero(lengths > limit).tolist()) or limit == 1


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


@pytest.mark.parametrize("length", [128, 512])
def test_all_of_an_endless_sentence_is_used(length: int) -> None:
    corpus = _corpus([[50_000], [50_000], [200]])
    covered, times = np.zeros(len(corpus.ids), dtype=bool), {}
    for name, one in {"whole": corpus, "cut": cut_overlong(corpus, length - 3, CONTINUES)}.items():
        covered[:] = False
        pairs = sample_pairs(one, length, 0.1, 5, "seed")
        for starts, lengths in ((pairs.a_starts, pairs.a_lengths), (pairs.b_starts, pairs.b_lengths)):
            for start, size in zip(starts.tolist(), lengths.tolist(), strict=True):
                covered[start : start + size] = True
        times[name] = covered.mean()
    assert times["whole"] < 0.1
    assert times["cut"] > 0.99
    assert abs(pairs.is_random_next.mean() - 0.5) < 0.05
