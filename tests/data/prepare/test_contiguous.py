"""Contiguous text cut into sequences: all of it, in order, compared with the same rules written token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.contiguous import Spans, sample_spans
from bertjobs.data.prepare.pairs import TokenizedCorpus
from bertjobs.data.ragged import offsets_of

SEPARATOR = -1
Sequence = tuple[int, ...]


def corpus_of(sizes: list[list[int]]) -> TokenizedCorpus:
    """Documents of sentences of these sizes; each token is its own place in the corpus."""
    sentences = [size for document in sizes for size in document]
    ids = np.arange(sum(sentences), dtype=np.int32)
    return TokenizedCorpus(ids, offsets_of(np.array(sentences)), offsets_of(np.array([len(one) for one in sizes])))


def documents_of(sizes: list[list[int]]) -> list[Sequence]:
    """The tokens of each document."""
    ends = np.cumsum([sum(document) for document in sizes]).tolist()
    return [tuple(range(end - sum(document), end)) for end, document in zip(ends, sizes, strict=True)]


def read(corpus: TokenizedCorpus, spans: Spans) -> list[Sequence]:
    """The sequences' tokens."""
    flat = [*corpus.ids.tolist(), SEPARATOR]
    sequences = []
    for first, last in zip(spans.offsets[:-1], spans.offsets[1:], strict=True):
        pieces = zip(spans.starts[first:last], spans.lengths[first:last], strict=True)
        sequences.append(tuple(token for start, length in pieces for token in flat[start : start + length]))
    assert [len(sequence) + 2 for sequence in sequences] == spans.num_tokens.tolist()
    return sequences


def without_edges(tokens: list[int]) -> Sequence:
    """A cut of a stream, without separators at its edges."""
    while tokens[0] == SEPARATOR:
        tokens = tokens[1:]
    while tokens[-1] == SEPARATOR:
        tokens = tokens[:-1]
    return tuple(tokens)


SIZES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=9)


@given(sizes=SIZES, length=st.integers(4, 14))
def test_a_document_is_cut_where_a_sequence_is_full(sizes: list[list[int]], length: int) -> None:
    corpus = corpus_of(sizes)
    spans = sample_spans(corpus, length, 0.0, 1, "seed", across_documents=False)
    cuts = [(one, start) for one in documents_of(sizes) for start in range(0, len(one), length - 2)]
    assert read(corpus, spans) == [one[start : start + length - 2] for one, start in cuts]


@given(sizes=SIZES, length=st.integers(4, 14), seed=st.integers(0, 9))
def test_documents_follow_each_other_with_a_separator_between(sizes: list[list[int]], length: int, seed: int) -> None:
    corpus = corpus_of(sizes)
    sequences = read(corpus, sample_spans(corpus, length, 0.0, 1, f"{seed}", across_documents=True))
    starts = {tokens[0]: tokens for tokens in documents_of(sizes)}
    order = [starts[token] for sequence in sequences for token in sequence if token in starts]
    assert sorted(order) == documents_of(sizes)
    stream = [token for tokens in order for token in (*tokens, SEPARATOR)][:-1]
    limit = length - 2
    assert sequences == [without_edges(stream[start : start + limit]) for start in range(0, len(stream), limit)]


@given(sizes=SIZES, short=st.sampled_from([0.0, 0.5]), across=st.booleans(), data=st.data())
def test_each_token_is_there_as_often_as_its_document_is_copied(
    sizes: list[list[int]], short: float, across: bool, data: st.DataObject
) -> None:
    corpus, documents = corpus_of(sizes), documents_of(sizes)
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    spans = sample_spans(corpus, 9, 0.0 if across else short, np.array(copies), "seed", across_documents=across)
    tokens = Counter(token for sequence in read(corpus, spans) for token in sequence)
    del tokens[SEPARATOR]
    expected = Counter({token: times for times, one in zip(copies, documents, strict=True) for token in one})
    assert tokens == +expected
    assert spans.new_tokens(corpus).counts.sum() == len(+expected)
    assert max((len(sequence) for sequence in read(corpus, spans)), default=0) <= 7


@pytest.mark.parametrize("across", [False, True])
def test_copies_are_cut_at_different_places(across: bool) -> None:
    corpus = corpus_of([[400]] * 30)
    spans = sample_spans(corpus, 66, 0.0, 4, "seed", across_documents=across)
    sequences = read(corpus, spans)
    assert len(set(sequences)) > 0.95 * len(sequences)


def test_the_documents_order_depends_on_the_copy_and_the_seed() -> None:
    corpus = corpus_of([[3]] * 50)
    orders = []
    for seed in ("one", "other"):
        sequences = read(corpus, sample_spans(corpus, 10_000, 0.0, 2, seed, across_documents=True))
        orders += [tuple(token for token in sequence if token % 3 == 0) for sequence in sequences]
    assert [len(order) for order in orders] == [50] * 4
    assert len(set(orders)) == 4
    again = sample_spans(corpus, 10_000, 0.0, 2, "one", across_documents=True)
    assert read(corpus, again)[0][::4] == orders[0]


def test_a_share_of_the_documents_is_cut_short() -> None:
    """A document's first sequence has the length that was drawn for it: uniform in 2 to 100, for 30% of them."""
    corpus = corpus_of([[200]] * 4000)
    spans = sample_spans(corpus, 102, 0.3, 1, "seed", across_documents=False)
    firsts = np.array([len(sequence) for sequence in read(corpus, spans) if sequence[0] % 200 == 0])
    assert len(firsts) == 4000
    short = firsts[firsts < 100]
    assert abs(len(short) / 4000 - 0.3 * 98 / 99) < 0.03  # four standard deviations
    assert short.min() == 2
    assert abs(short.mean() - 50.5) < 3.5


def test_nothing_makes_nothing() -> None:
    empty = corpus_of([])
    assert read(empty, sample_spans(empty, 10, 0.0, 1, "seed", across_documents=True)) == []
    one = corpus_of([[5]])
    assert read(one, sample_spans(one, 10, 0.0, 0, "seed", across_documents=True)) == []
