"""The tokenizer files of a Hugging Face model folder, made from a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from bertjobs.data.text.normalisation import CONFIG_FILE
from bertjobs.data.text.vocabulary import TOKENIZER_FILE, TOKENS_FILE, Vocabulary


def write_tokenizer(folder: Path, vocabulary_path: Path, *, lowercase: bool, max_length: int) -> int:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json; the same bytes for the same arguments.

    Args:
        folder: exists.
        vocabulary_path: the vocab.txt of a data folder, or of any other name; copied byte for byte, so that its
            sha256 stays. The tokenizer.json or tokenizer_config.json beside a vocab.txt says how text becomes tokens.
        lowercase: whether text is lower-cased and stripped of accents first, where there is only a vocab.txt.
        max_length: tokens in the longest sequence that the model takes.

    Returns:
        The number of tokens in the vocabulary.

    Raises:
        InputError: as in ``Vocabulary.read`` and ``Vocabulary.of_folder``.
    """
    if vocabulary_path.name == TOKENS_FILE:
        vocabulary = Vocabulary.of_folder(vocabulary_path.parent, lowercase)
    else:
        vocabulary = Vocabulary.read(vocabulary_path, lowercase)
    write_vocabulary(folder, vocabulary, max_length)
    return vocabulary.size


def write_vocabulary(folder: Path, vocabulary: Vocabulary, max_length: int) -> None:
    """Write the same three files of a vocabulary that has been read."""
    (folder / TOKENS_FILE).write_bytes(vocabulary.tokens_file)
    text = vocabulary.tokenizer().to_str(pretty=True)
    (folder / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")
    config = vocabulary.config() | {"model_max_length": max_length}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
