"""BERT's WordPiece vocabulary: reading one, and writing it into folders."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertjobs.data.text.normalisation import CONFIG_FILE, Normalisation, read_config
from bertjobs.data.text.normalisation_guess import guessed
from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json, write_text
from bertjobs.slurm.shell import quote

if TYPE_CHECKING:
    from bertjobs.data.text.wordpiece import WordPieceEncoder

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS_FILE, TOKENIZER_FILE = "vocab.txt", "tokenizer.json"

BERTS_WORD_LIMIT = 100
"""Characters of a word at most, in BERT's tokenizer: a longer one becomes [UNK]."""

_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_TRAIN_ONE = "a WordPiece vocabulary is needed: `bertjobs data vocab` trains one"


def beside(tokens_file: Path, name: str) -> Path:
    """Where a vocabulary's other file is: ``NAME`` beside vocab.txt, ``words.NAME`` beside words.txt."""
    stem = tokens_file.name.removesuffix(".txt")
    return tokens_file.with_name(name if tokens_file.name == TOKENS_FILE else f"{stem}.{name}")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id, and how text becomes tokens.

    Attributes:
        tokens: a token's place is its id, which is its line number in vocab.txt, from 0.
        sha256: of the bytes of vocab.txt, 64 hex digits.
        normalisation: how text is changed before it is looked up.
        tokens_file: the bytes of vocab.txt; one token per line where a tokenizer.json was read.
        tokenizer_file: the text of tokenizer.json; None if a vocab.txt was read.
    """

    tokens: tuple[str, ...] = field(repr=False)
    sha256: str
    normalisation: Normalisation
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

    @property
    def lowercase(self) -> bool:
        """Whether text is lowercased before it is encoded."""
        return self.normalisation.lowercase

    @property
    def tokenizer_sha256(self) -> str:
        """Names how text becomes tokens: the sha256 of tokenizer.json; where there is none, of the normalisation if it
        is not BERT's own, else of an empty text."""
        if self.tokenizer_file is not None:
            return hashlib.sha256(self.tokenizer_file.encode()).hexdigest()
        own = self.normalisation == Normalisation.berts(self.lowercase)
        return hashlib.sha256(b"" if own else json.dumps(self.normalisation.config()).encode()).hexdigest()

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Which tokens begin with ``##``, and so continue the word of the token before: ``[size]``."""
        return np.array([token.startswith("##") for token in self.tokens], dtype=np.bool_)

    @classmethod
    def read(cls, path: Path | str, lowercase: bool | None = None) -> Vocabulary:
        """Read a vocab.txt (UTF-8, one token per line), or a Hugging Face tokenizer file (its name ends with .json).

        Args:
            path: the file.
            lowercase: whether a vocab.txt is of lowercased text, with BERT's own normaliser. None guesses by the
                tokens, for readers that need nothing but these; see ``choose_vocabulary`` for text to be encoded.
                A tokenizer.json states it itself.

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

        Args:
            folder: a data folder, or a checkpoint.
            lowercase: as for ``read``, where no file states it: in folders of earlier versions.

        Raises:
            InputError: as ``read``; or a file beside vocab.txt is damaged, or holds other tokens.
        """
        vocabulary = cls.read(Path(folder) / TOKENS_FILE, lowercase)
        if whole := vocabulary.tokenizer_beside(Path(folder) / TOKENIZER_FILE):
            return whole
        written = read_config(Path(folder) / CONFIG_FILE)
        return replace(vocabulary, normalisation=written) if written else vocabulary

    def tokenizer_beside(self, path: Path) -> Vocabulary | None:
        """The same tokens as a tokenizer.json has them; None if there is none.

        Raises:
            InputError: as ``read``; or it holds other tokens.
        """
        if not path.exists():
            return None
        whole = type(self).read(path)
        if whole.tokens != self.tokens:
            what = f"{path.name} and the vocab.txt beside it hold different tokens"
            raise InputError(what, where=str(path.parent), hint="remove the one that does not belong there")
        return whole

    def write(self, folder: Path | str) -> None:
        """Write vocab.txt and, where it was read from one, tokenizer.json, byte for byte as they were given; and
        tokenizer_config.json."""
        folder = Path(folder)
        write_text(folder / TOKENS_FILE, self.tokens_file.decode("utf-8"))
        if self.tokenizer_file is not None:
            write_text(folder / TOKENIZER_FILE, self.tokenizer_file)
        write_json(folder / CONFIG_FILE, self.config())

    def config(self) -> dict[str, Any]:
        """What Hugging Face's tokenizer_config.json states.

        Its class BertTokenizer makes its own normaliser and takes words of 100 characters at most, so that only a plain
        vocab.txt can be read by it.
        """
        if self.tokenizer_file is None:
            return _ROLES | self.normalisation.config() | {"tokenizer_class": "BertTokenizer"}
        tokenizer = Tokenizer.from_str(self.tokenizer_file)
        only_longer_words = is_berts(tokenizer) and tokenizer.model.max_input_chars_per_word > BERTS_WORD_LIMIT
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return (
            _ROLES
            | (self.normalisation.config() if only_longer_words else {})  # for who asks for BertTokenizer by name
            | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
        )

    def facts(self) -> dict[str, Any]:
        """What MANIFEST.json states."""
        normalisation = self.normalisation
        return {"sha256": self.sha256, "size": self.size, "lowercase": normalisation.lowercase,
                "strip_accents": normalisation.strip_accents}  # fmt: skip

    def tokenizer(self) -> Tokenizer:
        """The reference tokenizer, a new one: [CLS] A [SEP] B [SEP], neither truncated nor padded."""
        if self.tokenizer_file is None:
            return bert_tokenizer(self.tokens, self.normalisation)
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
        from bertjobs.data.text.wordpiece import WordPieceEncoder  # here: who encodes nothing needs no pyarrow

        tokenizer = self.tokenizer()
        by_words = is_berts(tokenizer)
        ideographs = by_words and tokenizer.normalizer.handle_chinese_chars
        return WordPieceEncoder(tokenizer, by_words=by_words, lowercase=self.lowercase, ideographs=ideographs)

    @classmethod
    def _of_tokens_file(cls, content: bytes, text: str, lowercase: bool | None, where: str) -> Vocabulary:
        if text.startswith("\ufeff"):
            raise InputError("the vocabulary begins with a byte order mark, which would be a part of its first token",
                             where=f"{where}, line 1", hint=f"remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {quote(where)}"
                             )  # fmt: skip
        lines = text.removesuffix("\n").split("\n")
        tokens = tuple(line.removesuffix("\r") for line in lines) if "\r" in text else tuple(lines)
        try:
            ids = _special_ids(tokens, where)
        except InputError:
            check_lines(tokens, where)  # which may be why
            raise
        normalisation = guessed(tokens) if lowercase is None else Normalisation.berts(lowercase)
        return cls(tokens, hashlib.sha256(content).hexdigest(), normalisation, content, None, *ids)

    @classmethod
    def _of_tokenizer_file(cls, text: str, where: str) -> Vocabulary:
        tokenizer = _parse_tokenizer(text, where)
        tokens = _tokens_by_id(tokenizer, where)
        ids = _special_ids(tokens, where)
        content = "".join(f"{token}\n" for token in tokens).encode()
        normalisation = Normalisation.of_tokenizer(tokenizer)
        return cls(tokens, hashlib.sha256(content).hexdigest(), normalisation, content, text, *ids)


def check_lines(tokens: Sequence[str], where: str) -> None:
    """InputError that names the first line of a vocab.txt that is not a token.

    A line cannot be skipped or mended here: its number is the token's id, and other programs read the same file.
    """
    for number, token in enumerate(tokens, 1):
        if token and token[0] not in " \t" and token[-1] not in " \t":
            continue
        line = f"{where}, line {number}"
        if not token.strip(" \t"):
            raise InputError("the line is empty", where=line,
                             hint="delete it if it is the last; write an unused token, such as [unused0], into another "
                             "one, which keeps the ids of those after it")  # fmt: skip
        mend = f"sed -i 's/^[ \\t]*//; s/[ \\t]*\\(\\r\\?\\)$/\\1/' {quote(where)}"
        raise InputError(f"the token {token!r} begins or ends with a space", where=line, hint=f"remove them: {mend}")


def _special_ids(tokens: Sequence[str], where: str) -> list[int]:
    """The ids of ``SPECIAL_TOKENS``; InputError if a token is listed twice or one of these is missing."""
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        token, (first, second) = _first_repeated(tokens)
        raise InputError(
            f"the vocabulary holds {token!r} twice, as ids {first} and {second}",
            where=where,
            hint=f"lines {first + 1} and {second + 1} of a vocab.txt: one of them has to be another token",
        )
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"the vocabulary lacks {', '.join(missing)}", where=where, hint=_TRAIN_ONE)
    return [ids[token] for token in SPECIAL_TOKENS]


def _first_repeated(tokens: Sequence[str]) -> tuple[str, tuple[int, int]]:
    """The first token that is listed again, and its first two ids."""
    ids: dict[str, int] = {}
    return next(
        (token, (ids[token], number)) for number, token in enumerate(tokens) if ids.setdefault(token, number) != number
    )


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


def is_berts(tokenizer: Tokenizer) -> bool:
    """Whether text may be cut into words first: BERT's normaliser and pre-tokenizer, no tokens searched in text."""
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    )


def bert_tokenizer(
    tokens: Sequence[str], normalisation: Normalisation, word_limit: int = BERTS_WORD_LIMIT
) -> Tokenizer:
    """BERT's tokenizer: clean, split at spaces, punctuation and CJK, WordPiece, [CLS] A [SEP] B [SEP].

    Args:
        tokens: by id.
        normalisation: of the text.
        word_limit: characters of a word at most: a longer one becomes [UNK].
    """
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=word_limit))
    tokenizer.normalizer = normalisation.normaliser()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = _post_processor(ids["[CLS]"], ids["[SEP]"])
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(_special_tokens(tokens))
    return tokenizer


def _post_processor(cls_id: int, sep_id: int) -> processors.BertProcessing:
    return processors.BertProcessing(("[SEP]", sep_id), ("[CLS]", cls_id))


def _special_tokens(tokens: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in sorted(SPECIAL_TOKENS, key=tokens.index)]
