"""Rows of many shards, located and read in place; what is damaged is named."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.batches.batches import token_counts
from bertjobs.data.shards.ids_shard import ShardRows, read_ids_shard
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_arrays, write_arrays
from tests.data.hand_written import TOKENS, write_folder

FORMATS = [(shard_format, static) for shard_format in ("ids", "lddl") for static in (False, True)]


def row_of(shards: list[ShardRows], row: int) -> tuple[list[int], int, bool]:
    """A row's original tokens, how many of them belong to A, and its label, by plain indexing."""
    for shard in shards:
        if row < shard.rows:
            start, end = shard.offsets[row], shard.offsets[row + 1]
            return shard.original_ids()[start:end].tolist(), int(shard.a_lengths[row]), bool(shard.is_random_next[row])
        row -= shard.rows
    raise IndexError(row)


@pytest.mark.parametrize(("shard_format", "static"), FORMATS)
def test_every_row_of_every_shard_is_located(tmp_path: Path, shard_format: str, static: bool) -> None:
    data, contents = write_folder(tmp_path, (7, 1, 30, 12), shard_format=shard_format, static=static)
    shards = ShardSet.load(data, 1, "train")
    assert (shards.rows, shards.left_out) == (50, ())
    rows = np.random.default_rng(1).permutation(50)
    chosen = shards.select(rows)
    assert chosen.lengths.tolist() == shards.lengths(rows).tolist()
    for row, a_length, label in zip(rows.tolist(), chosen.a_lengths.tolist(), chosen.is_random_next, strict=True):
        expected = row_of(contents, row)
        a, b = shards.segments(row)
        assert ([*a, *b], len(a), bool(label)) == expected
        assert a_length == len(a)
    starts = np.cumsum(np.append(0, chosen.lengths))
    stored = [shard.ids[start:end] for shard in contents for start, end in pairwise(shard.offsets)]
    for number, row in enumerate(rows):
        assert shards.text(chosen)[starts[number] : starts[number + 1]].tolist() == stored[row].tolist()
    expected_counts = np.bincount(np.concatenate([s.original_ids() for s in contents]), minlength=100)
    assert token_counts(shards).tolist() == expected_counts.tolist()


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), seed=st.integers(0, 99))
def test_shards_without_rows_are_harmless(tmp_path_factory: pytest.TempPathFactory, rows: list[int], seed: int) -> None:
    data, contents = write_folder(tmp_path_factory.mktemp("data"), rows, seed=seed)
    shards = ShardSet.load(data, 1, "train")
    assert shards.kept.tolist() == list(range(sum(rows)))
    for row in range(sum(rows)):
        assert np.concatenate(shards.segments(row)).tolist() == row_of(contents, row)[0]


def test_skipping_a_shard_does_not_change_the_numbers_of_other_rows(tmp_path: Path) -> None:
    data, contents = write_folder(tmp_path, (5, 6, 7))
    (tmp_path / "phase1" / "train" / "shard-1.safetensors_0").unlink()
    shards = ShardSet.load(data, 1, "train", {"shard-1.safetensors_0"})
    assert (shards.rows, shards.left_out) == (18, ((5, 11),))
    assert shards.kept.tolist() == [*range(5), *range(11, 18)]
    for row in shards.kept.tolist():
        assert np.concatenate(shards.segments(row)).tolist() == row_of(contents, row)[0]
    with pytest.raises(IndexError):
        shards.select(np.array([5]))


def test_without_any_row_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path, (5,))
    with pytest.raises(InputError, match="hold no sequence"):
        ShardSet.load(data, 1, "train", {"shard-0.safetensors_0"})


def test_ids_are_mapped_and_take_two_bytes_if_the_vocabulary_allows(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path / "small", (5,))
    assert ShardSet.load(data, 1, "train").shards[0].ids.dtype == np.uint16
    large = (*TOKENS, *(f"more{number}" for number in range(1 << 16)))
    data, contents = write_folder(tmp_path / "large", (5,), tokens=large)
    shards = ShardSet.load(data, 1, "train")
    assert shards.shards[0].ids.dtype == np.uint32
    assert np.concatenate(shards.segments(4)).tolist() == row_of(contents, 4)[0]
    with pytest.raises(ValueError, match="read-only"):
        shards.shards[0].ids[0] = 1


def test_more_shards_than_files_that_may_be_open(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path, [1] * 90)
    code = (
        "import pickle, resource, sys\n"
        "from bertjobs.data.shards.shard_set import ShardSet\n"
        "data = pickle.load(sys.stdin.buffer)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "print(ShardSet.load(data, 1, 'train').rows)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(data), capture_output=True, check=False)
    assert done.stdout.decode().strip() == "90", done.stderr.decode()


def _changed(path: Path, **changes: np.ndarray) -> None:
    arrays, metadata = map_arrays(path)
    kept = {name: array.copy() for name, array in arrays.items()} | changes
    write_arrays(path, {name: array for name, array in kept.items() if array is not None}, metadata)


def _array(path: Path, name: str) -> np.ndarray:
    return map_arrays(path)[0][name].copy()


def _with(path: Path, name: str, place: int, value: int) -> None:
    array = _array(path, name)
    array[place] = value
    _changed(path, **{name: array})


STRUCTURE = [
    (Path.unlink, "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-3]), "its header describes"),
    (lambda path: path.write_text("hello"), "not an arrays file"),
    (lambda path: path.write_bytes(b""), "not an arrays file"),
    (lambda path: _changed(path, a_lengths=None), "no array 'a_lengths'"),
    (lambda path: _changed(path, ids=_array(path, "ids").astype(np.uint32)), "'ids' is uint32 of 1 dimensions"),
    (lambda path: _changed(path, ids=_array(path, "ids")[:-1]), "offsets ends at"),
    (lambda path: _changed(path, is_random_next=_array(path, "is_random_next")[:-1]), "is_random_next has 5 rows"),
    (lambda path: _changed(path, offsets=_array(path, "offsets")[:-1]), "offsets has 6 numbers instead of 7"),
    (lambda path: _with(path, "offsets", 0, 1), "does not begin with 0"),
    (lambda path: path.write_bytes((path.parent / "shard-0.safetensors_0").read_bytes()), "the manifest says 6"),
    (lambda path: _changed(path, mask_labels=None), "no array 'mask_labels'"),
    (
        lambda path: _changed(path, mask_labels=None, mask_offsets=None, mask_positions=None),
        "not made for static masking",
    ),
]


@pytest.mark.parametrize(("damage", "says"), STRUCTURE)
def test_a_shard_of_another_form_is_named(tmp_path: Path, damage: object, says: str) -> None:
    data, _ = write_folder(tmp_path, (5, 6), static=True)
    victim = tmp_path / "phase1" / "train" / "shard-1.safetensors_0"
    damage(victim)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        ShardSet.load(data, 1, "train")
    assert says in str(caught.value)
    assert str(victim) in str(caught.value)


READ = [
    (lambda path: _with(path, "offsets", 2, 10**15), "offsets do not fit"),
    (lambda path: _with(path, "offsets", 2, -(10**15)), "offsets do not fit"),
    (lambda path: _with(path, "a_lengths", 3, 65535), "offsets do not fit"),
    (lambda path: _with(path, "mask_offsets", 2, 10**15), "offsets do not fit"),
    (lambda path: _with(path, "mask_offsets", 1, -5), "offsets do not fit"),
    (lambda path: _with(path, "ids", 0, 100), "holds the id 100, but the vocabulary has 100 tokens"),
    (lambda path: _with(path, "mask_labels", 0, 60000), "holds the id 60000"),
    (lambda path: _with(path, "mask_positions", 0, 0), "a mask is not on a token"),
    (lambda path: _with(path, "mask_positions", 0, 5000), "a mask is not on a token"),
]


@pytest.mark.parametrize(("damage", "says"), READ)
def test_damage_inside_is_found_when_rows_are_read_and_never_crashes(tmp_path: Path, damage: object, says: str) -> None:
    data, _ = write_folder(tmp_path, (5, 6), static=True)
    victim = tmp_path / "phase1" / "train" / "shard-1.safetensors_0"
    damage(victim)  # type: ignore[operator]
    shards = ShardSet.load(data, 1, "train")
    with pytest.raises(InputError) as caught:  # noqa: PT012
        chosen = shards.select(np.arange(11))
        shards.text(chosen)
        shards.stored_masks(chosen)
    assert says in str(caught.value)
    assert str(victim) in str(caught.value)


def test_rows_longer_than_the_phases_are_refused(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path, (9,))
    short = replace(data, phases={1: replace(data.phase(1), sequence_length=16)})
    with pytest.raises(InputError, match="offsets do not fit"):
        ShardSet.load(short, 1, "train").select(np.arange(9))


def test_one_file_is_read_alone(tmp_path: Path) -> None:
    data, (content,) = write_folder(tmp_path, (4,), static=True)
    shard = read_ids_shard(data.phase(1).train.folder / "shard-0.safetensors_0", data.vocabulary_size)
    assert shard.num_tokens.tolist() == content.num_tokens.tolist()
    assert not (shard.original_ids() == 4).any()
    assert (shard.ids[shard.masked_places] == 4).all()
