"""Lengths from a few shards stand for those of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertjobs.data.shards.lengths import sampled_lengths
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from tests.data.hand_written import write_folder


@pytest.mark.parametrize("shard_format", ["ids", "lddl"])
def test_lengths_are_those_of_a_shard(tmp_path: Path, shard_format: str) -> None:
    data, (_, second, _) = write_folder(tmp_path, (0, 40, 60), shard_format=shard_format)
    lengths = sampled_lengths(data, 1)
    assert set(lengths.tolist()) == set(second.num_tokens.tolist())
    assert lengths.dtype == np.int64


def test_each_bin_has_its_share(dynamic: DataManifest, tmp_path: Path) -> None:
    data, (short, *_) = write_folder(tmp_path, (50, 30, 20))
    files = [replace(file, bin=min(number, 1)) for number, file in enumerate(data.phase(1).train.files)]
    phase = replace(data.phase(1), train=replace(data.phase(1).train, files=tuple(files)))
    lengths = sampled_lengths(replace(data, phases={1: phase}), 1)
    assert len(lengths) == 1 << 14
    assert set(lengths[: 1 << 13].tolist()) == set(short.num_tokens.tolist())
    train = ShardSet.load(dynamic, 1, "train")
    whole = train.lengths(train.kept) + 3
    assert sampled_lengths(dynamic, 1).mean() == pytest.approx(whole.mean(), rel=0.05)


@pytest.mark.parametrize("shard_format", ["ids", "lddl"])
def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, shard_format: str) -> None:
    data, _ = write_folder(tmp_path, (40, 60), shard_format=shard_format)
    victim = data.phase(1).train.folder / data.phase(1).train.files[0].name
    victim.write_bytes(victim.read_bytes()[:50])
    with pytest.raises(InputError, match="cannot be read") as caught:
        sampled_lengths(data, 1)
    assert str(victim) in str(caught.value)
    victim.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        sampled_lengths(data, 1)


def test_no_sequences_have_no_lengths(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path, (0, 0))
    with pytest.raises(InputError, match="hold no sequence"):
        sampled_lengths(data, 1)
