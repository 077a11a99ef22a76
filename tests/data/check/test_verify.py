"""`bertjobs data verify` finds every file that differs from the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bertjobs.data.check.verify import ROWS_NAME, BadFile, verify
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.manifest_form import hashed_text


def nothing(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@pytest.fixture
def folder(static: DataManifest, tmp_path: Path) -> Path:
    """A data folder that the test may damage."""
    return Path(shutil.copytree(static.folder, tmp_path / "data"))


def bad(folder: Path, threads: int = 2) -> list[BadFile]:
    return verify(DataManifest.read(folder), threads, nothing)


def shard(folder: Path, number: int = 0) -> Path:
    return folder / "phase1" / "train" / f"shard-{number}.parquet_1"


@pytest.mark.parametrize("threads", [1, 3])
def test_a_whole_folder_has_no_bad_file(folder: Path, threads: int) -> None:
    seen: list[tuple[int, int]] = []
    data = DataManifest.read(folder)
    assert verify(data, threads, lambda done, total: seen.append((done, total))) == []
    total = sum(file.bytes for phase in data.phases.values() for split in (phase.train, phase.validation)
                for file in split.files)  # fmt: skip
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)


def test_one_changed_byte_is_detected(folder: Path) -> None:
    content = bytearray(shard(folder).read_bytes())
    content[len(content) // 2] ^= 1
    shard(folder).write_bytes(content)
    (one,) = bad(folder)
    assert one.path == "phase1/train/shard-0.parquet_1"
    assert one.expected.startswith("sha256 ")
    assert one.found.startswith("sha256 ")
    assert one.found != one.expected


def test_missing_cut_and_unknown_files_are_listed_by_path(folder: Path) -> None:
    shard(folder, 0).unlink()
    shard(folder, 1).write_bytes(shard(folder, 1).read_bytes()[:-7])
    shard(folder, 2).unlink()
    shard(folder, 2).symlink_to(folder / "nowhere")
    shard(folder, 3).with_name("shard-9.parquet_1").write_bytes(b"")
    (folder / "phase1" / ".tmp-x").write_bytes(b"")
    (folder / ".prepare").mkdir()
    (folder / ".prepare" / "plan.json").write_bytes(b"")
    assert [(one.path, one.found) for one in bad(folder)] == [
        (".prepare", "left by a prepare that was stopped"),
        ("phase1/.tmp-x", "left by a writer that was stopped"),
        ("phase1/train/shard-0.parquet_1", "missing"),
        ("phase1/train/shard-1.parquet_1", f"{shard(folder, 1).stat().st_size:,} bytes"),
        ("phase1/train/shard-2.parquet_1", f"a link to {folder / 'nowhere'}, which does not exist"),
        ("phase1/train/shard-9.parquet_1", f"not in {MANIFEST_NAME}"),
    ]


def test_another_vocabulary_is_detected(folder: Path) -> None:
    path = folder / "vocab.txt"
    path.write_text(path.read_text() + "zzz\n")
    (one,) = bad(folder)
    assert one.path == "vocab.txt"
    path.unlink()
    (one,) = bad(folder)
    assert (one.path, one.found) == ("vocab.txt", "No such file or directory")


def test_a_tokenizer_of_other_tokens_is_detected(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    (one,) = bad(folder)
    assert one.path == "tokenizer.json"


def test_another_normalisation_is_detected(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("true", "false", 1))
    (one,) = bad(folder)
    assert one.path == "tokenizer_config.json"
    path.unlink()
    (one,) = bad(folder)
    assert (one.path, one.found) == ("tokenizer_config.json", "No such file or directory")


def test_lddls_file_of_rows_must_agree(folder: Path) -> None:
    path = folder / "phase1" / "train" / ROWS_NAME
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({**rows, "shard-0.parquet_1": 1}))
    (one,) = bad(folder)
    assert one.path == f"phase1/train/{ROWS_NAME}"
    assert "other counts" in one.found
    path.unlink()
    (one,) = bad(folder)
    assert one.found == "missing"


def test_a_shard_that_is_listed_twice_is_detected(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    files = content["phases"]["1"]["train"]["files"]
    files.append(files[0])
    path.write_text(hashed_text(content))
    assert [(one.path, one.found) for one in bad(folder)] == [(f"phase1/train/{files[0]['name']}", "2 times")]
