"""Prepared data: LDDL's schema and names, balance, bins, splits, masks, and the same bytes for the same input."""

from __future__ import annotations

import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import BertTokenizerFast

from bertjobs.data.prepare import PHASES, PrepareOptions, parse_phases, prepare
from bertjobs.data.shards.bins import bin_ids, rows_per_shard
from bertjobs.data.shards.lddl_columns import read_positions
from bertjobs.data.shards.manifest import DataManifest, Split
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import sha256_of
from tests.data.conftest import DOCUMENTS, quiet

PLAIN = [("A", "string"), ("B", "string"), ("is_random_next", "bool"), ("num_tokens", "uint16")]
MASKS = [("masked_lm_positions", "binary"), ("masked_lm_labels", "string")]
BIN = [("bin_id", "int64")]


def _splits(data: DataManifest) -> list[tuple[int, Split]]:
    return [(p.sequence_length, s) for p in data.phases.values() for s in (p.train, p.validation)]


def _rows(split: Split) -> list[dict]:
    return [row for file in split.files for row in pq.read_table(split.folder / file.name).to_pylist()]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("name", "columns"), [("dynamic", PLAIN + BIN), ("static", PLAIN + MASKS + BIN)])
def test_columns_types_and_compression_are_lddls(
    request: pytest.FixtureRequest, name: str, columns: list[tuple[str, str]]
) -> None:
    for _, split in _splits(request.getfixturevalue(name)):
        for file in split.files:
            parquet = pq.ParquetFile(split.folder / file.name)
            schema = parquet.schema_arrow
            assert [(field.name, str(field.type)) for field in schema] == columns
            assert all(field.nullable for field in schema)
            for group in range(parquet.num_row_groups):
                assert parquet.metadata.row_group(group).column(0).compression == "SNAPPY"


def test_names_and_the_file_of_row_counts_are_lddls(dynamic: DataManifest) -> None:
    for length, split in _splits(dynamic):
        expected = {f"shard-{i}.parquet_{b}" for i in range(4) for b in range(length // 64)}
        assert {file.name for file in split.folder.iterdir()} == expected | {".num_samples.json"}
        counts = json.loads((split.folder / ".num_samples.json").read_text())
        assert counts == {name: pq.read_metadata(split.folder / name).num_rows for name in expected}
        assert counts == {file.name: file.rows for file in split.files}


def test_the_manifest_tells_the_truth(dynamic: DataManifest) -> None:
    for _, split in _splits(dynamic):
        for file in split.files:
            path = split.folder / file.name
            assert (file.bytes, file.sha256) == (path.stat().st_size, sha256_of(path))
        assert split.tokens == sum(row["num_tokens"] for row in _rows(split))
    assert sum(dynamic.documents.values()) == DOCUMENTS
    assert len(dynamic.held_out) == dynamic.documents["validation"]


def test_shards_of_a_bin_differ_by_one_row_at_most_and_are_never_all_equal(dynamic: DataManifest) -> None:
    for _, split in _splits(dynamic):
        for number in {file.bin for file in split.files}:
            rows = [file.rows for file in split.files if file.bin == number]
            assert max(rows) - min(rows) == (1 if sum(rows) else 0)


def test_each_row_is_in_its_bin_and_its_length_is_right(dynamic: DataManifest) -> None:
    for length, split in _splits(dynamic):
        for file in split.files:
            for row in pq.read_table(split.folder / file.name).to_pylist():
                assert row["num_tokens"] == len(row["A"].split(" ")) + len(row["B"].split(" ")) + 3 <= length
                assert row["bin_id"] == file.bin == min((row["num_tokens"] - 1) // 64, length // 64 - 1)


def test_no_document_is_both_trained_on_and_held_out(dynamic: DataManifest) -> None:
    """Each document has its own word, "docX", so its tokens show where a row comes from."""
    held_out = {f"doc{chr(97 + int(name[7:9]))}" for name in dynamic.held_out}
    assert held_out
    for phase in dynamic.phases.values():
        for split, expected in ((phase.train, False), (phase.validation, True)):
            text = " ".join(f"{row['A']} {row['B']}" for row in _rows(split)).replace(" ##", "")
            names = {word for word in text.split() if word.startswith("doc") and len(word) == 4}
            assert names
            assert {word in held_out for word in names} == {expected}


def test_sequences_are_the_text_of_the_corpus(dynamic: DataManifest, corpus: Path, vocabulary_path: Path) -> None:
    """A and a true B follow each other in some document, token for token as Hugging Face encodes them."""
    tokenizer = BertTokenizerFast(vocab=str(vocabulary_path), do_lower_case=True)
    texts = [file.read_text(encoding="utf-8") for file in corpus.glob("*.txt")]
    whole = "\n".join(f" {' '.join(tokenizer.tokenize(text, split_special_tokens=True))} " for text in texts)
    rows = _rows(dynamic.phase(1).train)
    assert sum("[ mask ]" in row["A"] for row in rows) > 10
    assert not any("[MASK]" in row["A"] + row["B"] for row in rows)
    for row in rows[::5]:
        assert f" {row['A']} " in whole
        assert f" {row['B']} " in whole
        if not row["is_random_next"] and row["num_tokens"] < 128:
            assert f" {row['A']} {row['B']} " in whole


def test_stored_masks_are_counted_and_decode_to_the_unmasked_text(static: DataManifest, dynamic: DataManifest) -> None:
    """The same seed draws the same pairs, so unmasking the static shards gives the dynamic ones."""
    hidden = chosen = 0
    for (_, masked_split), (_, plain_split) in zip(_splits(static), _splits(dynamic), strict=True):
        for row, plain in zip(_rows(masked_split), _rows(plain_split), strict=True):
            positions = np.load(io.BytesIO(row["masked_lm_positions"]), allow_pickle=False)
            labels = row["masked_lm_labels"].split(" ")
            assert positions.dtype == np.dtype("<u2")
            assert len(positions) == len(labels) == max(1, round(row["num_tokens"] * 0.15))
            assert all(low < high for low, high in pairwise(positions.tolist()))
            tokens = ["[CLS]", *row["A"].split(" "), "[SEP]", *row["B"].split(" "), "[SEP]"]
            hidden += sum(tokens[place] == "[MASK]" for place in positions)
            chosen += len(positions)
            for place, label in zip(positions, labels, strict=True):
                tokens[place] = label
            assert " ".join(tokens) == f"[CLS] {plain['A']} [SEP] {plain['B']} [SEP]"
    assert abs(hidden / chosen - 0.8) < 5 * np.sqrt(0.16 / chosen) + 0.1 / 300


def test_whole_words_are_masked_in_the_shards(corpus: Path, small_vocabulary_path: Path, tmp_path: Path) -> None:
    options = {"duplicates": 1, "shards": 1, "masking": "static", "masked_units": "words", "format": "lddl"}
    output = str(tmp_path / "words")
    prepare(PrepareOptions((f"text:{corpus}",), str(small_vocabulary_path), output, **options), quiet)  # type: ignore[arg-type]
    pieces = 0
    for row in _rows(DataManifest.read(output).phase(1).train):
        tokens = ["[CLS]", *row["A"].split(" "), "[SEP]", *row["B"].split(" "), "[SEP]"]
        positions = np.load(io.BytesIO(row["masked_lm_positions"])).tolist()
        for place, label in zip(positions, row["masked_lm_labels"].split(" "), strict=True):
            tokens[place] = label
        middle = len(row["A"].split(" ")) + 1
        for place in range(2, len(tokens) - 1):
            if tokens[place].startswith("##") and place != middle + 1:
                assert (place in positions) == (place - 1 in positions)
                pieces += place in positions
        assert 1 <= len(positions) <= max(1, round(len(tokens) * 0.15))
    assert pieces > 100


def test_equal_input_and_seed_give_equal_bytes(
    static: DataManifest, corpus: Path, vocabulary_path: Path, tmp_path: Path
) -> None:
    options = {"duplicates": 2, "shards": 4, "held_out": 0.15, "masking": "static", "format": "lddl"}
    arguments = ((f"text:{corpus}",), str(vocabulary_path))
    prepare(PrepareOptions(*arguments, str(tmp_path / "same"), **options), quiet)  # type: ignore[arg-type]
    assert _bytes(tmp_path / "same") == _bytes(static.folder)
    prepare(PrepareOptions(*arguments, str(tmp_path / "other"), **options, seed=43), quiet)  # type: ignore[arg-type]
    other = _bytes(tmp_path / "other")
    name = "phase1/train/shard-0.parquet_1"
    assert other[name] != _bytes(static.folder)[name]


def test_lddl_source_gives_the_same_sequences_as_text(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    with (tmp_path / "part.txt").open("w", encoding="utf-8") as file:
        for document in sorted(corpus.glob("*.txt")):
            file.write(f"{document.name}\t{document.read_text(encoding='utf-8').replace(chr(10), ' ')}\n")
    hashes = []
    for source, output in ((f"text:{corpus}", "text"), (f"lddl:{tmp_path / 'part.txt'}", "lddl")):
        options = PrepareOptions((source,), str(vocabulary_path), str(tmp_path / output), (PHASES[1],), format="lddl")
        prepare(options, quiet)
        data = DataManifest.read(tmp_path / output)
        hashes.append([file.sha256 for _, split in _splits(data) for file in split.files])
        assert list(data.phases) == [1]
    assert hashes[0] == hashes[1]


@given(rows=st.integers(0, 10_000), shards=st.integers(1, 64))
def test_rows_per_shard(rows: int, shards: int) -> None:
    assert sum(rows_per_shard(rows, shards, leave_one=False)) == rows
    sizes = rows_per_shard(rows, shards)
    assert len(sizes) == shards
    assert max(sizes) - min(sizes) <= 1
    dropped = 1 if rows and shards > 1 and rows % shards == 0 else 0
    assert sum(sizes) == rows - dropped


def test_the_longest_sequences_are_in_the_last_bin() -> None:
    assert bin_ids(np.array([5, 64, 65, 128, 129, 512]), 64, 512).tolist() == [0, 0, 1, 1, 2, 7]


def test_positions_with_another_header_are_read_and_wrong_counts_are_refused() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([3, 9], dtype="<u2"), version=(2, 0))
    assert read_positions([buffer.getvalue()], [2]).tolist() == [3, 9]
    with pytest.raises(ValueError, match="2,"):
        read_positions([buffer.getvalue()], [3])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"phases": ()}, "--phases"),
        ({"phases": (PHASES[1], PHASES[1])}, "--phases"),
        ({"bin_size": 100}, "do not divide phase 1's 128 tokens"),
        ({"bin_size": 100}, "nearest that do: 32, 64, 128"),
        ({"bin_size": 0}, "--bin-size"),
        ({"duplicates": 0}, "--duplicates"),
        ({"shards": -1}, "--shards"),
        ({"format": "parquet"}, "--format"),
        ({"sample_ratio": 0.0}, "--sample-ratio"),
        ({"sample_ratio": 1.5}, "--sample-ratio"),
        ({"language": "englsh"}, "did you mean 'english'?"),
        ({"masking": "none"}, "--masking"),
        ({"held_out": 0.0}, "--held-out"),
        ({"held_out": 1.0}, "--held-out"),
        ({"masked_share": float("nan")}, "--masked-share"),
        ({"corpora": ()}, "--corpus"),
        ({"corpora": ("text:/nowhere",)}, "does not exist"),
        ({"vocabulary": "/nowhere/vocab.txt"}, "vocabulary"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(
    corpus: Path, vocabulary_path: Path, tmp_path: Path, options: dict, says: str
) -> None:
    arguments = {
        "corpora": (f"text:{corpus}",),
        "vocabulary": str(vocabulary_path),
        "output": str(tmp_path / "data"),
        **options,
    }
    with pytest.raises(InputError) as caught:
        prepare(PrepareOptions(**arguments), quiet)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_document_is_not_enough(vocabulary_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The people of the nation. The war.")
    with pytest.raises(InputError, match="at least two are needed"):
        prepare(PrepareOptions((f"text:{tmp_path / 'a.txt'}",), str(vocabulary_path), str(tmp_path / "data")), quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_output_that_exists_or_cannot_be_made_is_refused(
    dynamic: DataManifest, corpus: Path, vocabulary_path: Path, tmp_path: Path
) -> None:
    complete = tmp_path / "complete"
    shutil.copytree(dynamic.folder, complete)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("dear")
    for output, says in (
        (complete, "holds data made with other settings: duplicates was 2, now 5; shards was 4, now 0"),
        (other, "not empty"),
        (other / "thesis.tex", "not empty"),
    ):
        with pytest.raises(InputError) as caught:
            prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(output)), quiet)
        assert says in str(caught.value)
        assert "--output" in str(caught.value)
    with pytest.raises(BertjobsError, match="cannot write"):
        prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(other / "thesis.tex" / "data")), quiet)
    assert _bytes(complete) == _bytes(dynamic.folder)
    assert _bytes(other) == {"thesis.tex": b"dear"}


def test_an_empty_output_folder_is_filled(corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    output.mkdir()
    prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(output), (PHASES[1],)), quiet)
    assert DataManifest.read(output).phase(1).train.rows


def test_phases_of_other_lengths() -> None:
    assert parse_phases("1,2") == (PHASES[1], PHASES[2])
    (shape,) = parse_phases("3:256")
    assert (shape.phase, shape.sequence_length, shape.max_predictions) == (3, 256, 40)
    (shape,) = parse_phases("2:384:60")
    assert (shape.phase, shape.sequence_length, shape.max_predictions) == (2, 384, 60)
    for wrong in ("3", "one", "1:2", "1:128:0", "", "1,,2"):
        with pytest.raises(InputError, match="cannot be prepared"):
            parse_phases(wrong)


@pytest.mark.parametrize("masking", ["dynamic", "static"])
def test_ids_shards_hold_the_rows_of_lddls(masking: str, corpus: Path, vocabulary_path: Path, tmp_path: Path) -> None:
    """With one shard per bin and no row left out for LDDL, the rows are the same, in the same order."""
    options = {"duplicates": 2, "shards": 1, "held_out": 0.15, "masking": masking}
    for name in ("ids", "lddl"):
        output = str(tmp_path / name)
        prepare(PrepareOptions((f"text:{corpus}",), str(vocabulary_path), output, format=name, **options), quiet)  # type: ignore[arg-type]
    tokens = vocabulary_path.read_text().splitlines()
    pairs = zip(*(_splits(DataManifest.read(tmp_path / name)) for name in ("ids", "lddl")), strict=True)
    for (_, ids), (_, lddl) in pairs:
        expected = iter(_rows(lddl))
        for file in ids.files:
            arrays = load_file(ids.folder / file.name)  # safetensors' own reader
            assert arrays["ids"].dtype == np.uint16
            ends = arrays["offsets"].tolist()
            for row, (start, end) in enumerate(pairwise(ends)):
                middle = start + int(arrays["a_lengths"][row])
                other = next(expected)
                assert [tokens[number] for number in arrays["ids"][start:middle]] == other["A"].split(" ")
                assert [tokens[number] for number in arrays["ids"][middle:end]] == other["B"].split(" ")
                assert bool(arrays["is_random_next"][row]) == other["is_random_next"]
                if masking == "static":
                    masks = slice(*arrays["mask_offsets"][row : row + 2].tolist())
                    assert [tokens[number] for number in arrays["mask_labels"][masks]] == other[
                        "masked_lm_labels"
                    ].split(" ")
                    positions = np.load(io.BytesIO(other["masked_lm_positions"]))
                    assert (arrays["mask_positions"][masks] == positions).all()
        assert next(expected, None) is None
