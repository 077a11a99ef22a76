"""What `bertjobs data inspect` finds in shards, whole and damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.data.batches.batches import Masking, make_batch
from bertjobs.data.check.facts import RowKeys
from bertjobs.data.check.histogram import BinLengths, picture, text_bars
from bertjobs.data.check.inspect import Inspection, inspect_target, read_samples
from bertjobs.data.check.samples import DynamicDraw, choose_rows, join_pieces, read_sample
from bertjobs.data.check.target import find_target
from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_arrays, write_arrays
from tests.data.conftest import quiet


def silent(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@pytest.fixture(scope="module")
def ids_data(corpus: Path, vocabulary_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data folders of token ids by masking, phase 1 only."""
    from bertjobs.data.prepare import PHASES

    folder = tmp_path_factory.mktemp("ids")
    for masking in ("static", "dynamic"):
        prepare(
            PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(folder / masking), (PHASES[1],), shards=4,
                           duplicates=2, held_out=0.15, masking=masking, format="ids"),
            quiet,
        )  # fmt: skip
    return {masking: folder / masking for masking in ("static", "dynamic")}


@pytest.fixture
def copy(tmp_path: Path):
    """A folder that the test may damage."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


def inspections(path: Path, *arguments: Any) -> dict[str, Inspection]:
    return inspect_target(find_target(path, *arguments), silent)


def wrong(path: Path, *arguments: Any) -> str:
    return "\n".join(f"{file} {what}" for one in inspections(path, *arguments).values() for file, what in one.wrong)


def first_shard(folder: Path, ending: str = "_1") -> Path:
    return min((folder / "phase1" / "train").glob(f"shard-*{ending}"))


def rewrite(path: Path, change: Any) -> None:
    """Change the arrays of a shard of ids."""
    arrays, metadata = map_arrays(path)
    copied = {name: values.copy() for name, values in arrays.items()}
    change(copied)
    write_arrays(path, copied, metadata)


def test_nothing_is_wrong_with_what_prepare_makes(
    ids_data: dict[str, Path], static: DataManifest, dynamic: DataManifest
) -> None:
    for folder in (*ids_data.values(), static.folder, dynamic.folder):
        assert wrong(folder) == ""


@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_the_facts_are_those_of_the_rows(ids_data: dict[str, Path], masking: str) -> None:
    data = DataManifest.read(ids_data[masking])
    shards = ShardSet.load(data, 1, "train")
    facts = inspections(data.folder)["phase 1 train"].total
    num_tokens = shards.lengths(np.arange(shards.rows)) + 3
    assert facts.rows == data.phase(1).train.rows
    assert (
        facts.tokens == data.phase(1).train.tokens == num_tokens.sum() == np.arange(len(facts.lengths)) @ facts.lengths
    )
    assert facts.padding == sum(-int(tokens) % 8 for tokens in num_tokens)
    assert facts.random_next == sum(int(shard.is_random_next.sum()) for shard in shards.shards)
    assert facts.bytes == sum(file.bytes for file in data.phase(1).train.files)
    if masking == "static":
        masks = [shard.masks for shard in shards.shards]
        assert facts.masked == sum(len(mask.labels) for mask in masks if mask) == facts.wanted_masks
        assert facts.as_mask + facts.as_random + facts.as_kept == facts.masked
        assert facts.as_mask / facts.masked == pytest.approx(0.8, abs=0.02)
        assert facts.as_kept / facts.masked == pytest.approx(0.1, abs=0.02)
    else:
        assert facts.masked == 0


def test_both_formats_have_the_same_facts(static: DataManifest, ids_data: dict[str, Path]) -> None:
    ids, lddl = (inspections(folder)["phase 1 train"].total.as_json() for folder in (ids_data["static"], static.folder))
    for name in ("rows", "tokens", "random_next", "masked", "as_mask"):
        assert ids[name] == pytest.approx(lddl[name], rel=0.02)  # LDDL's format may leave one row out of each bin


def test_an_altered_and_a_truncated_shard_are_named(ids_data: dict[str, Path], copy) -> None:
    folder = copy(ids_data["static"])
    altered, cut = sorted((folder / "phase1" / "train").glob("shard-*_1"))[:2]
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-100])
    problems = wrong(folder)
    assert f"{altered.name} changed: its sha256" in problems
    assert f"{cut.name} cut off or changed" in problems
    assert f"{cut.name} cannot be read" in problems


def test_a_missing_shard_is_named(ids_data: dict[str, Path], copy) -> None:
    folder = copy(ids_data["static"])
    first_shard(folder).unlink()
    assert wrong(folder) == f"{first_shard(ids_data['static']).name} missing"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: arrays["ids"].__setitem__(5, 60_000), "1 ids are outside the vocabulary of"),
        (lambda arrays: arrays["mask_labels"].__setitem__(0, 501), "1 labels are outside the vocabulary"),
        (lambda arrays: arrays["mask_positions"].__setitem__(0, 0), "1 of "),
        (lambda arrays: arrays["mask_positions"].__setitem__(0, 400), "not on a token of A or B, the first in row 0"),
        (lambda arrays: arrays["mask_positions"].__setitem__(slice(0, 2), arrays["mask_positions"][1::-1].copy()),
         "do not ascend, first in row 0"),
        (lambda arrays: arrays["a_lengths"].__setitem__(3, 0), "have no A or no B, the first is 3"),
        (lambda arrays: arrays["offsets"].__setitem__(2, 1), "its offsets go backwards"),
        (lambda arrays: arrays["is_random_next"].__setitem__(slice(None), True), "% of the next sentences are random"),
        (lambda arrays: arrays["ids"].__setitem__(slice(None), 1), "of the tokens are [UNK]"),
        (lambda arrays: arrays.update(ids=arrays["ids"][:-1]), "offsets ends at"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_rows_is_reported(ids_data: dict[str, Path], copy, change: Any, says: str) -> None:
    folder = copy(ids_data["static"])
    for path in (folder / "phase1" / "train").iterdir():
        if path == first_shard(folder) or "random" in says or "UNK" in says:
            rewrite(path, change)
    assert says in wrong(folder)
    target = find_target(first_shard(folder))
    read_samples(target, target.parts[0], 2, 0)  # it shows what it can, and does not fail


def test_rows_of_another_bin_are_counted(ids_data: dict[str, Path], copy) -> None:
    folder = copy(ids_data["static"])
    short, long = first_shard(folder, "_0"), first_shard(folder, "_1")
    shutil.copyfile(short, long)
    problems = wrong(folder)
    assert "rows do not belong in bin 1 of 65 to 128 tokens: they have" in problems
    assert (
        f"{long.name} {inspections(short)[next(iter(inspections(short)))].total.rows:,} rows, but the manifest says"
        in problems
    )


def test_a_duplicated_shard_is_recognised_by_its_rows(ids_data: dict[str, Path], copy) -> None:
    folder = copy(ids_data["dynamic"])
    content = json.loads((folder / MANIFEST_NAME).read_text())
    train, validation = (content["phases"]["1"][name]["files"] for name in ("train", "validation"))
    source = folder / "phase1" / "train" / train[-1]["name"]
    train.append({**train[-1], "name": "shard-9.safetensors_1"})
    shutil.copyfile(source, source.with_name("shard-9.safetensors_1"))
    target = folder / "phase1" / "validation" / validation[-1]["name"]
    shutil.copyfile(source, target)
    validation[-1] = {**train[-1], "name": target.name}
    (folder / MANIFEST_NAME).write_text(hashed_text(content))
    problems = wrong(folder)
    assert f"{source.name} and shard-9.safetensors_1 hold the same rows" in problems
    assert "of the held-out sequences are also in training" in problems


def test_a_lone_shard_needs_the_vocabulary(ids_data: dict[str, Path], vocabulary_path: Path, tmp_path: Path) -> None:
    lone = tmp_path / "alone" / "in" / "here" / first_shard(ids_data["static"]).name
    lone.parent.mkdir(parents=True)
    shutil.copyfile(first_shard(ids_data["static"]), lone)
    with pytest.raises(InputError, match="not in a data folder"):
        find_target(lone)
    target = find_target(lone, vocabulary_path)
    assert target.metadata["seed"] == "42"
    assert inspect_target(target, silent)[lone.name].wrong == ()
    other = tmp_path / "vocab.txt"
    other.write_text(vocabulary_path.read_text() + "zzz\n")
    assert "made with the vocabulary" in wrong(lone, other)


def table_of(data: DataManifest) -> tuple[Path, pa.Table]:
    path = first_shard(data.folder)
    return path, pq.ParquetFile(path).read()


@pytest.mark.parametrize(
    ("column", "row", "value", "says"),
    [
        ("num_tokens", 4, 7, "num_tokens disagrees with A and B in 1 of"),
        ("A", 0, None, "empty cells: 1 in column A"),
        ("A", 2, "qqqq " * 60 + "zzzz", "2 tokens of column A are not in the vocabulary: 'qqqq', 'zzzz'"),
        ("masked_lm_labels", 1, "the", "masked positions, 1 labels"),
        ("masked_lm_positions", 1, b"\x93NUMPY", "column masked_lm_positions is damaged"),
        ("masked_lm_positions", 1, b"\x93NUMPY\x01\x00\x08\x00{'a': (((", "column masked_lm_positions is damaged"),
        ("masked_lm_positions", 1, b"PK\x05\x06" + bytes(18), "column masked_lm_positions is damaged"),
    ],
)
def test_all_that_is_wrong_with_lddls_cells_is_reported(
    static: DataManifest, tmp_path: Path, column: str, row: int, value: Any, says: str
) -> None:
    path, table = table_of(static)
    place = table.schema.get_field_index(column)
    values = table.column(column).to_pylist()
    values[row] = value
    changed = table.set_column(place, table.schema.field(column), pa.array(values, type=table.schema.types[place]))
    pq.write_table(changed, tmp_path / path.name)
    assert says in wrong(tmp_path / path.name, static.vocabulary_path)


def test_tokens_that_are_not_utf8_are_shown(static: DataManifest, tmp_path: Path) -> None:
    path, table = table_of(static)
    values = [text.encode() for text in table.column("A").to_pylist()]
    values[3] = b"the \xffpeople"
    buffers = pa.array(values, type=pa.binary()).buffers()
    damaged = pa.Array.from_buffers(pa.string(), len(values), buffers)
    pq.write_table(table.set_column(0, table.schema.field("A"), damaged), tmp_path / path.name)
    assert "tokens of column A are not in the vocabulary: '\ufffdpeople'" in wrong(
        tmp_path / path.name, static.vocabulary_path
    )


def test_unexpected_columns_are_named(static: DataManifest, tmp_path: Path) -> None:
    path, table = table_of(static)
    pq.write_table(table.drop_columns(["B"]), tmp_path / path.name)
    assert "it has no column 'B', only A, is_random_next" in wrong(tmp_path / path.name, static.vocabulary_path)
    (tmp_path / path.name).write_bytes(b"PAR1 and no more")
    assert "cannot be read" in wrong(tmp_path / path.name, static.vocabulary_path)


def test_shards_that_lddls_loader_refuses_are_named(dynamic: DataManifest, copy) -> None:
    folder = copy(dynamic.folder)
    content = json.loads((folder / MANIFEST_NAME).read_text())
    for file in content["phases"]["1"]["train"]["files"]:
        file["rows"] = 10 if file["bin"] else 10 * file["name"].startswith("shard-0.")
    (folder / MANIFEST_NAME).write_text(hashed_text(content))
    problems = wrong(folder)
    assert "bin 0: its shards are unequal, 0 to 10 rows; LDDL's own loader refuses that" in problems
    assert "bin 1: its shards are all equal, 10 rows; LDDL's own loader refuses that" in problems


def test_samples_show_the_masks_that_a_run_draws(ids_data: dict[str, Path], vocabulary: Vocabulary) -> None:
    data = DataManifest.read(ids_data["dynamic"])
    target = find_target(data.folder)
    shards = ShardSet.load(data, 1, "train")
    part = target.parts[0]
    first_rows = {shard.path.name: shard.first_row for shard in part.shards}
    for sample in read_samples(target, part, 10, seed=5):
        chosen = shards.select(np.array([first_rows[sample.shard] + sample.row]))
        masking = Masking("dynamic", 5, 20)
        batch = make_batch(shards, chosen, masking.keys(0, chosen.rows), masking)
        labels, ids = batch.labels.numpy()[0], batch.input_ids.numpy()[0]
        places = np.flatnonzero(labels != -1)
        masks = [f"[{vocabulary.tokens[labels[place]]}→{vocabulary.tokens[ids[place]]}]" for place in places]
        assert sample.masks == len(masks) > 0
        assert re.search(".*".join(map(re.escape, masks)), f"{sample.a} {sample.b}")
        assert sample.num_tokens == (batch.attention_mask.numpy() == 1).sum()


def test_samples_of_static_masks_hold_the_original_text(static: DataManifest) -> None:
    path, table = table_of(static)
    target = find_target(path)
    for sample in read_samples(target, target.parts[0], 5, seed=1):
        row = table.slice(sample.row, 1).to_pylist()[0]
        labels = row["masked_lm_labels"].split(" ")
        assert sample.masks == len(labels)
        assert all(f"[{label}→" in sample.a + sample.b for label in labels)
        assert sample.is_random_next == row["is_random_next"]
        assert sample.num_tokens == row["num_tokens"]
        assert sample.a.count("[MASK]") >= row["A"].split(" ").count("[MASK]")


def test_a_row_without_a_draw_is_shown_as_it_is(ids_data: dict[str, Path], vocabulary: Vocabulary) -> None:
    shards = ShardSet.load(DataManifest.read(ids_data["dynamic"]), 1, "train").shards
    sample = read_sample(shards[0], 0, "x", vocabulary, None)
    assert sample.masks == 0
    assert "→" not in sample.a + sample.b
    masked = read_sample(shards[0], 0, "x", vocabulary, DynamicDraw(1, 0, 0, 0.15, 20))
    assert masked.masks > 0


def test_pieces_become_words() -> None:
    tokens = ["un", "##precedent", "##ed", "people", "'", "s", "war", ",", "(", "no", ")", "##"]
    assert join_pieces(tokens, tokens) == "unprecedented people's war, (no) ##"
    assert join_pieces(tokens[:3], ["un", "[##precedent→[MASK]]", "##ed"]) == "un[##precedent→[MASK]]ed"


def test_chosen_rows_are_different_and_of_all_shards() -> None:
    assert choose_rows([2, 0, 3], 10, 0) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert choose_rows([], 3, 0) == []
    assert choose_rows([1000, 1000], 3, 1) != choose_rows([1000, 1000], 3, 2)


def test_repeated_rows_are_estimated_in_bounded_memory() -> None:
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 1 << 64, 40_000, dtype=np.uint64)
    few, other = RowKeys(at_most=5000), RowKeys(at_most=9000)
    few.add(keys)
    few.add(keys[:10_000])
    other.add(keys[20_000:])
    assert few.repeated() == pytest.approx(0.2, abs=0.02)
    assert other.repeated() == 0
    assert few.share_in(other) == pytest.approx(0.4, abs=0.03)
    assert other.share_in(few) == 1.0


def test_bars_hold_all_rows_and_full_sequences_have_the_last() -> None:
    lengths = np.zeros(129, dtype=np.int64)
    lengths[[3, 64, 65, 128]] = 1, 2, 3, 400
    bins = [BinLengths(0, 3, 64, lengths[:65]), BinLengths(1, 65, 128, np.where(np.arange(129) > 64, lengths, 0))]
    lines = text_bars(bins)
    assert sum(int(line.split("-")[1].split()[1]) for line in lines) == 406
    assert lines[-1].endswith("█" * 40)
    assert "121-128" in lines[-1]
    assert lines[0].split()[:2] == ["bin", "0"]


def test_rows_outside_their_bin_widen_the_histogram() -> None:
    lengths = np.bincount([10, 70, 90])
    edges, rows = BinLengths(1, 65, 80, lengths).grouped(4)
    assert rows.sum() == 3
    assert (edges[0], edges[-1]) == (10, 91)


def test_the_picture_is_the_same_each_time() -> None:
    bins = [BinLengths(one, 64 * one + 1, 64 * one + 64, np.bincount([64 * one + 60] * 5)) for one in range(8)]
    nothing = BinLengths(0, 3, 64, np.zeros(1, dtype=np.int64))
    first, second = (picture("lengths of $x^$", {"train": bins, "empty": [nothing]}) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
