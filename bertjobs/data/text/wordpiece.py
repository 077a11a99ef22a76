"""Text to WordPiece ids, as fast as looking words up: each distinct word is tokenized once and remembered.

BERT's normaliser and pre-tokenizer (Devlin et al., arXiv 1810.04805, tokenization.py) never look across an ASCII
space, across ASCII punctuation or across a CJK ideograph. Text is cut there, Arrow numbers the distinct pieces, and the
reference tokenizer sees only those that are new. It alone decides about all else: Unicode's other white space,
control characters, accents, words that are too long.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress, pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow._compute import call_function  # importing pyarrow.compute, which has it too, takes 40 ms
from tokenizers import Tokenizer

from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.text.longest_match import LongestMatch

Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]

_SLICE = 1 << 20  # characters looked up at once: bounds memory
_REFERENCE_SLICE = 1 << 16  # characters that the reference tokenizer sees at once: it takes some 100 bytes for each
_KNOWN_WORDS = 200_000
_KNOWN_CHARACTERS = 4_000_000
_LONG_WORD = 40  # characters; the reference takes more time for longer ones than `LongestMatch`

_SPACES = b"\t\n\r "
_CUT_AFTER, _CUT_AROUND, _IDEOGRAPH = 1, 2, 3


def _table(changes: dict[int, int], start: bytes = bytes(256)) -> bytes:
    return bytes(changes.get(byte, start[byte]) for byte in range(256))


# Ideographs: U+4000 to U+4DBF and U+4E00 to U+9FFF, three bytes each, the first one E4 to E9. Rarer ones stay uncut.
_CLASSES = _table(
    dict.fromkeys(_SPACES, _CUT_AFTER)
    | dict.fromkeys(string.punctuation.encode(), _CUT_AROUND)
    | dict.fromkeys(range(0xE4, 0xEA), _IDEOGRAPH)
)
_ONE_SPACE = _table(dict.fromkeys(_SPACES, ord(" ")), bytes(range(256)))
_LOWER = _ONE_SPACE.lower()


@dataclass
class Characters:
    """How many characters, white space left out, words had that were encoded: ``unknown``: of those that became [UNK].

    A word is one [UNK] however long it is, so tokens do not show how much text was lost.
    """

    seen: int = 0
    unknown: int = 0


class WordPieceEncoder:
    """Text to ids, equal to the reference tokenizer's without [CLS] and [SEP].

    Special tokens in text are text: ``[MASK]`` becomes ``[``, ``mask``, ``]``. Words are remembered,
    up to some 200,000, then all are dropped: results are the same, memory is bounded.

    One thread only, whatever TOKENIZERS_PARALLELISM says: prepare already runs one process per core, and a
    process whose tokenizer has started threads cannot be forked safely. The library's batch calls start threads;
    ``encode`` of a list of words, which is used here, does not.

    Attributes:
        characters: counted since the encoder was made.
    """

    def __init__(self, tokenizer: Tokenizer, *, by_words: bool, lowercase: bool, ideographs: bool) -> None:
        """See ``Vocabulary.encoder``, which makes one.

        Args:
            tokenizer: the reference. It is changed: special tokens in text become text.
            by_words: its normaliser and pre-tokenizer are BERT's; else texts are encoded whole, slowly.
            lowercase: BERT's normaliser makes letters small.
            ideographs: BERT's normaliser sets CJK ideographs apart.
        """
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._model = tokenizer, tokenizer.model
        self._longest_word = self._model.max_input_chars_per_word if by_words else 0
        self._by_words, self._ideographs = by_words, ideographs
        self._bytes = _LOWER if lowercase else _ONE_SPACE
        self._unknown = tokenizer.token_to_id(self._model.unk_token)
        self.characters = Characters()
        self.forget()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of all texts in one array ``[tokens]``, and how many each text has ``[texts]``."""
        encode = self._encode_words if self._by_words else self._encode_counted
        parts = [encode(part) for part in _slices(texts, _SLICE)] or [_NOTHING]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])

    def _encode_words(self, texts: Sequence[str]) -> Encoded:
        words, word_offsets = self._cut(texts)
        numbered = call_function("dictionary_encode", [words])
        distinct = self._numbers(numbered.dictionary.to_pylist())
        indices = np.frombuffer(numbered.indices.buffers()[1], dtype=np.int32, count=len(numbered))
        numbers = distinct[indices]
        starts, lengths = self._offsets[numbers], self._lengths[numbers]
        if (lost := self._lost[distinct]).any():
            self.characters.unknown += int(lost[indices].sum())
        return gather(self._ids, starts, lengths), np.diff(offsets_of(lengths)[word_offsets])

    def _encode_counted(self, texts: Sequence[str]) -> Encoded:
        """Texts whole, their characters counted."""
        encoded, lost = self._encode_whole(texts)
        self.characters.seen += sum(len(word) for text in texts for word in text.split())
        self.characters.unknown += int(lost.sum())
        return encoded

    def _cut(self, texts: Sequence[str]) -> tuple[pa.Array, NDArray[np.int64]]:
        """The words of all texts, each with the space after it, and the first word of each text ``[texts + 1]``."""
        # Neither pa.array nor Array.to_numpy: where pandas is installed they load it, which takes as long as a small
        # corpus.
        encoded = [text.encode() for text in texts]
        text_offsets = offsets_of(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
        text = b"".join(encoded)
        kinds = np.frombuffer(text.translate(_CLASSES), dtype=np.uint8)
        cuts = np.zeros(len(text) + 1, dtype=np.bool_)  # cuts[i]: a word begins at byte i
        cuts[text_offsets] = True
        around, spaces = kinds == _CUT_AROUND, kinds == _CUT_AFTER
        self.characters.seen += sum(map(len, texts)) - int(np.count_nonzero(spaces))
        cuts[1:] |= around | spaces
        cuts[:-1] |= around
        if self._ideographs:
            first = np.flatnonzero(kinds == _IDEOGRAPH)
            raw = np.frombuffer(text, dtype=np.uint8)
            first = first[(raw[first] != 0xE4) | (raw[first + 1] != 0xB7)]  # U+4DC0 to U+4DFF are symbols
            cuts[first] = cuts[first + 3] = True
        offsets = np.flatnonzero(cuts)
        data = pa.py_buffer(text.translate(self._bytes))
        words = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), data)
        return words, np.searchsorted(offsets, text_offsets)

    def _numbers(self, words: list[str]) -> NDArray[np.int64]:
        """Where each word is in the memory, after learning the new ones; with a space after it, it is another one."""
        if len(self._known) > _KNOWN_WORDS or self._characters > _KNOWN_CHARACTERS:
            self.forget()
        if new := dict.fromkeys(word for word in words if word not in self._known):
            self._learn(list(new))
        return np.fromiter(map(self._known.__getitem__, words), dtype=np.int64, count=len(words))

    def forget(self) -> None:
        """Give the memory of remembered words back; what is encoded later is the same."""
        self._known: dict[str, int] = {}
        self._characters = 0
        self._ids, self._lengths = _NOTHING
        self._lost = np.zeros(0, dtype=np.int64)  # of each word, its characters in [UNK]
        self._offsets = offsets_of(self._lengths)

    def _learn(self, words: list[str]) -> None:
        bare = {word: word.rstrip(" ") for word in words}
        long = [word for word in words if len(bare[word]) > _LONG_WORD]
        short = [word for word in words if len(bare[word]) <= _LONG_WORD]
        # Nothing is normalised or split in plain words: asking the model directly is four times faster, and whether one
        # is a token ten times.
        is_plain = [bare[word].isascii() and bare[word].isalnum() for word in short]
        plain = list(compress(short, is_plain))
        other = [word for word, plainly in zip(short, is_plain, strict=True) if not plainly]
        numbers = zip(plain, map(self._model.token_to_id, map(bare.__getitem__, plain)), strict=True)
        tokens = {word: id_ for word, id_ in numbers if id_ is not None and len(bare[word]) <= self._longest_word}
        pieced = [word for word in plain if word not in tokens]
        whole = np.fromiter(tokens.values(), dtype=np.int32), np.ones(len(tokens), dtype=np.int64)
        for known, ((ids, lengths), lost) in (
            (tokens, (whole, np.zeros(len(tokens), dtype=np.int64))),
            (pieced, self._encode_pieced([bare[word] for word in pieced])),
            (long, self._encode_long([bare[word] for word in long])),
            (other, self._encode_whole([bare[word] for word in other])),
        ):
            self._lost = np.concatenate([self._lost, lost])
            self._known.update(zip(known, range(len(self._known), len(self._known) + len(known)), strict=True))
            self._ids = np.concatenate([self._ids, ids])
            self._lengths = np.concatenate([self._lengths, lengths])
        self._offsets = offsets_of(self._lengths)
        self._characters += sum(map(len, words))

    # Each of the three returns, besides the ids, how many characters of each word are in [UNK].

    def _encode_pieced(self, words: Sequence[str]) -> tuple[Encoded, NDArray[np.int64]]:
        ids = [[token.id for token in self._model.tokenize(word)] for word in words]
        lost = (len(word) if own == [self._unknown] else 0 for word, own in zip(words, ids, strict=True))
        return _encoded(ids), np.fromiter(lost, dtype=np.int64, count=len(words))

    def _encode_long(self, words: Sequence[str]) -> tuple[Encoded, NDArray[np.int64]]:
        if not words:
            return _NOTHING, _NOTHING[1]
        normalise, split = self._tokenizer.normalizer.normalize_str, self._tokenizer.pre_tokenizer.pre_tokenize_str
        match = self._longest_match.ids
        ids, lost = [], []
        for word in words:
            pieces = [piece for piece, _ in split(normalise(word))]
            numbers = [match(piece) for piece in pieces]
            unknown = sum(len(piece) for piece, own in zip(pieces, numbers, strict=True) if own == [self._unknown])
            # Normalised, a word may have another length: its lost share is what counts.
            lost.append(unknown and round(len(word) * unknown / sum(map(len, pieces))))
            ids.append(list(chain.from_iterable(numbers)))
        return _encoded(ids), np.array(lost, dtype=np.int64)

    @cached_property
    def _longest_match(self) -> LongestMatch:
        return LongestMatch(self._model, self._tokenizer.get_vocab(with_added_tokens=False))

    def _encode_whole(self, texts: Sequence[str]) -> tuple[Encoded, NDArray[np.int64]]:
        """By the reference tokenizer alone, which treats each text of a list as one word."""
        parts, lost = [_NOTHING], [_NOTHING[1]]
        for part in _slices(texts, _REFERENCE_SLICE):
            encoding = self._tokenizer.encode(part, is_pretokenized=True, add_special_tokens=False)
            texts_of_tokens = np.fromiter(encoding.word_ids, dtype=np.int64)
            ids = np.fromiter(encoding.ids, dtype=np.int32)
            parts.append((ids, np.bincount(texts_of_tokens, minlength=len(part))))
            lost.append(np.zeros(len(part), dtype=np.int64))
            if len(places := np.flatnonzero(ids == self._unknown)):
                spans = encoding.offsets  # in a text, of each token
                sizes = [spans[place][1] - spans[place][0] for place in places.tolist()]
                np.add.at(lost[-1], texts_of_tokens[places], sizes)
        encoded = np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])
        return encoded, np.concatenate(lost)


def _encoded(pieces: Sequence[Sequence[int]]) -> Encoded:
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    return np.fromiter(chain.from_iterable(pieces), dtype=np.int32), lengths


_NOTHING: Encoded = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))


def _slices(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """The texts in order, in runs of about ``characters``; a longer text is alone or the last of its run."""
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    bounds = [0, *(np.flatnonzero(np.diff(ends // characters)) + 1), len(texts)]
    return (texts[start:stop] for start, stop in pairwise(bounds) if start < stop)
