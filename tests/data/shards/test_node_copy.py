"""A node's own copy of the shards: used only if complete, with the same sequences as the shared shards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bertjobs.data.batches.batches import BatchStream, Masking
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.node_copy import NodeCopy, copy_to_node
from bertjobs.data.shards.shard_check import shards_of
from bertjobs.data.shards.shard_set import ShardSet
from tests.data.hand_written import write_folder
from tests.data.shards.test_shard_check import Together, flip

FORMATS = [(shard_format, static) for shard_format in ("ids", "lddl") for static in (False, True)]


def copied(data: DataManifest, folders: list[Path], ranks_per_node: int = 2) -> list[NodeCopy]:
    """The copies as all ranks see them; one folder per node."""
    size = len(folders) * ranks_per_node

    def act(rank: int, total: object) -> NodeCopy:
        node, local_rank = divmod(rank, ranks_per_node)
        return copy_to_node(
            data, 1, folders[node],
            local_rank=local_rank, local_size=ranks_per_node, world_size=size, total=total,  # type: ignore[arg-type]
        )  # fmt: skip

    return Together(size).run(act)


def tensors(data: DataManifest, static: bool) -> list[torch.Tensor]:
    masking = Masking("static" if static else "dynamic", 3, 8)
    with BatchStream(ShardSet.load(data, 1, "train"), masking, global_batch=7, micro_batch=7) as stream:
        return [tensor for _ in range(4) for batch in next(stream) for tensor in batch.tensors()]


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("shard_format", "static"), FORMATS)
def test_a_copy_gives_the_same_batches_and_is_used_again(tmp_path: Path, shard_format: str, static: bool) -> None:
    data, _ = write_folder(tmp_path / "shared", (9, 4, 8), shard_format=shard_format, static=static)
    nodes = [tmp_path / "node0", tmp_path / "node1"]
    copies = copied(data, nodes)
    assert [(copy.reason, copy.bad, copy.everywhere) for copy in copies] == [("", [], True)] * 4
    for copy, node in zip(copies, [0, 0, 1, 1], strict=True):
        folder = copy.data.phase(1).train.folder
        assert folder.is_relative_to(nodes[node])
        assert copy.data.shard_format == "ids"
        ours, shared = tensors(copy.data, static), tensors(data, static)
        assert all(torch.equal(a, b) for a, b in zip(ours, shared, strict=True))
        assert ShardSet.load(copy.data, 1, "validation").rows == 8
    before = files(nodes[0])
    assert len(before) == 5
    for shard in shards_of(data.phase(1)):
        shard.path.unlink()  # the copy no longer needs the shared files
    assert [copy.reason for copy in copied(data, nodes)] == [""] * 4
    assert files(nodes[0]) == before
    assert (nodes[0] / data.sha256[:16]).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("shard_format", ["ids", "lddl"])
def test_an_unfinished_copy_is_completed(tmp_path: Path, shard_format: str) -> None:
    data, _ = write_folder(tmp_path / "shared", (9, 4, 8), shard_format=shard_format)
    node = tmp_path / "node"
    (first, _) = copied(data, [node])
    folder = first.data.phase(1).train.folder
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes((folder / names[1]).read_bytes()[:-4])
    (folder / ".tmp-left").write_text("of a killed run")
    kept = (folder / names[2]).stat().st_mtime_ns
    (again, _) = copied(data, [node])
    assert again.reason == ""
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / names[2]).stat().st_mtime_ns == kept
    assert all(torch.equal(a, b) for a, b in zip(tensors(again.data, False), tensors(data, False), strict=True))


@pytest.mark.parametrize("shard_format", ["ids", "lddl"])
def test_damaged_shared_shards_are_found_while_they_are_copied(tmp_path: Path, shard_format: str) -> None:
    data, _ = write_folder(tmp_path / "shared", (9, 4, 8), shard_format=shard_format)
    shards = shards_of(data.phase(1))
    flip(shards[1].path)
    shards[3].path.unlink()
    for copy in copied(data, [tmp_path / "node0", tmp_path / "node1"]):
        assert [shard.name for shard in copy.bad] == [shards[1].name, shards[3].name]
        assert copy.reason == ""
        left = {copy.data.phase(1).train.files[1].name}
        assert ShardSet.load(copy.data, 1, "train", left).left_out == ((9, 13),)


def test_an_altered_copy_is_made_again(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path / "shared", (9,))
    (copy,) = copied(data, [tmp_path / "node"], 1)
    split = copy.data.phase(1).train
    flip(split.folder / split.files[0].name)
    copied(data, [tmp_path / "node"], 1)
    shared = data.phase(1).train
    assert (split.folder / split.files[0].name).read_bytes() == (shared.folder / shared.files[0].name).read_bytes()


def test_a_node_without_room_reads_the_shared_files_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = write_folder(tmp_path / "shared", (9,))
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 10 if "node1" in str(path) else usage.f_bavail})()
    )
    copies = copied(data, [tmp_path / "node0", tmp_path / "node1"])
    assert [copy.reason for copy in copies[:2]] == ["", ""]
    assert all("GB are needed in" in copy.reason for copy in copies[2:])
    assert not any(copy.everywhere or copy.bad for copy in copies)
    assert copies[2].data is data
    assert list((tmp_path / "node1").rglob("shard*")) == []


def test_a_full_disk_midway_reads_the_shared_files(tmp_path: Path) -> None:
    import resource

    data, _ = write_folder(tmp_path / "shared", (40, 3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        first, second = copied(data, [tmp_path / "node"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in first.reason
    assert "could not be copied" in second.reason
    assert first.data is data
    assert not list((tmp_path / "node").rglob(".tmp-*"))


def test_a_folder_that_cannot_be_made_reads_the_shared_files(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path / "shared", (4,))
    (tmp_path / "node").write_text("a file")
    for copy in copied(data, [tmp_path / "node"]):
        assert str(tmp_path / "node") in copy.reason
        assert copy.data is data


def test_another_users_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = write_folder(tmp_path / "shared", (4,))
    monkeypatch.setattr("os.getuid", lambda: 12345)
    (copy,) = copied(data, [tmp_path / "node"], 1)
    assert "belongs to another user" in copy.reason


def test_other_data_have_their_own_folder(tmp_path: Path) -> None:
    for seed in (0, 1):
        data, contents = write_folder(tmp_path / f"shared{seed}", (4,), seed=seed)
        (copy,) = copied(data, [tmp_path / "node"], 1)
        segments = ShardSet.load(copy.data, 1, "train").segments(2)
        start, end = contents[0].offsets[2:4]
        assert np.concatenate(segments).tolist() == contents[0].ids[start:end].tolist()
