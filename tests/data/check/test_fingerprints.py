"""Fingerprints against what they stand for: the text without white space, and the sets of word runs themselves."""

from __future__ import annotations

import random
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.check.fingerprints import PLACES, signatures, text_hash, word_runs

SPACES = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
CHARACTERS = st.text(st.sampled_from("abA.é\u0301\u212bü北\ud800" + SPACES), max_size=12)


def without_spaces(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


@given(CHARACTERS, CHARACTERS)
def test_hashes_are_equal_for_texts_that_differ_in_white_space_alone(one: str, other: str) -> None:
    assert (text_hash(one) == text_hash(other)) == (without_spaces(one) == without_spaces(other))


def runs_by_hand(text: str, words: int) -> set[tuple[str, ...]]:
    """The word runs of a text, letter by letter."""
    found, word = [], ""
    for character in text.lower() + " ":
        alone = "\u0e00" <= character < "\u1000" or "\u3040" <= character < "\ua000"
        is_letter = character.isalnum() or unicodedata.category(character)[0] == "M"
        if is_letter and not alone:
            word += character
            continue
        found += [word] * bool(word) + [character] * is_letter
        word = ""
    return {tuple(found[place : place + words]) for place in range(len(found) - words + 1)}


TEXTS = [
    "The cat sat on the mat, and the cat sat on the dog.",
    "the CAT sat\non the -- mat; and then it left",
    "the cats at on the mat and the cat sat",
    "हिन्दी में लिखा हुआ पाठ और हिन्दी में लिखा हुआ पाठ",
    "हिन्द में लिखा हुआ पाठ",
    "北京大学的学生在北京大学学习",
    "ภาษาไทยเป็นภาษา",
    "\U0001d51e\U0001d51f\U0001d520 x1 2y İstanbul straße don't 3.14",
    "too short",
    "...",
    "",
]


@pytest.mark.parametrize("words", [1, 2, 5])
def test_runs_are_those_of_the_words_whatever_stands_between(words: int) -> None:
    hashes, counts = word_runs(TEXTS, words)
    ends = np.cumsum(counts)
    hashed = [set(hashes[end - count : end].tolist()) for end, count in zip(ends, counts, strict=True)]
    by_hand = [runs_by_hand(text, words) for text in TEXTS]
    assert [len(one) for one in hashed] == [len(one) for one in by_hand]
    for a, b in combinations(range(len(TEXTS)), 2):
        assert len(hashed[a] & hashed[b]) == len(by_hand[a] & by_hand[b]), (TEXTS[a], TEXTS[b])


def test_the_agreement_of_signatures_estimates_the_share_of_common_runs() -> None:
    """Within five standard deviations for 400 pairs of all similarities, and without a bias."""
    draw = random.Random(3)
    words = [f"word{number}" for number in range(3000)]
    texts, shares = [], []
    for _ in range(400):
        text = draw.choices(words, k=300)
        share = draw.choice([0.002, 0.02, 0.1])
        changed = [draw.choice(words) if draw.random() < share else word for word in text]
        pair = [" ".join(text), " ".join(changed)]
        sets = [runs_by_hand(one, 5) for one in pair]
        texts += pair
        shares.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    rows, runs = signatures(texts, 5)
    assert rows.shape == (800, PLACES)
    assert (runs == 296).all()
    exact, estimated = np.array(shares), (rows[::2] == rows[1::2]).mean(axis=1)
    assert exact.min() < 0.4 < 0.9 < exact.max()
    deviations = np.sqrt(np.maximum(exact * (1 - exact), 1e-3) / PLACES)
    assert (np.abs(estimated - exact) < 5 * deviations).all()
    assert abs((estimated - exact).mean()) < 5 * deviations.mean() / np.sqrt(400)


def test_signatures_do_not_depend_on_the_texts_beside_them() -> None:
    texts = [*TEXTS, "one two three four five six seven " * 50_000, *TEXTS]
    rows, runs = signatures(texts, 3)
    for place, text in enumerate(texts):
        alone, its_runs = signatures([text], 3)
        assert (rows[place] == alone[0]).all()
        assert runs[place] == its_runs[0]
