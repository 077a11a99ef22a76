"""A tokenizer for tests: every letter is a token, whole words of a list too."""

from __future__ import annotations

import string
from pathlib import Path

from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.tasks.encoding import TextEncoder

WORDS = ("what", "food", "does", "harry", "like", "my", "name", "is", "and", "i", "love", "apples", "grew", "up", "in",
         "canada", "the", "a", "red", "blue", "good", "bad")  # fmt: skip


def encoder_in(folder: Path, max_length: int) -> TextEncoder:
    """An encoder with a vocabulary of letters and a few words, written to the folder."""
    letters = [*string.ascii_lowercase, *string.digits, *".,?!'/"]
    tokens = dict.fromkeys((*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *WORDS))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return TextEncoder(Vocabulary.read(folder / "vocab.txt", lowercase=True), max_length)
