"""`bertjobs data adopt` on files as LDDL's preprocessor and balancer write them."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.data.check.inspect import inspect_target
from bertjobs.data.check.target import find_target
from bertjobs.data.check.verify import verify
from bertjobs.data.prepare.adopt import AdoptOptions, _read_rows, adopt
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_choice import Wishes
from bertjobs.errors import InputError

PANDAS = json.dumps({"index_columns": [], "column_indexes": [], "columns": [{"name": "A", "pandas_type": "unicode"}]})
BIN_SIZE = 64


def nothing(done: int, total: int) -> None:
    """A progress callback that does nothing."""


def saved(positions: Sequence[int], header_of: int) -> bytes:
    """What numpy.save writes, with the header padded as another version of numpy does it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(positions, dtype=np.uint16))
    raw = buffer.getvalue()
    length = int.from_bytes(raw[8:10], "little")
    text = raw[10 : 10 + length].rstrip()
    return raw[:8] + header_of.to_bytes(2, "little") + text.ljust(header_of - 1) + b"\n" + raw[10 + length :]


def rows_of(vocabulary: Vocabulary, bin_number: int | None, count: int, static: bool, longest: int, seed: int) -> Any:
    """Rows as LDDL makes them, of one bin or of all lengths."""
    draw = random.Random(seed)
    words = [token for token in vocabulary.tokens if not token.startswith("[")]
    rows = []
    for number in range(count):
        least, most = (10, longest) if bin_number is None else (BIN_SIZE * bin_number + 6, BIN_SIZE * (bin_number + 1))
        num_tokens = most if number == 0 else draw.randint(least, most)
        text = draw.choices(words, k=num_tokens - 3)
        middle = draw.randint(1, num_tokens - 4)
        row = {"is_random_next": draw.random() < 0.5, "num_tokens": num_tokens}
        if static:
            places = [place for place in range(1, num_tokens - 1) if place != middle + 1]
            positions = sorted(draw.sample(places, max(1, round(num_tokens * 0.15))))
            row["masked_lm_positions"] = saved(positions, 118 if number % 2 else 70)
            labels = []
            for position in positions:
                place = position - 1 - (position > middle)
                labels.append(text[place])
                text[place] = draw.choices(["[MASK]", draw.choice(words), text[place]], [8, 1, 1])[0]
            row["masked_lm_labels"] = " ".join(labels)
        row |= {"A": " ".join(text[:middle]), "B": " ".join(text[middle:])}
        if bin_number is not None:
            row["bin_id"] = bin_number
        rows.append(row)
    return rows


def write(folder: Path, name: str, rows: Any, static: bool, binned: bool) -> Path:
    fields = [("A", pa.string()), ("B", pa.string()), ("is_random_next", pa.bool_()), ("num_tokens", pa.uint16())]
    fields += [("masked_lm_positions", pa.binary()), ("masked_lm_labels", pa.string())] if static else []
    fields += [("bin_id", pa.int64())] if binned else []
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata={"pandas": PANDAS}))
    pq.write_table(table, folder / name, compression="SNAPPY", use_dictionary=True)
    return folder / name


def lddl_folder(
    folder: Path,
    vocabulary: Vocabulary,
    *,
    kind: str = "shard-",
    bins: int = 2,
    shards: int = 3,
    static: bool = False,
    longest: int = 128,
    counts: bool = True,
) -> Path:
    """A folder that LDDL's preprocessor ("part.") or balancer ("shard-") could have written; bins 0: unbinned."""
    rows = {}
    for bin_number in range(bins) or [None]:
        for number in range(shards):
            name = f"{kind}{number}.parquet" + ("" if bin_number is None else f"_{bin_number}")
            count = 20 + (number == 0) if kind == "shard-" else 7 * number
            made = rows_of(vocabulary, bin_number, count, static, longest, 100 * number + (bin_number or 0))
            write(folder, name, made, static, bool(bins))
            rows[name] = count
    if counts:
        (folder / ".num_samples.json").write_text(json.dumps(rows))
    if kind == "part.":
        (folder / "_metadata").write_bytes(b"PAR1")
    return folder


@pytest.fixture
def adopted(vocabulary_path: Path, tmp_path: Path):
    def make(*folders: Path, **options: Any) -> DataManifest:
        phases = dict(enumerate(folders, start=1))
        given = AdoptOptions(**{"phases": phases, "vocabulary": vocabulary_path, "output": tmp_path / "out", **options})
        return adopt(given, 2, nothing)

    return make


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", ["shard-", "part."])
@pytest.mark.parametrize("bins", [0, 2])
def test_training_reads_what_was_adopted(
    adopted, vocabulary: Vocabulary, tmp_path: Path, static: bool, kind: str, bins: int
) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary, kind=kind, bins=bins, static=static, counts=kind == "shard-")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    data = adopted(folder)
    phase = data.phase(1)
    assert (data.shard_format, data.masking) == ("lddl", "static" if static else "dynamic")
    assert phase.sequence_length == 128
    assert phase.max_predictions == (19 if static else 20)
    assert data.settings["masked_share"] == pytest.approx(0.15, abs=0.005)
    assert [file.bin for file in phase.train.files] == ([0, 0, 1, 1] if bins else [0, 0])
    assert all("2" in file.name.split(".parquet")[0] for file in phase.validation.files)
    for split in ("train", "validation"):
        shards = ShardSet.load(data, 1, split)
        tables = [pq.ParquetFile(folder / file.name).read() for file in phase.split(split).files]
        assert shards.rows == sum(len(table) for table in tables) == phase.split(split).rows
        assert shards.static == static
        num_tokens = np.concatenate([table["num_tokens"].to_numpy() for table in tables])
        assert (shards.lengths(np.arange(shards.rows)) + 3 == num_tokens).all()
        assert phase.split(split).tokens == num_tokens.sum()
    assert verify(data, 2, nothing) == []
    assert not any(one.wrong for one in inspect_target(find_target(data.folder), nothing).values())
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_links_or_copies(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    linked = adopted(folder, output=tmp_path / "linked").phase(1).train
    copied = adopted(folder, output=tmp_path / "copied", link="copy").phase(1).train
    for file in linked.files:
        assert (linked.folder / file.name).readlink() == folder / file.name
        assert not (copied.folder / file.name).is_symlink()
    assert linked.files == copied.files


def test_two_phases_and_more_held_out(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    first = lddl_folder(tmp_path / "1", vocabulary, shards=4)
    second = lddl_folder(tmp_path / "2", vocabulary, bins=8, shards=4)
    data = adopted(first, second, held_out_shards=2)
    assert {number: phase.sequence_length for number, phase in data.phases.items()} == {1: 128, 2: 512}
    assert {number: phase.max_predictions for number, phase in data.phases.items()} == {1: 20, 2: 80}
    assert len(data.phase(2).validation.files) == len(data.phase(2).train.files) == 16
    assert data.settings["bin_size"] == 64
    assert data.settings["adopted_from"] == [str(first), str(second)]


def test_balanced_files_are_used_if_the_unbalanced_ones_were_kept_too(
    adopted, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary, kind="part.")
    lddl_folder(folder, vocabulary)
    data = adopted(folder)
    assert all(file.name.startswith("shard-") for file in data.phase(1).train.files)
    assert data.settings["balanced"]


def test_the_sequence_length_is_the_smallest_that_fits_the_bins(
    adopted, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    folder = tmp_path / "lddl"
    for number in range(2):
        for bin_number, length in ((0, 30), (1, 61)):
            rows = rows_of(vocabulary, None, 1, False, length, number)
            write(folder, f"shard-{number}.parquet_{bin_number}", rows, False, False)
    assert adopted(folder, output=tmp_path / "a").phase(1).sequence_length == 64
    assert adopted(folder, output=tmp_path / "b", sequence_lengths={1: 80}).phase(1).sequence_length == 80
    for length in (128, 60, 63):
        with pytest.raises(InputError, match=f"2 length bins of {length} tokens do not fit phase 1's rows of 30 to 61"):
            adopted(folder, output=tmp_path / "c", sequence_lengths={1: length})
    rows = rows_of(vocabulary, None, 1, False, 31, 0)
    write(folder, "shard-1.parquet_1", rows, False, False)
    with pytest.raises(InputError, match="2 length bins of any tokens do not fit"):
        adopted(folder, output=tmp_path / "c")


def test_a_cased_vocabulary_means_case_is_kept(
    adopted, vocabulary: Vocabulary, vocabulary_path: Path, tmp_path: Path
) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    lone, cased = tmp_path / "lone.txt", tmp_path / "cased.txt"
    lone.write_text(vocabulary_path.read_text() + "Zug\n")
    cased.write_text(vocabulary_path.read_text() + "".join(f"Zug{number}\n" for number in range(99)))
    assert adopted(folder, output=tmp_path / "a").lowercase
    assert adopted(folder, output=tmp_path / "b", vocabulary=lone).lowercase, "one capital is no evidence"
    assert not adopted(folder, output=tmp_path / "c", vocabulary=lone, wishes=Wishes(False)).lowercase
    assert not adopted(folder, output=tmp_path / "d", vocabulary=cased).lowercase
    with pytest.raises(InputError, match="lowercases text, the flag says otherwise"):
        adopted(folder, output=tmp_path / "e", wishes=Wishes(False))


def test_a_vocabulary_that_does_not_fit_is_refused_with_a_token_as_evidence(
    adopted, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    rows = rows_of(vocabulary, 0, 20, False, 64, 0)
    rows[3]["B"] = "Qatar " + rows[3]["B"].partition(" ")[2]
    write(folder, "shard-1.parquet_0", rows, False, True)
    with pytest.raises(InputError, match=r"'shard-1.parquet_0': 1 tokens of column B .* 'Qatar'") as caught:
        adopted(folder)
    assert "a cased one" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_phases_of_different_masking_are_refused(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    static = lddl_folder(tmp_path / "1", vocabulary, static=True)
    dynamic = lddl_folder(tmp_path / "2", vocabulary)
    with pytest.raises(InputError, match=r"of phase 1 holds static masks, .* of phase 2 holds none"):
        adopted(static, dynamic)


def test_folders_that_are_not_whole_are_refused(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    with pytest.raises(InputError, match="does not exist"):
        adopted(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds none of LDDL's Parquet files") as caught:
        adopted(tmp_path)
    assert str(folder) in str(caught.value)
    (folder / "shard-1.parquet_1").rename(folder / "shard-1.parquet_1.bak")
    with pytest.raises(InputError, match=r"'shard-1.parquet_1' is missing: there are 3 shards in 2 bins"):
        adopted(folder)
    (folder / "shard-1.parquet_1.bak").rename(folder / "shard-1.parquet")
    with pytest.raises(InputError, match="files with length bins and files without"):
        adopted(folder)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("[]", "does not list the rows"),
        ('{"shard-0.parquet_0": "5"}', "does not list the rows"),
        ('{"shard-0.parquet_0": [5]}', "does not list the rows"),
        ('{"shard-0.parquet_0": true}', "does not list the rows"),
        ('{"shard-0.parquet_0": ' + "9" * 5000 + "}", "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
    ids=["list", "text", "number-in-a-list", "true", "huge", "nested"],
)
def test_row_counts_of_another_type_are_refused(tmp_path: Path, rows: str, says: str) -> None:
    (tmp_path / ".num_samples.json").write_text(rows)
    with pytest.raises(InputError, match=says):
        _read_rows(tmp_path)


def test_damaged_and_foreign_files_are_named(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    file = folder / "shard-0.parquet_0"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(InputError, match=r"'shard-0.parquet_0' cannot be read"):
        adopted(folder)
    pq.write_table(pa.table({"text": ["a"]}), file)
    with pytest.raises(InputError, match=r"is not LDDL's: it has no column 'A', only text"):
        adopted(folder)
    file.write_bytes(whole)
    counts = json.loads((folder / ".num_samples.json").read_text())
    (folder / ".num_samples.json").write_text(json.dumps({**counts, file.name: 3}))
    with pytest.raises(InputError, match=r"has 21 rows, but .num_samples.json says 3"):
        adopted(folder)
    (folder / ".num_samples.json").write_text("{")
    with pytest.raises(InputError, match=r".num_samples.json is damaged"):
        adopted(folder)


def test_outputs_and_held_out_shards_are_checked_first(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    for held_out, says in ((0, "0 is too small"), (3, "has 3 shards, 3 of them cannot be held out")):
        with pytest.raises(InputError, match=says):
            adopted(folder, held_out_shards=held_out)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match="exists"):
        adopted(folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_output_that_cannot_be_written_is_an_error(adopted, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = lddl_folder(tmp_path / "lddl", vocabulary)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        adopted(folder, output=tmp_path / "file" / "out")
