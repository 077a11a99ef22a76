"""Text to tokens, as tasks need them: with the place of each token in the text, cut to the model's length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError


class Pieces(NamedTuple):
    """A text's tokens without [CLS] and [SEP]: ids, and where each begins and ends in the text, in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class TextEncoder:
    """Makes token sequences of at most ``max_length`` tokens, [CLS] and [SEP] included.

    Attributes:
        truncated: how many sequences lost tokens so far.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        if max_length < 8:
            raise InputError(f"a sequence of {max_length} tokens is too short: at least 8", where="sequence_length")
        self.vocabulary, self.max_length = vocabulary, max_length
        self.truncated = 0

    @classmethod
    def of_folder(cls, folder: Path, max_length: int) -> TextEncoder:
        """With the tokenizer in a checkpoint's or a prepared task's folder.

        Raises:
            InputError: it has none, or a damaged one.
        """
        if not (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").is_file():
            raise InputError(
                "the folder has no tokenizer: neither vocab.txt nor tokenizer.json",
                where=str(folder),
                hint="copy both files there from where the model comes from",
            )
        if not (folder / "vocab.txt").is_file():
            return cls(Vocabulary.read(folder / "tokenizer.json"), max_length)
        return cls(Vocabulary.of_folder(folder), max_length)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.vocabulary.tokenizer()

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The tokens of each text, all of them."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [Pieces(one.ids, one.offsets) for one in encoded]

    def single(self, ids: Sequence[int]) -> list[int]:
        """[CLS] A [SEP], the end of A cut off if it is too long."""
        room = self.max_length - 2
        self.truncated += len(ids) > room
        return [self.vocabulary.cls_id, *ids[:room], self.vocabulary.sep_id]

    def query_and_passage(self, query: Sequence[int], passage: Sequence[int]) -> tuple[list[int], int]:
        """As `pair`, with all tokens cut off the passage; a query that leaves it no room is cut to half the length."""
        room = self.max_length - 3
        query = query[: max(room // 2, room - len(passage))]
        self.truncated += len(query) + len(passage) > room
        return self.pair(query, passage[: room - len(query)])

    def pair(self, a: Sequence[int], b: Sequence[int]) -> tuple[list[int], int]:
        """[CLS] A [SEP] B [SEP], tokens cut off the longer of the two, and the place where B begins."""
        room = self.max_length - 3
        if len(a) + len(b) > room:
            self.truncated += 1
            half = room // 2
            keep_a = min(len(a), max(room - len(b), room - half))
            a, b = a[:keep_a], b[: room - keep_a]
        cls_id, sep_id = self.vocabulary.cls_id, self.vocabulary.sep_id
        return [cls_id, *a, sep_id, *b, sep_id], len(a) + 2
