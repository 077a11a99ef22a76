"""LDDL's own loader, where it is installed: it reads our shards, and our batches of them are its batches."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bertjobs.data.batches.batches import Batch, Masking, make_batch
from bertjobs.data.batches.lddl_loader import LddlStream, check_lddl_loader
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec

pytest.importorskip("lddl.torch", reason="pip install --no-deps lddl==0.1.0")
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_labels")
SIZES = {"micro_batch": 8, "gradient_steps": 2, "num_workers": 1}
Row = tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def tokenizer(static: DataManifest) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.BertTokenizerFast(str(static.vocabulary_path), do_lower_case=static.lowercase)


def lddl_rows(data: DataManifest) -> list[tuple]:
    """The training rows as LDDL's loader reads them from the shards, in the manifest's order."""
    decode = import_module("lddl.torch.bert")._decode_record_batch
    split = data.phase(1).train
    return [
        row
        for file in split.files
        for batch in pq.read_table(split.folder / file.name).to_batches()
        for row in decode(batch)
    ]


def our_batch(data: DataManifest, rows: np.ndarray) -> Batch:
    shards = ShardSet.load(data, 1, "train")
    return make_batch(shards, shards.select(rows), None, Masking("static", 1, 20))


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_static_batches_are_lddls_bit_for_bit(static: DataManifest, tokenizer: Any, size: int) -> None:
    encode = import_module("lddl.torch.bert")._to_encoded_inputs
    written = lddl_rows(static)
    draw = np.random.default_rng(size)
    for _ in range(6):
        rows = draw.integers(0, len(written), size)
        theirs = encode([written[row] for row in rows], tokenizer)
        ours = our_batch(static, rows)
        for name in NAMES:
            assert torch.equal(getattr(ours, name), theirs[name]), name


def steps(data: DataManifest, count: int, **options: Any) -> list[list[Batch]]:
    with LddlStream(data, 1, seed=3, **{**SIZES, **options}) as stream:
        return [next(stream) for _ in range(count)]


def content(batch: Batch) -> list[Row]:
    """Each sequence's ids, token types and labels without padding, and its next-sentence label."""
    rows = []
    for row in range(batch.sequences):
        size = int(batch.attention_mask[row].sum())
        parts = (tuple(getattr(batch, name)[row, :size].tolist()) for name in ("input_ids", "token_type_ids", "labels"))
        rows.append((*parts, (int(batch.next_sentence_labels[row]),)))
    return rows


@pytest.mark.parametrize("num_workers", [1, 2])
def test_lddls_loader_reads_an_epoch_of_our_shards(static: DataManifest, num_workers: int) -> None:
    """Its batches hold our rows, none twice: all but those that do not fill a batch, and the one row by which
    some of a bin's shards are larger."""
    entry = static.phase(1)
    all_rows = our_batch(static, np.arange(entry.train.rows))
    expected = Counter(content(all_rows))
    stream = LddlStream(static, 1, seed=3, **{**SIZES, "num_workers": num_workers, "gradient_steps": 1})
    epoch = next(step for step in range(1, 10_000) if stream.state(step).epoch == 1)
    read: Counter[Row] = Counter()
    with stream:
        for _ in range(epoch):
            (batch,) = next(stream)
            assert batch.sequences == 8
            read.update(content(batch))
    assert read <= expected
    bins = len({file.bin for file in entry.train.files})
    lost = len(entry.train.files) + 7 * bins * num_workers
    assert entry.train.rows - lost <= read.total() <= entry.train.rows


def test_dynamic_masks_are_drawn(dynamic: DataManifest) -> None:
    ((first, second),) = steps(dynamic, 1)
    for batch in (first, second):
        assert all(getattr(batch, name).dtype == torch.int64 for name in NAMES)
        share = float((batch.labels >= 0).sum() / batch.attention_mask.sum())
        assert 0.1 < share < 0.2


@pytest.mark.parametrize("start", [1, 25, 75])
def test_a_restart_reads_again_what_the_epoch_has_delivered(static: DataManifest, start: int) -> None:
    whole = steps(static, start + 2)[start:]
    stream = LddlStream(static, 1, seed=3, **SIZES, start_step=start)
    assert stream.replayed == stream.state(start).place
    with stream:
        for expected in whole:
            for one, other in zip(next(stream), expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def test_the_state_names_its_loader(static: DataManifest) -> None:
    with LddlStream(static, 1, seed=3, **SIZES) as stream:
        state = stream.state(4)
    assert (state.loader, state.epoch, state.place, state.step) == ("lddl", 0, 8, 4)
    assert (state.seed, state.manifest_sha256) == (3, static.sha256)


@pytest.fixture(scope="module")
def spec() -> Iterator[RunSpec]:
    flags = {"recipe": "laptop-scratch", "phase": "1", "loader": "lddl", "num_workers": "2"}
    resolved = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
    return replace(resolved, phases=(replace(resolved.phases[0], micro_batch=4),))


def test_what_lddls_loader_can_read_is_accepted(static: DataManifest, dynamic: DataManifest, spec: RunSpec) -> None:
    check_lddl_loader(static, spec)
    check_lddl_loader(dynamic, replace(spec, num_workers=1))
    check_lddl_loader(dynamic, replace(spec, nodes=2 // spec.tasks_per_node or 1))


def test_what_lddls_loader_cannot_read_is_refused(
    static: DataManifest, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(data: DataManifest = static, **changes: Any) -> str:
        with pytest.raises(InputError) as caught:
            check_lddl_loader(data, replace(spec, **changes))
        assert "--set loader=bertjobs" in str(caught.value)
        return str(caught.value)

    assert "format 'ids'" in refused(replace(static, shard_format="ids"))
    assert "needs a worker process" in refused(num_workers=0)
    assert "takes no on_bad_shard=skip" in refused(on_bad_shard="skip")
    assert "takes no local_copy=" in refused(local_copy=str(tmp_path))
    message = refused(num_workers=3)
    assert f"4 shards, not a multiple of {spec.world_size} ranks x 3 workers" in message
    assert f"--shards {3 * spec.world_size if 3 * spec.world_size > 4 else 6}" in message
    phase = static.phase(1)
    even = replace(phase.train, files=tuple(replace(file, rows=20) for file in phase.train.files))
    assert "differ by one row" in refused(replace(static, phases={1: replace(phase, train=even)}))
    assert "fills a micro-batch of 5000" in refused(phases=(replace(spec.phases[0], micro_batch=5000),))
    monkeypatch.setitem(sys.modules, "lddl.torch", None)
    assert "pip install --no-deps lddl==0.1.0" in refused()
