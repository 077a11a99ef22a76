"""The tokenizer files of a Hugging Face model folder, made from a vocabulary file."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertjobs.errors import InputError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id of a ``vocab.txt``: one WordPiece token a line, its id the line's number from 0.

    Raises:
        InputError: no such file, not UTF-8, a token that is there twice, or a special token missing.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            tokens = [line.removesuffix("\n") for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the vocabulary cannot be read: {error}", where=str(path)) from error
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if ids.setdefault(token, number) != number:
            where = f"{path}, lines {ids[token] + 1} and {number + 1}"
            raise InputError(f"the vocabulary holds {token!r} twice", where=where)
    missing = [token for token in SPECIAL_TOKENS.values() if token not in ids]
    if missing:
        raise InputError(f"the vocabulary lacks {', '.join(missing)}", where=str(path))
    return ids


def write_tokenizer(folder: Path, vocabulary_path: Path, *, lowercase: bool, max_length: int) -> int:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json; the same bytes for the same arguments.

    Args:
        folder: exists.
        vocabulary_path: a WordPiece ``vocab.txt``; copied byte for byte, so that its sha256 stays.
        lowercase: whether text is lower-cased and stripped of accents first.
        max_length: tokens in the longest sequence that the model takes.

    Returns:
        The number of tokens in the vocabulary.

    Raises:
        InputError: as in ``read_vocabulary``.
    """
    ids = read_vocabulary(vocabulary_path)
    (folder / "vocab.txt").write_bytes(vocabulary_path.read_bytes())
    text = _wordpiece(ids, lowercase).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    config = {
        **SPECIAL_TOKENS,
        "do_lower_case": lowercase,
        "model_max_length": max_length,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return len(ids)


def _wordpiece(ids: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer: clean, split at spaces, punctuation and CJK, WordPiece, [CLS] A [SEP] B [SEP]."""
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    specials = sorted(SPECIAL_TOKENS.values(), key=lambda token: ids[token])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer
