"""Batches that a GPU fetches while the CPU continues."""

from __future__ import annotations

import pytest
import torch

from bertjobs.data.batches.batches import BatchStream, Masking
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from tests.gpu.conftest import GPU, no_waiting


def stream(data: DataManifest, num_workers: int, pin_memory: bool) -> BatchStream:
    return BatchStream(
        ShardSet.load(data, 1, "train"),
        Masking("dynamic", seed=3, max_predictions=20),
        global_batch=12,
        micro_batch=4,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_page_locked_and_travel_without_waiting(data: DataManifest, num_workers: int) -> None:
    with stream(data, num_workers, True) as pinned, stream(data, 0, False) as plain:
        for _ in range(3):
            for ours, expected in zip(next(pinned), next(plain), strict=True):
                assert all(tensor.is_pinned() for tensor in ours.tensors())
                with no_waiting():
                    moved = ours.to(GPU, non_blocking=True)
                for tensor, other in zip(moved.tensors(), expected.tensors(), strict=True):
                    assert tensor.device.type == "cuda"
                    assert torch.equal(tensor.cpu(), other)
