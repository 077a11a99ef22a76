"""Batches: what a sequence looks like, and that cutting into ranks, threads and restarts changes nothing."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bertjobs.data.batches.batches import (
    Batch,
    BatchStream,
    Masking,
    make_batch,
    target_counts,
    token_counts,
    unigram_cross_entropy,
    validation_batches,
)
from bertjobs.data.batches.order import StreamState
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError

Row = tuple[tuple[int, ...], ...]


def dynamic_masking(seed: int) -> Masking:
    return Masking("dynamic", seed, 20)


STATIC = Masking("static", 1, 20)


def batch_of(shards: ShardSet, rows: np.ndarray, epoch: int, masking: Masking) -> Batch:
    return make_batch(shards, shards.select(rows), masking.keys(epoch, rows), masking)


@pytest.fixture(scope="module")
def train(dynamic: DataManifest) -> ShardSet:
    return ShardSet.load(dynamic, 1, "train")


@pytest.fixture(scope="module")
def held_out(dynamic: DataManifest) -> ShardSet:
    return ShardSet.load(dynamic, 1, "validation")


def _rows(batch: Batch) -> list[Row]:
    """Each sequence's ids, token types and labels without padding, and its next-sentence label."""
    rows = []
    for row in range(batch.sequences):
        size = int(batch.attention_mask[row].sum())
        parts = (batch.input_ids, batch.token_type_ids, batch.labels)
        rows.append((*(tuple(part[row, :size].tolist()) for part in parts), (int(batch.next_sentence_labels[row]),)))
    return rows


def _read(data: DataManifest, split: str) -> list[dict]:
    entry = data.phase(1).split(split)
    return [row for file in entry.files for row in pq.read_table(entry.folder / file.name).to_pylist()]


def test_a_batch_is_the_shards_rows_masked_and_padded(dynamic: DataManifest, train: ShardSet) -> None:
    written = _read(dynamic, "train")
    assert len(written) == train.rows
    indices = np.array([0, 5, train.rows - 1, train.rows // 2])
    batch = batch_of(train, indices, 0, dynamic_masking(1))
    tokens = train.vocabulary.tokens
    longest = max(written[i]["num_tokens"] for i in indices)
    assert batch.input_ids.shape == (4, math.ceil(longest / 8) * 8)
    assert batch.tokens == sum(written[i]["num_tokens"] for i in indices)
    assert all(getattr(batch, field.name).dtype == torch.int64 for field in fields(batch))
    for index, (ids, types, labels, next_label) in zip(indices, _rows(batch), strict=True):
        row = written[index]
        original = [label if label >= 0 else token for token, label in zip(ids, labels, strict=True)]
        assert " ".join(tokens[i] for i in original) == f"[CLS] {row['A']} [SEP] {row['B']} [SEP]"
        first = len(row["A"].split()) + 2
        assert types == (0,) * first + (1,) * (len(ids) - first)
        assert next_label == (int(row["is_random_next"]),)
        assert sum(label >= 0 for label in labels) == min(20, max(1, round(0.15 * len(ids))))
    padding = batch.attention_mask == 0
    assert (batch.input_ids[padding] == train.vocabulary.pad_id).all()
    assert (batch.token_type_ids[padding] == 0).all()
    assert (batch.labels[padding] == -1).all()


def test_whole_words_are_masked_with_all_their_pieces(in_pieces: DataManifest) -> None:
    train = ShardSet.load(in_pieces, 1, "train")
    masking = Masking("dynamic", 1, 20, whole_word=True)
    batch = batch_of(train, np.arange(64), 0, masking)
    continues = torch.from_numpy(train.vocabulary.continues)
    original = torch.where(batch.labels >= 0, batch.labels, batch.input_ids)
    masked = batch.labels >= 0
    pieces = continues[original] & (batch.attention_mask == 1)
    inside = (
        pieces[:, 1:] & (original[:, :-1] != train.vocabulary.sep_id) & (original[:, :-1] != train.vocabulary.cls_id)
    )
    assert inside.sum() > 100
    assert (masked[:, 1:] == masked[:, :-1])[inside].all()
    counts = masked.sum(1)
    assert ((counts >= 1) & (counts <= 20)).all()
    single = batch_of(train, np.arange(64), 0, dynamic_masking(1)).labels >= 0
    assert not (single[:, 1:] == single[:, :-1])[inside].all()


def test_a_share_of_the_tokens_is_masked(train: ShardSet) -> None:
    rows = np.arange(64)
    batch = batch_of(train, rows, 0, Masking("dynamic", 1, 100, ratio=0.3))
    expected = np.maximum(1, np.rint(0.3 * (train.lengths(rows) + 3)))
    assert (batch.labels >= 0).sum(1).tolist() == expected.tolist()


def _stream(train: ShardSet, **options: object) -> BatchStream:
    settings = {"global_batch": 48, "micro_batch": 4, **options}
    return BatchStream(train, dynamic_masking(5), **settings)  # type: ignore[arg-type]


def _steps(train: ShardSet, steps: int, **options: object) -> list[list[Row]]:
    with _stream(train, **options) as stream:
        return [[row for batch in next(stream) for row in _rows(batch)] for _ in range(steps)]


def test_the_sequences_of_a_step_have_names(dynamic: DataManifest, train: ShardSet) -> None:
    files = {file.name: file for file in dynamic.phase(1).train.files}
    rows = {name: pq.read_table(dynamic.phase(1).train.folder / name).to_pylist() for name in files}
    with _stream(train, global_batch=48) as stream:
        named = [stream.samples(step) for step in range(2)]
        for names, batches in zip(named, stream, strict=False):
            places = [name.rpartition(":") for name in names]
            expected = Counter(rows[shard][int(row)]["num_tokens"] for shard, _, row in places)
            assert Counter(batch.attention_mask.sum(1).tolist()[i] for batch in batches for i in range(4)) == expected
    assert not set(named[0]) & set(named[1])


def test_a_step_holds_the_same_sequences_whatever_the_ranks_and_micro_batches(train: ShardSet) -> None:
    whole = [Counter(step) for step in _steps(train, 3)]
    for world_size, micro_batch in ((2, 4), (3, 16), (4, 2), (12, 4)):
        parts = [
            _steps(train, 3, rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)
        ]
        for step in range(3):
            assert sum((Counter(part[step]) for part in parts), Counter()) == whole[step]


def test_threads_build_the_same_batches_in_the_same_order(train: ShardSet) -> None:
    assert _steps(train, 6, num_workers=3) == _steps(train, 6)


def test_a_restart_seeks(train: ShardSet) -> None:
    with _stream(train) as stream:
        state = stream.state(4)
    assert (state.step, state.seed) == (4, 5)
    assert _steps(train, 3, start=state) == _steps(train, 7)[4:]


def test_the_state_does_not_depend_on_what_was_built_ahead(train: ShardSet) -> None:
    with _stream(train, num_workers=2, manifest_sha256="ab", skipped=("train/x",)) as stream:
        before = stream.state(1)
        next(stream)
        assert stream.state(1) == before == StreamState(0, 48, 1, 5, "ab", ("train/x",))


def test_ranks_hold_similar_lengths_at_the_same_time(train: ShardSet) -> None:
    by_rank = []
    for rank in range(4):
        with _stream(train, rank=rank, world_size=4) as stream:
            by_rank.append([batch.input_ids.shape[1] for batch in next(stream)])
    for previous, this in zip(list(zip(*by_rank, strict=True)), list(zip(*by_rank, strict=True))[1:], strict=False):
        assert max(previous) <= min(this)


def test_an_epoch_reads_each_row_once_and_the_next_masks_it_anew(train: ShardSet) -> None:
    rows = train.rows
    with _stream(train, global_batch=rows, micro_batch=rows) as stream:
        (first,), (second,) = next(stream), next(stream)

    def originals(batch: Batch) -> Counter[tuple[int, ...]]:
        plain = torch.where(batch.labels >= 0, batch.labels, batch.input_ids)
        return Counter(map(tuple, plain.tolist()))

    assert originals(first) == originals(second)
    assert Counter(_rows(first)) != Counter(_rows(second))


def test_closing_twice_and_leaving_early_is_harmless(train: ShardSet) -> None:
    stream = _stream(train, num_workers=2)
    next(stream)
    stream.close()
    stream.close()


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 8), (3, 5), (4, 64), (2, 1000)])
def test_validation_covers_each_row_once_with_masks_that_never_change(
    held_out: ShardSet, world_size: int, batch_size: int
) -> None:
    expected = Counter(_rows(batch_of(held_out, np.arange(held_out.rows), -1, dynamic_masking(9))))
    covered: Counter[Row] = Counter()
    for rank in range(world_size):
        for batch in validation_batches(
            held_out, dynamic_masking(9), batch_size=batch_size, rank=rank, world_size=world_size
        ):
            assert 1 <= batch.sequences <= batch_size
            covered.update(_rows(batch))
    assert covered == expected


def test_stored_masks_become_labels(static: DataManifest) -> None:
    shards = ShardSet.load(static, 1, "train")
    ids = {token: number for number, token in enumerate(shards.vocabulary.tokens)}
    written = _read(static, "train")
    indices = np.array([3, 0, shards.rows - 1])
    batch = batch_of(shards, indices, 0, STATIC)
    for index, (input_ids, _, labels, _) in zip(indices, _rows(batch), strict=True):
        row = written[index]
        tokens = ["[CLS]", *row["A"].split(), "[SEP]", *row["B"].split(), "[SEP]"]
        assert list(input_ids) == [ids[token] for token in tokens]
        scored = [label for label in labels if label >= 0]
        assert scored == [ids[token] for token in row["masked_lm_labels"].split()]


def test_masking_that_the_shards_were_not_made_for_is_refused(train: ShardSet) -> None:
    with pytest.raises(ValueError, match="without masks, masking 'static'"):
        batch_of(train, np.arange(2), 0, STATIC)


def test_static_masks_do_not_change_the_token_counts(static: DataManifest, train: ShardSet) -> None:
    assert token_counts(ShardSet.load(static, 1, "train")).tolist() == token_counts(train).tolist()
    assert token_counts(train).sum() == train.lengths(np.arange(train.rows)).sum()


def test_unigram_cross_entropy_by_hand(train: ShardSet, held_out: ShardSet) -> None:
    batches = list(validation_batches(held_out, dynamic_masking(1), batch_size=16))
    ids = np.concatenate([shard.ids for shard in train.shards]).tolist()
    counts, total = Counter(ids), len(ids) + train.vocabulary.size
    targets = [label for batch in batches for label in batch.labels.flatten().tolist() if label >= 0]
    expected = -sum(math.log((counts[target] + 1) / total) for target in targets) / len(targets)
    target_totals = np.sum([target_counts(batch, train.vocabulary.size) for batch in batches], axis=0)
    assert target_totals.sum() == len(targets)
    assert unigram_cross_entropy(token_counts(train), target_totals) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="no masked token"):
        unigram_cross_entropy(token_counts(train), np.zeros_like(target_totals))


def test_ranks_share_the_counting_of_tokens_and_say_that_they_move(train: ShardSet) -> None:
    assert len(train.shards) > 1
    moves: list[int] = []
    parts = [token_counts(train, rank=rank, world_size=2, progress=lambda: moves.append(1)) for rank in range(2)]
    assert (parts[0] + parts[1]).tolist() == token_counts(train).tolist()
    assert len(moves) == len(train.shards)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_batches_are_pinned_for_a_gpu(train: ShardSet) -> None:
    with _stream(train, pin_memory=True, num_workers=2) as pinned, _stream(train) as plain:
        for one, other in zip(next(pinned), next(plain), strict=True):
            for a, b in zip(one.tensors(), other.tensors(), strict=True):
                assert a.is_pinned()
                assert torch.equal(a.to("cuda", non_blocking=True).cpu(), b)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)


def _change(path: Path, name: str, values: list) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    column = pa.array((values * table.num_rows)[: table.num_rows], type=table.schema.field(name).type)
    pq.write_table(table.set_column(place, name, column), path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "missing"),
        (_truncate, "cannot be read"),
        (_scramble, "cannot be read"),
        (lambda path: path.write_text("hello"), "cannot be read"),
        (lambda path: pq.write_table(pa.table({"text": ["a"]}), path), "no column 'A', only text"),
        (lambda path: pq.write_table(pq.read_table(path).slice(1), path), "the manifest says"),
        (lambda path: _change(path, "B", ["notinthevocabulary"]), "'notinthevocabulary' is not in the vocab"),
        (lambda path: _change(path, "A", [""]), "not in the vocabulary"),
        (lambda path: _change(path, "A", [None]), "empty cells"),
        (lambda path: _change(path, "num_tokens", [7]), "num_tokens disagrees"),
    ],
)
def test_a_bad_shard_is_named(dynamic: DataManifest, tmp_path: Path, damage: object, says: str) -> None:
    shutil.copytree(dynamic.folder, tmp_path / "data")
    data = DataManifest.read(tmp_path / "data")
    split = data.phase(1).train
    victim = split.folder / split.files[5].name
    damage(victim)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        ShardSet.load(data, 1, "train")
    assert says in str(caught.value)
    assert str(victim) in str(caught.value)


def test_a_column_of_another_type_is_named(dynamic: DataManifest, tmp_path: Path) -> None:
    shutil.copytree(dynamic.folder, tmp_path / "data")
    data = DataManifest.read(tmp_path / "data")
    victim = data.phase(1).train.folder / data.phase(1).train.files[0].name
    table = pq.read_table(victim)
    pq.write_table(table.set_column(3, "num_tokens", table["num_tokens"].cast(pa.int64())), victim)
    with pytest.raises(InputError, match="'num_tokens' is int64, not uint16"):
        ShardSet.load(data, 1, "train")
