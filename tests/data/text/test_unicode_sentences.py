"""Sentence ends of all scripts: Unicode's tables and rules, text in many languages, and time linear in the text."""

# ruff: noqa: RUF001  (other scripts have letters and marks that look like Latin ones)

from __future__ import annotations

import re
import sys
import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.text import sentence_break
from bertjobs.data.text.unicode_sentences import (
    _CANDIDATE,
    _ends,
    has_foreign_ends,
    split_all_unicode,
    split_at_foreign_ends,
    split_unicode,
)
from tests.data.declaration import ARTICLE, WITHOUT_MARKS, WITHOUT_SPACES

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
EVERYTHING = "".join(CHARACTERS)


def members(inside: str) -> set[str]:
    """The characters of a class, by Python's own engine."""
    return set(re.findall(f"[{inside}]", EVERYTHING))


def unicodes(value: str) -> set[str]:
    """The characters with a value of Sentence_Break or of another property, by the tables of ``regex``."""
    return set(regex.findall(rf"\p{{{value}}}", EVERYTHING))


def test_the_tables_are_unicodes() -> None:
    close, opening, quotes = (unicodes(value) for value in ("SB=Close", "gc=Ps", "gc=Pi"))
    ends = members(sentence_break.ENDS) | members(sentence_break.RARE_ENDS)
    expected = {
        "ends": unicodes("SB=STerm"),
        "periods": unicodes("SB=ATerm"),
        "closing": close - opening - quotes,
        "quotes": close & quotes,
        "continuing": unicodes("SB=SContinue"),
        "line ends": unicodes("SB=Sep") | unicodes("SB=CR") | unicodes("SB=LF"),
    }
    assert {
        "ends": ends,
        "periods": members(sentence_break.PERIODS),
        "closing": members(sentence_break.CLOSING),
        "quotes": members(sentence_break.QUOTES),
        "continuing": members(sentence_break.CONTINUING),
        "line ends": members(sentence_break.LINE_ENDS),
    } == expected
    assert members(sentence_break.INVISIBLE) <= unicodes("SB=Extend") | unicodes("SB=Format")


def test_the_classes_by_plane_are_whole() -> None:
    rare = members(sentence_break.RARE_ENDS)
    assert max(members(sentence_break.ENDS)) <= "\uffff" < min(rare)
    assert rare <= members(sentence_break.RARE_RANGE)
    assert not members(sentence_break.MORE_ENDS) & (members(sentence_break.ENDS) | members(sentence_break.PERIODS))


@pytest.mark.parametrize("language", sorted(set(ARTICLE) - set(WITHOUT_MARKS)))
def test_articles_of_the_declaration_are_split(language: str) -> None:
    gap = "" if language in WITHOUT_SPACES else " "
    sentences = list(ARTICLE[language])
    assert split_unicode(gap.join(sentences)) == sentences
    assert split_unicode("\n".join([gap.join(sentences)] * 2)) == sentences * 2


@pytest.mark.parametrize("language", WITHOUT_MARKS)
def test_without_marks_only_lines_are_told_apart(language: str) -> None:
    sentences = list(ARTICLE[language])
    assert split_unicode(" ".join(sentences)) == [" ".join(sentences)]
    assert split_unicode("\n".join(sentences)) == sentences


# In each text, | stands where a sentence ends; the white space around it is not part of a sentence.
@pytest.mark.parametrize(
    "marked",
    [
        "他说：「走吧。」|「好！」|她笑了。",
        "「行くの？」|と彼は言った。",
        "他走了。|“为什么？”|没有人知道。",
        "（完。）|下一章。",
        "真的？！|是的。",
        "真的吗？，他问。",
        "价格是3．5元．|然后他走了．",
        "他走了.|她也走了.",
        "ཀ་ཁ།| ག་ང།། །།| ཅ།",
        "هل هذا صحيح؟| نعم، هو صحيح.| «انتهى.»| ثم ذهب.",
        "यह सच है॥| डॉ.शर्मा आए।| अब?",
        "Er sagte: „Geh!“| Dann ging er.",
        "Han gik.| »Hvorfor?«| Ingen ved det.",
        "Він народився 9. 3. 1814 р. у селі.| Т. Г. Шевченко писав.",
        "See example.org, e.g. the U.S.A. page, version 3.14.| Done.",
        "It was (as I said.) done.| Yes.",
        "What?!| he cried.| No...| Yes.",
        "so it goes ... and on",
        "Wait... what?| Yes",
        "A fact.| [1] Another.",
        "A fact.|[1] Another.",
        "One\u2028|Two\u2029|Three\x85|Four\r\n|\r\n|Five",
        "Done.\u200b\u200d)| Next.",
        "\U00011103\U00011127\U00011141| \U00011104",  # Chakma
        "\U0001f600 fine\U0001f642 yes",  # emoji are in no class
        "𝑎 = 𝑏. then",
    ],
)
def test_rules(marked: str) -> None:
    expected = [part.strip() for part in marked.split("|") if part.strip()]
    assert split_unicode(marked.replace("|", "")) == expected


MARKS = st.sampled_from([*"aA1b中ऀ.?!。！।،,;:)(”“«»\"' \n\t-–", "\u200d", "\U00011141", "\U00011103", "Ж", "ж", "ა"])
TEXTS = st.lists(MARKS, max_size=30).map("".join)


@given(TEXTS)
def test_nothing_is_lost_and_nothing_is_empty(text: str) -> None:
    for split in (split_unicode, lambda text: split_at_foreign_ends(text.strip()) if text.strip() else []):
        sentences = split(text)
        assert "".join("".join(sentences).split()) == "".join(text.split())
        assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def one_mark_after_the_other(text: str) -> list[str]:
    """The sentences of a text, where each mark is decided by the rules themselves."""
    sentences = []
    for line in re.split(rf"[{sentence_break.LINE_ENDS}]+", text):
        line, start = line.strip(), 0
        for candidate in re.finditer(_CANDIDATE, line):
            if candidate.end() < len(line) and _ends(line, candidate, len(line)):
                sentences.append(line[start : candidate.end(1)])
                start = candidate.end()
        sentences += [line[start:]] if line else []
    return sentences


@given(st.lists(TEXTS, max_size=4))
@settings(max_examples=300)
def test_many_texts_together_have_the_sentences_of_each_by_the_rules(texts: list[str]) -> None:
    assert split_all_unicode(texts) == [one_mark_after_the_other(text) for text in texts]


ANY_TEXTS = st.text(st.one_of(MARKS, st.characters(exclude_categories=()), st.sampled_from("AB. ")), max_size=40)


@given(st.lists(ANY_TEXTS, max_size=3))
@settings(max_examples=300)
def test_all_characters_are_decided_alike_together_and_one_by_one(texts: list[str]) -> None:
    assert split_all_unicode(texts) == [one_mark_after_the_other(text) for text in texts]


NEVER_FIRST = members(sentence_break.ENDS + sentence_break.CONTINUING + sentence_break.PERIODS)


@given(TEXTS)
def test_what_begins_a_sentence_is_never_an_end_or_a_continuation(text: str) -> None:
    for line in re.split(r"[\n\x85]+", text):
        assert not {sentence[0] for sentence in split_unicode(line)[1:]} & NEVER_FIRST


def test_foreign_ends_are_those_beyond_ascii() -> None:
    assert not has_foreign_ends("Is it? Yes! It is. “Ünder…” 中文 \U0001f600")
    for mark in "。！？।؟።":
        assert has_foreign_ends(f"中{mark}")
    expected = members(sentence_break.ENDS + sentence_break.MORE_ENDS + sentence_break.RARE_RANGE) - {"!", "?"}
    assert {mark for mark in map(chr, range(0x20000)) if has_foreign_ends(mark)} == expected
    assert has_foreign_ends("a\ud800中。")
    assert split_at_foreign_ends("He said 你好。我们走吧！ Then. Mr. Smith left? Yes!") == [
        "He said 你好。",
        "我们走吧！",
        "Then. Mr. Smith left? Yes!",
    ]


@pytest.mark.parametrize(
    "unit", ["x", ".", "。", "。」", ". ", "。 ", "A. ", ".1", "1. ", "“", "。“", "。\u200d", ". (", "\U00011103"]
)
def test_time_is_linear_on_text_made_to_be_slow(unit: str) -> None:
    text = "中 " + unit * (200_000 // len(unit)) + " End"
    began = time.process_time()
    split_unicode(text)
    split_at_foreign_ends(text)
    assert time.process_time() - began < 5  # a few tenths of a second; far more if quadratic
