"""How BERT changes text before it cuts it into words, and Hugging Face's file that states it.

It is a part of the vocabulary: tokens with capitals never occur in text that is lowercased, and "é" never where accents
are stripped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from bertjobs.files.reading import read_json

CONFIG_FILE = "tokenizer_config.json"

_KEYS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


@dataclass(frozen=True)
class Normalisation:
    """What BERT's normaliser does besides cleaning.

    Attributes:
        lowercase: letters become small.
        strip_accents: text is decomposed (NFD) and loses all its non-spacing marks (Mn): accents, and the vowel signs
            and tone marks of many scripts.
        ideographs: each CJK ideograph is a word of its own.
    """

    lowercase: bool
    strip_accents: bool
    ideographs: bool = True

    @classmethod
    def berts(cls, lowercase: bool, strip_accents: bool | None = None, ideographs: bool = True) -> Normalisation:
        """As BERT's own: accents are stripped where text is lowercased, unless it is said."""
        return cls(lowercase, lowercase if strip_accents is None else strip_accents, ideographs)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer) -> Normalisation:
        """What a tokenizer's normaliser, of whatever kind, does to a letter, an accent and two ideographs."""
        if (normaliser := tokenizer.normalizer) is None:
            return cls(False, False, False)
        letter, accent, ideographs = map(normaliser.normalize_str, ("A", "é", "中文"))
        return cls(letter == "a", accent == "e", ideographs.split() == ["中", "文"])

    def normaliser(self) -> normalizers.BertNormalizer:
        """The reference that does it."""
        return normalizers.BertNormalizer(
            lowercase=self.lowercase, strip_accents=self._stripping, handle_chinese_chars=self.ideographs
        )

    def of_letters(self) -> normalizers.BertNormalizer:
        """What does that to letters, and nothing else: no cleaning, and no spaces around ideographs."""
        return normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=False, lowercase=self.lowercase, strip_accents=self.strip_accents
        )

    def config(self) -> dict[str, bool | None]:
        """The keys of tokenizer_config.json."""
        return dict(zip(_KEYS, (self.lowercase, self._stripping, self.ideographs), strict=True))

    @property
    def _stripping(self) -> bool | None:
        """None: as BERT's own does, which is how Hugging Face writes it."""
        return None if self.strip_accents == self.lowercase else self.strip_accents

    def __str__(self) -> str:
        words = "uncased" if self.lowercase else "cased"
        if self.strip_accents != self.lowercase:
            words += ", accents stripped" if self.strip_accents else ", accents kept"
        return words if self.ideographs else f"{words}, ideographs not set apart"


def read_config(path: Path) -> Normalisation | None:
    """What a tokenizer_config.json states; None if there is none, or it does not state whether text is lowercased.

    Raises:
        DamagedFileError: it cannot be read, or one of the values is not true or false.
    """
    return read_json(path, _of_config)


def _of_config(content: Any) -> Normalisation | None:
    if not isinstance(content, Mapping):
        raise ValueError("it is not an object")
    values = [content.get(name) for name in _KEYS]
    for name, value in zip(_KEYS, values, strict=True):
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"its {name!r} is not true or false")
    lowercase, strip_accents, ideographs = values
    if lowercase is None:
        return None
    return Normalisation.berts(lowercase, strip_accents, ideographs is not False)
