"""Shards that change or disappear while a run reads them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.data.check.shard_watch import ShardWatch
from bertjobs.data.shards.shard_check import PhaseShard, shards_of
from bertjobs.errors import EXIT_BAD_INPUT
from bertjobs.files.atomic import sha256_of
from tests.conftest import wait_until
from tests.data.hand_written import write_folder
from tests.data.shards.test_shard_check import flip


@pytest.fixture
def shards(tmp_path: Path) -> list[PhaseShard]:
    data, _ = write_folder(tmp_path, (3, 4, 5))
    return shards_of(data.phase(1))


def replace_by(path: Path, change: Callable[[Path], None]) -> None:
    """Replace a file with another one, as a copy and a rename do."""
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    change(copy)
    copy.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "change", [flip, truncate, lambda path: replace_by(path, flip)], ids=["altered", "cut off", "replaced"]
)
def test_other_bytes_are_reported_with_the_expected_and_the_actual_sha256(
    shards: list[PhaseShard], change: Callable[[Path], None]
) -> None:
    watch = ShardWatch(shards)
    assert watch.check_now() is None
    victim = shards[1]
    change(victim.path)
    error = watch.check_now()
    assert error is watch.error
    assert error is not None
    assert error.exit_code == EXIT_BAD_INPUT
    assert victim.name in error.what
    assert victim.file.sha256 in error.what
    assert sha256_of(victim.path) in error.what
    assert str(victim.path) in str(error.where)


def test_a_removed_shard_is_reported_with_its_sha256(shards: list[PhaseShard]) -> None:
    watch = ShardWatch(shards)
    shards[2].path.unlink()
    error = watch.check_now()
    assert error is not None
    assert error.what == f"shard {shards[2].name} is missing, the manifest says {shards[2].file.sha256}"


@pytest.mark.parametrize("change", [Path.touch, lambda path: replace_by(path, lambda _: None)], ids=["touched", "same"])
def test_the_same_bytes_are_not_an_error_and_are_read_again_once(
    shards: list[PhaseShard], change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr("bertjobs.data.check.shard_watch.sha256_of", counted)
    os.utime(shards[0].path, (1e9, 1e9))  # the file system's clock is coarse
    watch = ShardWatch(shards)
    change(shards[0].path)
    assert watch.check_now() is None
    assert watch.check_now() is None
    assert read == [shards[0].path]


def test_a_shard_cut_off_before_the_first_check_is_reported(shards: list[PhaseShard]) -> None:
    truncate(shards[0].path)
    assert ShardWatch(shards).check_now() is not None


def test_a_file_that_cannot_be_read_for_a_moment_is_not_an_error(shards: list[PhaseShard]) -> None:
    watch = ShardWatch(shards)
    folder = shards[0].path.parent
    folder.rename(folder.with_name("away"))
    folder.symlink_to(folder)  # a loop: ELOOP, and not "no such file"
    assert watch.check_now() is None
    folder.unlink()
    folder.with_name("away").rename(folder)
    flip(shards[0].path)
    assert watch.check_now() is not None


def test_the_thread_detects_a_change_and_ends(shards: list[PhaseShard]) -> None:
    with ShardWatch(shards, interval_s=0.02) as watch:
        time.sleep(0.1)
        assert watch.error is None
        shards[4].path.unlink()
        wait_until(lambda: watch.error is not None)
    assert watch.error is not None
    assert shards[4].name in watch.error.what


def test_each_shard_is_watched_by_one_of_the_ranks(shards: list[PhaseShard]) -> None:
    watches = [ShardWatch(shards[rank::4]) for rank in range(4)]
    shards[3].path.unlink()
    assert [watch.check_now() is not None for watch in watches] == [False, False, False, True]


def test_without_shards_there_is_no_thread() -> None:
    with ShardWatch([]) as watch:
        assert watch.check_now() is None
