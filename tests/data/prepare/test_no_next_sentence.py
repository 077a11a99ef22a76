"""Data without next-sentence pairs, read with safetensors alone and compared with Hugging Face's tokenizer."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import BertTokenizerFast

from bertjobs.cli.main import main
from bertjobs.data.check.inspect import inspect_shards, inspect_target, read_samples
from bertjobs.data.check.target import find_target
from bertjobs.data.check.verify import verify
from bertjobs.data.prepare import PHASES, PhaseShape, PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest, Split
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from tests.data.conftest import quiet

Tokens = tuple[int, ...]
LENGTH, PREDICTIONS = 128, 39
ALONE: dict[str, Any] = {
    "phases": (PhaseShape(1, LENGTH, PREDICTIONS),), "duplicates": 1, "short_sequence_share": 0.0, "shards": 3,
    "held_out": 0.15, "masked_share": 0.3, "next_sentence": False,
}  # fmt: skip


def made(corpus: Path, vocabulary_path: Path, output: Path, **options: Any) -> DataManifest:
    prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(output), **ALONE | options), quiet)
    return DataManifest.read(output)


@pytest.fixture(scope="module")
def within(corpus: Path, small_vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return made(corpus, small_vocabulary_path, tmp_path_factory.mktemp("within") / "data")


@pytest.fixture(scope="module")
def across(corpus: Path, small_vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return made(corpus, small_vocabulary_path, tmp_path_factory.mktemp("across") / "data", across_documents=True)


@pytest.fixture(scope="module")
def masked(corpus: Path, small_vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    output = tmp_path_factory.mktemp("masked") / "data"
    return made(corpus, small_vocabulary_path, output, across_documents=True, masking="static")


@pytest.fixture(scope="module")
def documents(corpus: Path, small_vocabulary_path: Path) -> dict[str, Tokens]:
    """The ids of each document as Hugging Face encodes it whole."""
    tokenizer = BertTokenizerFast(vocab=str(small_vocabulary_path), do_lower_case=True)
    return {
        path.name: tuple(
            tokenizer.convert_tokens_to_ids(tokenizer.tokenize(path.read_text("utf-8"), split_special_tokens=True))
        )
        for path in corpus.glob("*.txt")
    }


def splits(data: DataManifest, documents: dict[str, Tokens]) -> list[tuple[Split, list[Tokens]]]:
    """Each split with its documents."""
    entry, held_out = data.phase(1), set(data.held_out)
    return [
        (entry.train, [ids for name, ids in documents.items() if name not in held_out]),
        (entry.validation, [ids for name, ids in documents.items() if name in held_out]),
    ]


def arrays_of(split: Split) -> list[dict[str, np.ndarray]]:
    return [load_file(split.folder / file.name) for file in split.files]


def rows_of(split: Split) -> list[Tokens]:
    """The text of each row, from the files alone."""
    rows = []
    for arrays in arrays_of(split):
        ids = arrays["ids"].tolist()
        rows += [tuple(ids[start:stop]) for start, stop in pairwise(arrays["offsets"].tolist())]
    return rows


def test_each_document_is_in_the_shards_once_cut_where_a_sequence_is_full(
    within: DataManifest, documents: dict[str, Tokens]
) -> None:
    for split, texts in splits(within, documents):
        cuts = [text[start : start + LENGTH - 2] for text in texts for start in range(0, len(text), LENGTH - 2)]
        assert len(cuts) > len(texts) > 1
        assert Counter(rows_of(split)) == Counter(cuts)
        assert split.tokens == sum(len(cut) + 2 for cut in cuts)
        assert split.pairs["tokens_used"] == split.pairs["tokens"] == sum(map(len, texts))


def test_across_documents_all_but_one_sequence_of_a_bucket_are_full(
    across: DataManifest, documents: dict[str, Tokens]
) -> None:
    separator = Vocabulary.read(across.vocabulary_path).sep_id
    for split, texts in splits(across, documents):
        rows = rows_of(split)
        tokens = Counter(token for row in rows for token in row)
        del tokens[separator]
        assert tokens == Counter(token for text in texts for token in text)
        assert sum(len(row) < LENGTH - 2 - 1 for row in rows) <= 1
        parts = [part for row in rows for part in parts_of(row, separator)]
        joined = [f" {' '.join(map(str, text))} " for text in texts]
        assert all(any(f" {' '.join(map(str, part))} " in text for text in joined) for part in parts)
        # Where a separator stands, a document ends and another one begins.
        inner = [(one, other) for row in rows for one, other in pairwise(parts_of(row, separator))]
        assert len(inner) > len(texts) / 2
        assert all(any(text[-len(one) :] == one for text in texts) for one, _ in inner)
        assert all(any(text[: len(other)] == other for text in texts) for _, other in inner)


def parts_of(row: Tokens, separator: int) -> list[Tokens]:
    """A row's text, document by document; none is empty."""
    parts: list[list[int]] = [[]]
    for token in row:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    assert all(parts)
    return [tuple(part) for part in parts]


@pytest.mark.parametrize("name", ["within", "across", "masked"])
def test_a_row_has_no_second_segment(name: str, request: pytest.FixtureRequest) -> None:
    data: DataManifest = request.getfixturevalue(name)
    assert not data.next_sentence
    for split in (data.phase(1).train, data.phase(1).validation):
        for arrays in arrays_of(split):
            assert arrays["a_lengths"].tolist() == np.diff(arrays["offsets"]).tolist()
            assert not arrays["is_random_next"].any()


def test_static_masks_spare_the_separators(masked: DataManifest, across: DataManifest) -> None:
    """Put back, the masked tokens give the rows that the same prepare without masks has."""
    vocabulary = Vocabulary.read(masked.vocabulary_path)
    rows, counts, labels, seen = [], [], [], []
    for arrays in arrays_of(masked.phase(1).train):
        offsets, ids = arrays["offsets"], arrays["ids"].copy()
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(arrays["mask_offsets"]))
        places = offsets[owners] + arrays["mask_positions"] - 1
        labels.append(arrays["mask_labels"])
        seen.append(ids[places])
        ids[places] = arrays["mask_labels"]
        counts += np.diff(arrays["mask_offsets"]).tolist()
        rows += [tuple(ids[start:stop].tolist()) for start, stop in pairwise(offsets.tolist())]
    assert rows == rows_of(across.phase(1).train)
    assert any(vocabulary.sep_id in row for row in rows)
    assert counts == [max(1, min(PREDICTIONS, round(0.3 * (len(row) + 2)))) for row in rows]
    flat_labels, flat_seen = np.concatenate(labels), np.concatenate(seen)
    assert vocabulary.sep_id not in flat_labels
    as_mask = np.count_nonzero(flat_seen == vocabulary.mask_id) / len(flat_seen)
    assert abs(as_mask - 0.8) < 5 * math.sqrt(0.8 * 0.2 / len(flat_seen))


def test_any_place_of_the_text_may_be_masked(masked: DataManifest) -> None:
    """The masks of full rows: each of the 126 places about equally often."""
    arrays = arrays_of(masked.phase(1).train)
    positions = np.concatenate([one["mask_positions"] for one in arrays])
    often = np.bincount(positions, minlength=LENGTH)
    assert often[0] == 0 == often[LENGTH - 1 :].sum()
    rows = sum(len(one["a_lengths"]) for one in arrays)
    assert abs(often[1 : LENGTH - 2] / rows - 0.3).max() < 6 * math.sqrt(0.3 * 0.7 / rows)


@pytest.mark.parametrize("name", ["within", "across", "masked"])
def test_verify_and_inspect_read_it(name: str, request: pytest.FixtureRequest) -> None:
    data: DataManifest = request.getfixturevalue(name)
    assert verify(data, 1, lambda *_: None) == []
    target = find_target(data.folder)
    inspections = inspect_target(target, lambda *_: None)
    assert [one.wrong for one in inspections.values()] == [(), ()]
    train = inspections["phase 1 train"].total
    assert (train.rows, train.pairs, train.random_next) == (data.phase(1).train.rows, 0, 0)
    for sample in read_samples(target, target.parts[0], 40, 0):
        assert (sample.b, sample.is_random_next) == (None, None)
        assert abs(sample.masks - 0.3 * sample.num_tokens) <= 1
        assert "[[SEP]→" not in sample.a


def test_a_shard_that_says_otherwise_than_its_manifest_is_refused(within: DataManifest, dynamic: DataManifest) -> None:
    for data, words in ((within, "have no A or no B"), (dynamic, "have no text, or a B")):
        target = find_target(data.folder)
        part = target.parts[0]
        expected = [*inspect_other(part, target, not data.next_sentence)]
        assert expected
        assert all(words in what for what in expected)


def inspect_other(part: Any, target: Any, next_sentence: bool) -> list[str]:
    """What is wrong with a part's shards, if they are expected to be of the other form."""
    expected = replace(part.expected, next_sentence=next_sentence)
    filled = [shard for shard in part.shards if shard.entry.rows]
    return [what for _, what in inspect_shards(filled, expected, target.vocabulary, lambda _: None).wrong]


def test_pairs_are_recorded_as_they_were_before(dynamic: DataManifest, within: DataManifest) -> None:
    """The sha256 of the settings is in each shard: a setting of another objective would change them all."""
    assert dynamic.next_sentence
    assert not {"next_sentence", "across_documents"} & dynamic.settings.keys()
    assert within.settings["next_sentence"] is False
    assert within.settings["across_documents"] is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "lddl"}, "LDDL's form holds next-sentence pairs"),
        ({"across_documents": True, "next_sentence": True}, "add --no-next-sentence"),
        ({"across_documents": True, "short_sequence_share": 0.1}, "--short-sequence-share"),
    ],
)
def test_what_does_not_go_together_is_refused(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        made(corpus, vocabulary_path, tmp_path / "data", **options)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("share", "predictions"), [(0.15, (20, 80)), (0.3, (39, 154)), (0.25, (32, 128))])
def test_the_most_masked_tokens_follow_from_the_share(share: float, predictions: tuple[int, int]) -> None:
    for phase, expected in zip((1, 2), predictions, strict=True):
        assert PhaseShape.parse(f"{phase}", share).max_predictions == expected
        length = PHASES[phase].sequence_length
        assert PhaseShape.parse(f"3:{length}", share) == PhaseShape(3, length, expected)
    assert PhaseShape.parse("3:256:7", share).max_predictions == 7


def test_from_the_command_line(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "data")
    words = ["data", "prepare", "--corpus", f"text:{corpus}", "--vocab", str(vocabulary_path), "--output", output]
    more = ["--no-next-sentence", "--across-documents", "--masked-share", "0.3", "--phases", "1", "--processes", "1"]
    assert main([*words, *more]) == 0
    printed = capsys.readouterr().out
    assert "sequences of contiguous text, across documents, for masked words alone" in printed
    assert printed.count(", 100.0% of the text's tokens used") == 2
    assert f"--data {output} --set next_sentence=false --set masked_share=0.3" in printed
    settings = DataManifest.read(output).settings
    assert (settings["duplicates"], settings["short_sequence_share"], settings["phases"]) == (1, 0.0, [[1, 128, 39]])
    assert main(["data", "inspect", output, "--samples", "2"]) == 0
    printed = capsys.readouterr().out
    assert "random next, " not in printed
    assert "masked, follows" not in printed
    assert "[SEP]" in printed
    assert main(["data", "inspect", output, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {sample["b"] for sample in content["parts"]["phase 1 train"]["samples"]} == {None}
