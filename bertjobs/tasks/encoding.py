"""Text to tokens, as tasks need them: with the place of each token in the text, cut to the model's length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

from bertjobs.data.ragged import offsets_of
from bertjobs.data.text.vocabulary import Vocabulary, is_berts
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.data.text.wordpiece import WordPieceEncoder  # who only predicts needs no pyarrow


class Pieces(NamedTuple):
    """A text's tokens without [CLS] and [SEP]: ids, and where each begins and ends in the text, in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class TextEncoder:
    """Makes token sequences of at most ``max_length`` tokens, [CLS] and [SEP] included.

    Args:
        remembers: whether the words of all texts are kept in memory, up to some number: many times as fast for a
            corpus, but not for single texts now and then.
        positions: the longest sequence that the model can read; 0 where that is not known.

    Attributes:
        truncated: how many sequences lost tokens so far, since they were longer than ``max_length``.
        shortened: how many questions and queries lost tokens to a limit of their task.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, *, remembers: bool = True, positions: int = 0) -> None:
        if max_length < 8:
            raise InputError(f"a sequence of {max_length} tokens is too short: at least 8", where="sequence_length")
        self.vocabulary, self.max_length, self.positions = vocabulary, max_length, positions
        self._remembers = remembers
        self.truncated = self.shortened = 0

    def check_fits(self, vocab_size: int, where: str) -> None:
        """InputError if a model of ``vocab_size`` words lacks tokens of the vocabulary."""
        if self.vocabulary.size > vocab_size:
            raise InputError(
                f"the tokenizer has {self.vocabulary.size:,} tokens, and the model {vocab_size:,}",
                where=where,
                hint="copy the tokenizer's files from where the model comes from",
            )

    @classmethod
    def of_folder(cls, folder: Path, max_length: int, *, positions: int = 0) -> TextEncoder:
        """With the tokenizer in a checkpoint's or a prepared task's folder; ``positions`` as of the class.

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
            return cls(Vocabulary.read(folder / "tokenizer.json"), max_length, positions=positions)
        return cls(Vocabulary.of_folder(folder), max_length, positions=positions)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.vocabulary.tokenizer()

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The tokens of each text, all of them."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [Pieces(one.ids, one.offsets) for one in encoded]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, as `pieces` has them, without their places: many times as fast. Texts that are equal
        share one list."""
        distinct = list(dict.fromkeys(texts))
        if len(distinct) < len(texts):
            by_text = dict(zip(distinct, self.ids(distinct), strict=True))
            return [by_text[text] for text in texts]
        if not (fast := self._fast):
            return [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        flat, counts = fast.encode(texts)
        numbers = flat.tolist()
        ids = [numbers[first:last] for first, last in pairwise(offsets_of(counts).tolist())]
        for place in self._with_special_tokens(texts):  # which are tokens here, and text in corpora
            ids[place] = self._tokenizer.encode(texts[place], add_special_tokens=False).ids
        return ids

    def words(self, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """For each sentence the tokens of each of its words, as `pieces` has them of the words joined by blanks."""
        if self._fast:
            by_word = iter(self.ids(list(chain.from_iterable(sentences))))
            return [list(islice(by_word, len(words))) for words in sentences]
        joined = self.pieces([" ".join(words) for words in sentences])
        return [_by_word(words, pieces) for words, pieces in zip(sentences, joined, strict=True)]

    def _with_special_tokens(self, texts: Sequence[str]) -> list[int]:
        joined = "\n".join(texts)
        there = [token for token in self._special_tokens if token in joined]
        return [place for place, text in enumerate(texts) if any(token in text for token in there)]

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        return tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values())

    @cached_property
    def _fast(self) -> WordPieceEncoder | None:
        """The encoder of corpora, if without special tokens in it all text becomes what the tokenizer makes of it."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        if (
            self._remembers
            and is_berts(self._tokenizer)
            and not any(token.normalized or " " in token.content for token in added)
        ):
            return self.vocabulary.encoder()
        return None

    def shorten(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """A question or query of ``most`` tokens at most."""
        self.shortened += len(ids) > most
        return ids[:most]

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


def _by_word(words: Sequence[str], pieces: Pieces) -> list[list[int]]:
    """The ids of each word's pieces; ``pieces`` are those of the words joined by blanks."""
    starts = list(accumulate((len(word) + 1 for word in words), initial=0))
    by_word: list[list[int]] = [[] for _ in words]
    for number, (start, _) in zip(pieces.ids, pieces.offsets, strict=True):
        by_word[bisect_right(starts, start) - 1].append(number)
    return by_word
