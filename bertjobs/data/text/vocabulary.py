"""BERT's WordPiece vocabulary: reading one, writing it into folders, training a new one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertjobs.data.text.wordpiece import WordPieceEncoder
from bertjobs.errors import InputError
from bertjobs.files.atomic import write_text
from bertjobs.files.faults import not_written

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS_FILE, TOKENIZER_FILE = "vocab.txt", "tokenizer.json"

_ALPHABET = 1000  # most frequent characters that a trained vocabulary holds
_COVERAGE = 0.9995  # of a text's characters, by more characters than these where it needs them
_COUNTED_WORDS = 2_000_000  # distinct words that training remembers
_REPEATED = 1000  # occurrences of a word in one text for the trainer
_TRAIN_ONE = "a WordPiece vocabulary is needed: `bertjobs data vocab` trains one"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id, and how text becomes tokens.

    Attributes:
        tokens: a token's place is its id, which is its line number in vocab.txt, from 0.
        sha256: of the bytes of vocab.txt, 64 hex digits.
        lowercase: text is lowercased before it is encoded; from a vocab.txt its accents are dropped as well.
        tokens_file: the bytes of vocab.txt; one token per line where a tokenizer.json was read.
        tokenizer_file: the text of tokenizer.json; None if a vocab.txt was read.
    """

    tokens: tuple[str, ...] = field(repr=False)
    sha256: str
    lowercase: bool
    tokens_file: bytes = field(repr=False)
    tokenizer_file: str | None = field(repr=False)
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Which tokens begin with ``##``, and so continue the word of the token before: ``[size]``."""
        return np.array([token.startswith("##") for token in self.tokens], dtype=np.bool_)

    @classmethod
    def read(cls, path: Path | str, lowercase: bool | None = None) -> Vocabulary:
        """Read a vocab.txt (UTF-8, one token per line), or a Hugging Face tokenizer file (its name ends with .json).

        Args:
            path: the file.
            lowercase: whether a vocab.txt is of lowercased text. None decides by the tokens: one with an
                upper-case letter is cased. A tokenizer.json states it itself.

        Raises:
            InputError: unreadable, empty, not UTF-8, a token listed twice, one of ``SPECIAL_TOKENS`` missing; a
                tokenizer.json that is damaged, is not WordPiece, or leaves ids out.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"the vocabulary cannot be read: {error.strerror}", where=str(path)) from error
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError("the vocabulary is not UTF-8 text", where=str(path), hint=_TRAIN_ONE) from error
        if not text.strip():
            raise InputError("the vocabulary is empty", where=str(path), hint=_TRAIN_ONE)
        if path.suffix == ".json":
            return cls._of_tokenizer_file(text, str(path))
        return cls._of_tokens_file(content, text, lowercase, str(path))

    @classmethod
    def of_folder(cls, folder: Path | str, lowercase: bool | None = None) -> Vocabulary:
        """Read what ``write`` put into a folder: its tokenizer.json where there is one, else its vocab.txt.

        Raises:
            InputError: as ``read``; or the two files hold different tokens.
        """
        tokens_file, tokenizer_file = Path(folder) / TOKENS_FILE, Path(folder) / TOKENIZER_FILE
        vocabulary = cls.read(tokens_file, lowercase)
        if not tokenizer_file.exists():
            return vocabulary
        whole = cls.read(tokenizer_file)
        if whole.tokens != vocabulary.tokens:
            what = f"{TOKENIZER_FILE} and {TOKENS_FILE} hold different tokens"
            raise InputError(what, where=str(folder), hint="remove the one that does not belong there")
        return whole

    def write(self, folder: Path | str) -> None:
        """Write vocab.txt and, where it was read from one, tokenizer.json; byte for byte as they were given."""
        folder = Path(folder)
        write_text(folder / TOKENS_FILE, self.tokens_file.decode("utf-8"))
        if self.tokenizer_file is not None:
            write_text(folder / TOKENIZER_FILE, self.tokenizer_file)

    def tokenizer(self) -> Tokenizer:
        """The reference tokenizer, a new one: [CLS] A [SEP] B [SEP], neither truncated nor padded."""
        if self.tokenizer_file is None:
            return _bert_tokenizer(self.tokens, self.lowercase)
        tokenizer = Tokenizer.from_str(self.tokenizer_file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Also where the file does not list them: the model reads them, so text must never make them.
        listed = {str(token) for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        tokenizer.add_special_tokens([token for token in _special_tokens(self.tokens) if str(token) not in listed])
        if tokenizer.post_processor is None:
            tokenizer.post_processor = _post_processor(self.cls_id, self.sep_id)
        return tokenizer

    def encoder(self) -> WordPieceEncoder:
        """An encoder for text, equal to ``tokenizer()`` without special tokens."""
        tokenizer = self.tokenizer()
        by_words = _is_berts(tokenizer)
        ideographs = by_words and tokenizer.normalizer.handle_chinese_chars
        return WordPieceEncoder(tokenizer, by_words=by_words, lowercase=self.lowercase, ideographs=ideographs)

    @classmethod
    def _of_tokens_file(cls, content: bytes, text: str, lowercase: bool | None, where: str) -> Vocabulary:
        tokens = tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
        if lowercase is None:
            lowercase = not any(token != token.lower() for token in tokens if not token.startswith("["))
        ids = _special_ids(tokens, where)
        return cls(tokens, hashlib.sha256(content).hexdigest(), lowercase, content, None, *ids)

    @classmethod
    def _of_tokenizer_file(cls, text: str, where: str) -> Vocabulary:
        tokenizer = _parse_tokenizer(text, where)
        tokens = _tokens_by_id(tokenizer, where)
        ids = _special_ids(tokens, where)
        content = "".join(f"{token}\n" for token in tokens).encode()
        normaliser = tokenizer.normalizer
        lowercase = normaliser is not None and normaliser.normalize_str("A") == "a"
        return cls(tokens, hashlib.sha256(content).hexdigest(), lowercase, content, text, *ids)


def _special_ids(tokens: Sequence[str], where: str) -> list[int]:
    """The ids of ``SPECIAL_TOKENS``; InputError if a token is listed twice or one of these is missing."""
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if ids.setdefault(token, number) != number:
            what = f"the vocabulary holds {token!r} twice, as ids {ids[token]} and {number}"
            raise InputError(what, where=where)
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"the vocabulary lacks {', '.join(missing)}", where=where, hint=_TRAIN_ONE)
    return [ids[token] for token in SPECIAL_TOKENS]


def _parse_tokenizer(text: str, where: str) -> Tokenizer:
    try:
        content = json.loads(text, object_pairs_hook=_object_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the tokenizer file is damaged: {error}", where=where) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "vocab" not in model:
        raise InputError("the file is not a Hugging Face tokenizer.json: it has no model with tokens", where=where)
    kind = model.get("type", "WordPiece" if "max_input_chars_per_word" in model else "unnamed")
    if kind != "WordPiece":
        raise InputError(f"the tokenizer's model is {kind}, not WordPiece", where=where, hint=_TRAIN_ONE)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise InputError(f"the tokenizer file is damaged: {error}", where=where) from error


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it holds {twice!r} twice")
    return content


def _tokens_by_id(tokenizer: Tokenizer, where: str) -> tuple[str, ...]:
    entries = sorted((number, token) for token, number in tokenizer.get_vocab(with_added_tokens=True).items())
    for place, (number, token) in enumerate(entries):
        if number > place:
            raise InputError(f"the tokenizer has no token of id {place}, but one of id {number}", where=where)
        if number < place:
            raise InputError(f"{entries[place - 1][1]!r} and {token!r} both have the id {number}", where=where)
        if "\n" in token or token.endswith("\r"):
            raise InputError(f"the token {token!r} holds a line break, which a vocab.txt cannot hold", where=where)
    return tuple(token for _, token in entries)


def _is_berts(tokenizer: Tokenizer) -> bool:
    """Whether text may be cut into words first: BERT's normaliser and pre-tokenizer, no tokens searched in text."""
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    )


def _bert_tokenizer(tokens: Sequence[str], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer: clean, split at spaces, punctuation and CJK, WordPiece, [CLS] A [SEP] B [SEP]."""
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = _post_processor(ids["[CLS]"], ids["[SEP]"])
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(_special_tokens(tokens))
    return tokenizer


def _post_processor(cls_id: int, sep_id: int) -> processors.BertProcessing:
    return processors.BertProcessing(("[SEP]", sep_id), ("[CLS]", cls_id))


def _special_tokens(tokens: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in sorted(SPECIAL_TOKENS, key=tokens.index)]


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
    from tokenizers.trainers import WordPieceTrainer

    path = Path(output)
    if path.exists():
        raise InputError(f"{str(path)!r} exists", where="--output", hint="choose another file or remove it")
    words = _count_words(sources, normalizers.BertNormalizer(lowercase=lowercase))
    alphabet, continuing = _characters(words, size)
    # The trainer breaks ties by token id and numbers "##x" in the order of a hash table, which changes from
    # run to run. Naming these tokens beforehand fixes their ids, and so the whole vocabulary.
    first = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in continuing)]
    if size <= len(first):
        raise InputError(
            f"a vocabulary of {size} tokens has no room: the text has {len(first)} single characters",
            where="--size",
            hint=f"try {max(8000, 2 * len(first))}",
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
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(_repeated(words), trainer)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{token}\n" for token, _ in tokens))
    except OSError as error:
        raise not_written(str(path), error, "--output") from error


def _count_words(sources: Sequence[str], normaliser: normalizers.BertNormalizer) -> Counter[str]:
    """How often each normalised word occurs. If there are too many, the rarest are dropped."""
    from bertjobs.data.corpus import documents  # here: reading a vocabulary needs no corpus

    words: Counter[str] = Counter()
    for source in sources:
        for document in documents(source):
            words.update(normaliser.normalize_str(document.text).split())
            if len(words) > _COUNTED_WORDS:
                words = _most_frequent(words, _COUNTED_WORDS // 2)
    return words


def _most_frequent(words: Counter[str], at_most: int) -> Counter[str]:
    least = 1
    while len(words) > at_most:
        words = Counter({word: count for word, count in words.items() if count > least})
        least *= 2
    return words


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Each word as often as it was counted, in texts of bounded length: the trainer takes no counts."""
    for word, count in words.items():
        for done in range(0, count, _REPEATED):
            yield f"{word} " * min(_REPEATED, count - done)


def _characters(words: Counter[str], size: int) -> tuple[list[str], list[str]]:
    """The text's most frequent characters, and those of them that occur inside words; both sorted.

    A thousand of them; more where these leave out over 0.05% of a text of many ideographs, as SentencePiece
    does (Kudo and Richardson, arXiv 1808.06226), up to half of the vocabulary.
    """
    split = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for word, count in words.items():
        for piece, _ in split.pre_tokenize_str(word):
            continuing.update(piece[1:])
            for character in piece:
                counts[character] += count
    frequent = sorted(sorted(counts), key=counts.__getitem__, reverse=True)
    covered = np.cumsum([counts[character] for character in frequent])
    needed = int(np.searchsorted(covered, _COVERAGE * counts.total())) + 1
    alphabet = frequent[: max(_ALPHABET, min(needed, size // 2))]
    return sorted(alphabet), sorted(continuing.intersection(alphabet))
