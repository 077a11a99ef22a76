"""BERT's WordPiece vocabulary: reading one, encoding with it, training a new one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.corpus import documents
from bertjobs.data.manifest import vocabulary_sha256
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.errors import InputError
from bertjobs.run.atomic import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_ALPHABET = 1000  # single characters that a trained vocabulary holds at most

# Python's str.split() takes these for white space; BERT's text cleaning removes them.
_REMOVED = str.maketrans(dict.fromkeys("\x0b\x0c\x1c\x1d\x1e\x1f\x85"))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a vocab.txt; a token's id is its line number, from 0.

    Attributes:
        sha256: of the bytes of vocab.txt, 64 hex digits.
        lowercase: text is lowercased and its accents are dropped before it is encoded.
    """

    tokens: tuple[str, ...]
    sha256: str
    lowercase: bool
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @classmethod
    def read(cls, path: Path | str, lowercase: bool | None = None) -> Vocabulary:
        """Read vocab.txt: UTF-8, one token a line.

        Args:
            path: the file.
            lowercase: None decides by the tokens: a vocabulary with an upper-case letter is cased.

        Raises:
            InputError: unreadable, a token twice, or one of ``SPECIAL_TOKENS`` missing.
        """
        sha256 = vocabulary_sha256(path)
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError("the vocabulary is not UTF-8 text", where=str(path)) from error
        tokens = tuple(line.rstrip("\r") for line in text.removesuffix("\n").split("\n"))
        ids = {token: number for number, token in enumerate(tokens)}
        if len(ids) != len(tokens):
            twice = next(token for number, token in enumerate(tokens) if ids[token] != number)
            raise InputError(f"the vocabulary holds the token {twice!r} twice", where=str(path))
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise InputError(
                f"the vocabulary lacks {', '.join(missing)}",
                where=str(path),
                hint="a BERT vocab.txt is needed: `bertjobs data vocab` trains one",
            )
        if lowercase is None:
            lowercase = not any(token != token.lower() for token in tokens if not token.startswith("["))
        return cls(tokens, sha256, lowercase, *(ids[token] for token in SPECIAL_TOKENS))

    def encoder(self) -> WordPieceEncoder:
        """A WordPiece encoder for text."""
        return WordPieceEncoder(self)


class WordPieceEncoder:
    """Text to ids, equal to Hugging Face's BERT tokenizer without [CLS] and [SEP].

    Special tokens in text are text: ``[MASK]`` becomes ``[``, ``mask``, ``]``. BERT's normalisation
    never looks across white space, so each distinct word is encoded once and remembered.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece

        ids = {token: number for number, token in enumerate(vocabulary.tokens)}
        model = WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        self._tokenizer = _bert_tokenizer(Tokenizer(model), vocabulary.lowercase)
        self._index: defaultdict[str, int] = defaultdict()
        self._index.default_factory = self._index.__len__
        self._pieces = np.zeros(0, dtype=np.int32)
        self._offsets = np.zeros(1, dtype=np.int64)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of all texts in one array ``[tokens]``, and how many each text has ``[texts]``."""
        split = [(text if text.isprintable() else text.translate(_REMOVED)).split() for text in texts]
        words = np.fromiter(map(self._index.__getitem__, chain.from_iterable(split)), dtype=np.int64)
        self._learn_words()
        starts, lengths = self._offsets[words], np.diff(self._offsets)[words]
        word_offsets = offsets_of(np.fromiter(map(len, split), dtype=np.int64, count=len(split)))
        text_lengths = np.diff(offsets_of(lengths)[word_offsets])
        return gather(self._pieces, starts, lengths), text_lengths

    def _learn_words(self) -> None:
        new = list(islice(self._index, len(self._offsets) - 1, None))
        if not new:
            return
        encoded = [entry.ids for entry in self._tokenizer.encode_batch_fast(new, add_special_tokens=False)]
        pieces = np.fromiter(chain.from_iterable(encoded), dtype=np.int32)
        self._pieces = np.concatenate([self._pieces, pieces])
        ends = self._offsets[-1] + np.cumsum([len(ids) for ids in encoded], dtype=np.int64)
        self._offsets = np.concatenate([self._offsets, ends])


def train_vocabulary(sources: Sequence[str], size: int, lowercase: bool, output: Path | str) -> None:
    """Train a WordPiece vocabulary on corpora and write it as vocab.txt.

    Args:
        sources: as ``corpus.documents`` takes them.
        size: tokens at most, the special ones included.
        lowercase: make an uncased vocabulary.
        output: the file to write; it must not exist.

    Raises:
        InputError: bad sources, a size without room for the special tokens, an output that exists or
            cannot be written.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer

    path = Path(output)
    if path.exists():
        raise InputError(f"{str(path)!r} exists", where="--output", hint="choose another file or remove it")
    tokenizer = _bert_tokenizer(Tokenizer(WordPiece(unk_token="[UNK]")), lowercase)
    alphabet, continuing = _characters(tokenizer, sources)
    # The trainer breaks ties by token id and numbers "##x" in the order of a hash table, which changes from
    # run to run. Naming these tokens beforehand fixes their ids, and so the whole vocabulary.
    first = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in continuing)]
    if size <= len(first):
        raise InputError(
            f"a vocabulary of {size} tokens has no room: the text has {len(first)} single characters",
            where="--size",
            hint="try 8000",
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=first,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(sources), trainer)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{token}\n" for token, _ in tokens))
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}", where="--output") from error


def _texts(sources: Sequence[str]) -> Iterator[str]:
    return (document.text for source in sources for document in documents(source))


def _characters(tokenizer: Tokenizer, sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """The text's most frequent characters, and those of them that occur inside words; both sorted."""
    words: Counter[str] = Counter()
    for text in _texts(sources):
        words.update(tokenizer.normalizer.normalize_str(text).split())
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for word, count in words.items():
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word):
            continuing.update(piece[1:])
            for character in piece:
                counts[character] += count
    alphabet = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:_ALPHABET]
    return sorted(alphabet), sorted(continuing.intersection(alphabet))


def _bert_tokenizer(tokenizer: Tokenizer, lowercase: bool) -> Tokenizer:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer
