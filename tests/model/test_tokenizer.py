"""The tokenizer files of a checkpoint produce the ids that the data consist of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertTokenizer

from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_choice import choose_vocabulary
from bertjobs.model.tokenizer import write_tokenizer

TEXTS = ["The Cat sat on 中文 Ünïcode, unaffable!", "", "a\x85b\u00a0c e\u0301 [MASK] 😀 " + "x" * 101]


def _as_it_is(content: dict[str, Any]) -> None:
    pass


def _cased(content: dict[str, Any]) -> None:
    content["normalizer"].update(lowercase=False, strip_accents=True, handle_chinese_chars=False, clean_text=False)


def _not_berts(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def _bare(content: dict[str, Any]) -> None:
    content.update(added_tokens=[], post_processor=None, decoder=None, truncation=None, padding=None)


@pytest.mark.parametrize("change", [_as_it_is, _cased, _not_berts, _bare])
def test_a_tokenizer_file_beside_the_vocabulary_wins(
    minilm: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    content = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    given, data, checkpoint, again = (tmp_path / name for name in ("given.json", "data", "checkpoint", "again"))
    given.write_text(json.dumps(content), encoding="utf-8")
    for folder in (data, checkpoint, again):
        folder.mkdir()
    vocabulary = Vocabulary.read(given)
    vocabulary.write(data)
    for folder in (checkpoint, again):
        assert write_tokenizer(folder, data / "vocab.txt", lowercase=True, max_length=512) == 30_522
    names = {"vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in checkpoint.iterdir()} == names
    assert all((checkpoint / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (checkpoint / "vocab.txt").read_bytes() == (data / "vocab.txt").read_bytes()

    loaded = AutoTokenizer.from_pretrained(checkpoint)
    ids, lengths = vocabulary.encoder().encode(TEXTS)
    theirs = loaded(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [len(row) for row in theirs] == lengths.tolist()
    assert [token for row in theirs for token in row] == ids.tolist()
    pair = loaded("one", "two")
    assert loaded.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "one", "[SEP]", "two", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert (loaded.mask_token_id, loaded.pad_token_id, loaded.model_max_length) == (103, 0, 512)
    assert loaded.tokenize("[MASK]") == ["[MASK]"]
    assert Vocabulary.of_folder(checkpoint).encoder().encode(TEXTS)[0].tolist() == ids.tolist()


def test_a_long_text_is_neither_cut_nor_padded_by_the_file_itself(minilm: Path, tmp_path: Path) -> None:
    assert json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))["truncation"]["max_length"] == 128
    write_tokenizer(tmp_path, minilm / "vocab.txt", lowercase=True, max_length=512)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded("word " * 300)["input_ids"]) == 302
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert (content["truncation"], content["padding"]) == (None, None)


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_lone_vocabulary_of_any_name_is_read_as_berts(minilm: Path, tmp_path: Path, lowercase: bool) -> None:
    path = tmp_path / "words"
    shutil.copyfile(minilm / "vocab.txt", path)
    write_tokenizer(tmp_path, path, lowercase=lowercase, max_length=512)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids, _ = Vocabulary.read(path, lowercase).encoder().encode(TEXTS)
    theirs = loaded(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [token for row in theirs for token in row] == ids.tolist()
    assert type(loaded).__name__.startswith("BertTokenizer")


@pytest.mark.parametrize("strip_accents", [True, False])
@pytest.mark.parametrize("lowercase", [True, False])
def test_what_is_written_beside_the_vocabulary_counts(
    minilm: Path, tmp_path: Path, lowercase: bool, strip_accents: bool
) -> None:
    data, checkpoint = tmp_path / "data", tmp_path / "checkpoint"
    data.mkdir()
    checkpoint.mkdir()
    normalisation = Normalisation(lowercase, strip_accents)
    replace(Vocabulary.read(minilm / "vocab.txt"), normalisation=normalisation).write(data)
    write_tokenizer(checkpoint, data / "vocab.txt", lowercase=not lowercase, max_length=512)
    ids, _ = Vocabulary.of_folder(data).encoder().encode(TEXTS)
    for kind in (AutoTokenizer, BertTokenizer):
        loaded = kind.from_pretrained(checkpoint)
        theirs = loaded(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert [token for row in theirs for token in row] == ids.tolist()
    for folder in (data, checkpoint):
        assert choose_vocabulary(folder / "vocab.txt").vocabulary.normalisation == normalisation
