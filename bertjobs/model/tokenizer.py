"""The tokenizer files of a Hugging Face model folder, made from a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

from bertjobs.data.text.vocabulary import TOKENIZER_FILE, TOKENS_FILE, Vocabulary

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def write_tokenizer(folder: Path, vocabulary_path: Path, *, lowercase: bool, max_length: int) -> int:
    """Write vocab.txt, tokenizer.json and tokenizer_config.json; the same bytes for the same arguments.

    Args:
        folder: exists.
        vocabulary_path: the vocab.txt of a data folder, or of any other name; copied byte for byte, so that its
            sha256 stays. A tokenizer.json that lies beside a vocab.txt says how text becomes tokens.
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
    (folder / TOKENS_FILE).write_bytes(vocabulary.tokens_file)
    text = vocabulary.tokenizer().to_str(pretty=True)
    (folder / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")
    config = SPECIAL_TOKENS | {"model_max_length": max_length} | _how_to_load(vocabulary)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return vocabulary.size


def _how_to_load(vocabulary: Vocabulary) -> dict[str, object]:
    """Hugging Face's class BertTokenizer makes its own normaliser, so only a plain vocab.txt can be read by it."""
    if vocabulary.tokenizer_file is not None:
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    return {
        "do_lower_case": vocabulary.lowercase,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
