"""Sentences: the same boundaries as NLTK's Punkt, empty lines, languages, and time linear in the text."""

# ruff: noqa: RUF001  (other scripts have letters and marks that look like Latin ones)

from __future__ import annotations

import random
import re
import time
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.text import sentences
from bertjobs.data.text.sentences import LANGUAGES, SentenceSplitter, split_all, split_sentences
from bertjobs.errors import InputError
from tests.conftest import SPEECHES

NLTK_DATA = Path(str(distribution("llama-index-core").locate_file("llama_index/core/_static/nltk_cache")))

HOSTILE = """
    the The he He it But However i I a A Bach Smith end No 5 1990 7 3.14 -1.5 1,000 § http://a.b/c?d=e x@y.z e-co x-dr
    Mr. Mrs. Dr. Vs. U.S. u.s. e.g. i.e. Ph.D. St. Jan. Inc. a.m. etc. J. F. K. S. z. 1. 12. 3.14. .5 No. -. 10%. _.
    é. É. ß. İ. ǅ. ª. ². ½. Ⓐ. ⓐ. कि. 中. Да. да. ة. ? ! . , ; : - -- --- .. ... .... ?! !! !!! ?. !. ." .' .) .]
    ."-- .)-- ?" !) ., .; .- .-- .* .@ .( '. (. [ ] { } ( ) * & # @ ` \u201c \u201d \u2018 \u2019 « » .\u201d .\u2019 .»
    … a.. a..b a... ...a .a ?a !a. ??a. ?a.b!
"""
WORDS = [*HOSTILE.split(), "\u0301.", "\u200d.", "\ufeff", "\x1c", "\x1f", "\n\x1c", "\u00a0.\u00a0.", ".\n.", ". . ."]
GAPS = [" "] * 12 + [
    "",
    "",
    "",
    "  ",
    "\t",
    "\n",
    "\n ",
    "\r\n",
    "\v",
    "\f",
    "\x85",
    "\u00a0",
    "\u2003",
    "\u3000",
    " \u00a0",
]

texts = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=12).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


@cache
def nltk_tokenizer(language: str) -> Any:
    """NLTK's own."""
    import nltk  # takes seconds, which processes that only collect these tests should not spend
    from nltk.tokenize.punkt import PunktTokenizer

    if str(NLTK_DATA) not in nltk.data.path:
        nltk.data.path.insert(0, str(NLTK_DATA))
    return PunktTokenizer(language)


def by_nltk(text: str, language: str = "english") -> list[str]:
    """What the module promises of text without other scripts' sentence ends: NLTK's sentences of each paragraph."""
    paragraphs = re.split(r"[\n\u2028]\s*[\n\u2028]|\u2029", text)
    return [sentence for part in paragraphs for sentence in nltk_tokenizer(language).tokenize(part.strip())]


def one_line(text: str) -> str:
    return " ".join(text.splitlines())


def test_the_sentences_of_speeches_are_those_of_nltk() -> None:
    files = sorted(SPEECHES.glob("*.txt"))
    assert files
    for file in files[::12]:
        text = file.read_text(encoding="utf-8")
        assert split_sentences(text) == by_nltk(text), file.name
        assert split_sentences(one_line(text)) == by_nltk(one_line(text)), file.name


def test_the_sentences_of_technical_prose_are_those_of_nltk() -> None:
    for name, text in topics.items():
        assert split_sentences(text) == by_nltk(text), name
        assert split_sentences(one_line(text)) == by_nltk(one_line(text)), name


@settings(max_examples=1000, deadline=None)
@given(texts)
def test_hostile_text_is_split_as_by_nltk(text: str) -> None:
    assert split_sentences(text) == by_nltk(text)


FOREIGN = ["中。", "。", "！", "？」", "है।", "كم؟", "。.", "？!", "…。", "。,"]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*WORDS, *FOREIGN * 4]), st.sampled_from(GAPS)), max_size=12).map(
        lambda pairs: "".join(word + gap for word, gap in pairs)
    )
)
def test_beyond_nltk_only_the_ends_of_other_scripts_end_sentences(text: str) -> None:
    ours, by_punkt = split_sentences(text), by_nltk(text)
    assert "".join("".join(ours).split()) == "".join("".join(by_punkt).split())
    while ours:
        whole = by_punkt.pop(0)
        while whole:  # each of NLTK's sentences is one or more of ours
            part = ours.pop(0)
            assert whole.startswith(part)
            whole = whole.removeprefix(part).lstrip()
            assert not whole or re.search(r"[。！？।؟]\W*$", part), ascii(text)


def test_foreign_sentences_in_english_text_are_told_apart() -> None:
    text = "He said this.\n人人生而自由。他们赋有理性和良心。「好！」 It is so. هل هذا؟ نعم."
    assert split_sentences(text) == [
        "He said this.", "人人生而自由。", "他们赋有理性和良心。", "「好！」", "It is so.", "هل هذا؟", "نعم.",
    ]  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_split_as_by_nltk(language: str) -> None:
    parameters = nltk_tokenizer(language)._params
    draw = random.Random(language)
    dotted = [f"{word}." for word in sorted(parameters.abbrev_types)]
    paired = [f"{first}. {second}" for first, second in sorted(parameters.collocations)]
    common = draw.sample(sorted(parameters.ortho_context), min(200, len(parameters.ortho_context)))
    words = [*dotted, *paired, *common, *sorted(parameters.sent_starters), *(WORDS * 2)]
    cases = (str, str.capitalize, str.upper)
    for _ in range(150):
        text = "".join(draw.choice(cases)(draw.choice(words)) + draw.choice(GAPS) for _ in range(12))
        assert split_sentences(text, language) == by_nltk(text, language), ascii(text)


def test_all_languages_of_nltk_are_supported() -> None:
    assert set(LANGUAGES) == {
        folder.name for folder in (NLTK_DATA / "tokenizers/punkt_tab").iterdir() if folder.is_dir()
    }


def test_languages_differ() -> None:
    text = "Das ist z.B. Montag."
    assert split_sentences(text, "german") == [text]
    assert split_sentences(text) == ["Das ist z.B.", "Montag."]


def test_an_unknown_language_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="'german'"):
        split_sentences("Text.", "germn")


@pytest.mark.parametrize("text", ["", " ", "\n", "\n\n \n", "\u2029", "\u00a0\t\x1c"])
def test_text_without_words_has_no_sentences(text: str) -> None:
    assert split_sentences(text) == []


@pytest.mark.parametrize("gap", ["\n\n", "\n \t\n", "\r\n\r\n", "\n\n\n\n  ", "\u2029", "\u2028\u2028", "\n\u00a0\n"])
def test_an_empty_line_ends_a_sentence(gap: str) -> None:
    assert split_sentences(f"  A heading{gap}and Mr.{gap}Smith. He left.\n") == [
        "A heading",
        "and Mr.",
        "Smith.",
        "He left.",
    ]


def test_a_line_break_alone_does_not_end_a_sentence() -> None:
    assert split_sentences("A heading\nand\u2028text by Mr.\nSmith.") == ["A heading\nand\u2028text by Mr.\nSmith."]


@given(st.lists(texts, max_size=6), st.sampled_from(["", "é", "\U0001f600"]))
def test_texts_split_together_are_split_as_one_by_one(together: list[str], wide: str) -> None:
    """``wide`` decides how many bytes a character takes where all texts are looked through."""
    together = [*together, wide]
    assert split_all(together) == [split_sentences(text) for text in together]


def test_sentences_do_not_depend_on_what_was_split_before(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SentenceSplitter()
    expected = [whole.split([text]) for text in topics.values()]
    assert [whole.split([text]) for text in topics.values()] == expected
    monkeypatch.setattr(sentences, "_REMEMBERED", 2)
    forgetful = SentenceSplitter()
    some = list(topics.values())[:10]
    assert [forgetful.split([text]) for text in some] == expected[:10]
    assert max(len(forgetful._always), len(forgetful._decided)) <= 2


@pytest.mark.parametrize(
    "unit",
    [
        "x",
        ".",
        "a.",
        "!",
        ". ",
        "A. ",
        "...(",
        '."',
        '"',
        ".) ",
        ".\u00a0",
        "a.\u00a0",
        ".\n\x1c",
        "\n ",
        "\n\n.",
        "a-",
        ",,",
    ],
)
def test_time_is_linear_on_text_made_to_be_slow(unit: str) -> None:
    text = "Mr. " + unit * (200_000 // len(unit)) + " End"
    began = time.process_time()
    split_sentences(text)
    assert time.process_time() - began < 5  # a few tenths of a second; far more if quadratic
