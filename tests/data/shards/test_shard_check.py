"""Damaged shards are detected and named, and are the same on all ranks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bertjobs.data.shards.shard_check import PhaseShard, bad_shards, damage, refusal, shards_of
from tests.data.hand_written import write_folder


class Together:
    """Ranks as threads, which sum integers like a process group."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=300)
        self._values: list[tuple[int, ...]] = [()] * size

    def total(self, rank: int, *values: int) -> list[int]:
        self._values[rank] = values
        self._barrier.wait()
        sums = [sum(column) for column in zip(*self._values, strict=True)]
        self._barrier.wait()
        return sums

    def run(self, act: object) -> list:
        """What ``act(rank, total)`` returns on each rank."""
        results: list = [None] * self.size
        errors: list[BaseException] = []

        def work(rank: int) -> None:
            try:
                results[rank] = act(rank, lambda *values: self.total(rank, *values))  # type: ignore[operator]
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


def flip(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_all_files_of_a_phase_are_listed(tmp_path: Path) -> None:
    data, _ = write_folder(tmp_path, (3, 4))
    names = [shard.name for shard in shards_of(data.phase(1))]
    assert names == [f"{split}/shard-{number}.safetensors_0" for split in ("train", "validation") for number in (0, 1)]
    assert all(shard.path.is_file() for shard in shards_of(data.phase(1)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (flip, "was altered: its sha256 is"),
        (lambda path: (path.unlink(), path.mkdir()), "bytes, the manifest says"),
    ],
)
def test_damage_is_reported_with_what_was_expected(tmp_path: Path, change: object, says: str) -> None:
    data, _ = write_folder(tmp_path, (3, 4))
    victim = shards_of(data.phase(1))[1]
    assert damage(victim) is None
    change(victim.path)  # type: ignore[operator]
    assert says in str(damage(victim))
    error = refusal([victim])
    assert "train/shard-1.safetensors_0" in error.what
    assert says in error.what
    assert error.where == str(victim.path)
    assert "1 more shards are damaged" in refusal([victim, victim]).what


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_each_file_is_read_by_one_rank_and_all_know_the_bad_ones(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = write_folder(tmp_path, (3, 4, 5))
    shards = shards_of(data.phase(1))
    flip(shards[0].path)
    shards[4].path.unlink()
    read: list[str] = []

    def counted(shard: PhaseShard) -> str | None:
        read.append(shard.name)
        return damage(shard)

    monkeypatch.setattr("bertjobs.data.shards.shard_check.damage", counted)
    bad = Together(size).run(lambda rank, total: bad_shards(shards, rank, size, total))
    assert bad == [[shards[0], shards[4]]] * size
    assert sorted(read) == sorted(shard.name for shard in shards)
