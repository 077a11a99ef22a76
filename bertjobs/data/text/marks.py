"""What stripping accents removes: accents and, in many scripts, vowel signs and tone marks.

BERT strips all non-spacing marks (Mn) of the decomposed text. In Latin, Greek and Cyrillic these are accents, and the
points of Hebrew, Arabic and Syriac are left out in most texts. In the scripts of South and South-East Asia, in Thaana
and in N'Ko they are the vowels and tones, and in kana they tell "ga" from "ka": without them other words are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

MOST_LOST = 0.001  # of a corpus' characters: of these marks, where accents are still stripped

# Where such marks are: Thaana and N'Ko; Devanagari to Tai Tham; Balinese to Vedic signs; kana; Saurashtra to Meetei
# Mayek; Brahmi and its kin; Chakma to Soyombo; Adlam. Not in between: U+1AB0 ff. and U+1DC0 ff. are Latin's.
_RANGES = ((0x07A6, 0x0816), (0x0900, 0x1AB0), (0x1B00, 0x1D00), (0x3040, 0x3100), (0xA802, 0xAC00),
           (0x10A00, 0x10A50), (0x11000, 0x12000), (0x1E944, 0x1E94B))  # fmt: skip
_NOT_VOWELS = frozenset(chain(range(0x135D, 0x1360), range(0x180B, 0x1810)))  # Ethiopic's length, Mongolian's variants
_SHOWN = 3


@dataclass(frozen=True)
class Marks:
    """What stripping accents would remove from a corpus: characters with their counts.

    Attributes:
        characters: of the corpus, without white space.
        vowels: characters that are or hold a vowel sign or a tone mark.
        accents: characters that are or hold another mark.
    """

    characters: int
    vowels: Mapping[str, int]
    accents: Mapping[str, int]

    @property
    def vowel_count(self) -> int:
        """How many vowel signs and tone marks there are."""
        return sum(self.vowels.values())

    @property
    def accent_count(self) -> int:
        """How many accents there are."""
        return sum(self.accents.values())

    def is_many(self, count: int) -> bool:
        """Whether a count is more of the text than may be lost."""
        return count > MOST_LOST * self.characters

    @property
    def scripts(self) -> str:
        """The scripts of most vowel signs and tone marks, in words."""
        counts: Counter[str] = Counter()
        for character, count in self.vowels.items():
            script, *others = unicodedata.name(character).split()
            script = others[0] if script == "COMBINING" else script
            counts[script.split("-")[0].capitalize()] += count
        names = [name for name, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))]
        return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")


def marks_of(words: Mapping[str, int]) -> Marks:
    """The marks of a text, given as its words with their counts."""
    vowels, others = _vowels(), _others()
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for word, count in words.items():
        if not word.isascii():
            for character in vowels.findall(word):
                counts[0][character] += count
            for character in others.findall(word):
                counts[1][character] += count
    return Marks(sum(len(word) * count for word, count in words.items()), *counts)


@cache
def _vowels() -> re.Pattern[str]:
    """Characters that lose a vowel sign or a tone mark."""
    return _any_of([chr(code) for start, stop in _RANGES for code in range(start, stop) if _marks(chr(code))])


@cache
def _others() -> re.Pattern[str]:
    """Characters of the Basic Multilingual Plane that lose another mark; those of Hangul lose none."""
    vowels = _vowels()
    codes = chain(range(0x80, 0xAC00), range(0xF900, 0x10000))
    return _any_of([chr(code) for code in codes if _marks(chr(code), frozenset()) and not vowels.match(chr(code))])


def _any_of(characters: Sequence[str]) -> re.Pattern[str]:
    return re.compile(f"[{''.join(characters)}]")


def _marks(character: str, without: frozenset[int] = _NOT_VOWELS) -> bool:
    parts = unicodedata.normalize("NFD", character)
    return any(unicodedata.category(part) == "Mn" and ord(part) not in without for part in parts)
