"""Which checkpoints a reader sees."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.files.atomic import new_folder, sha256_of
from bertjobs.run.checkpoints import (
    MANIFEST,
    DamagedCheckpointError,
    FileEntry,
    NewerFormatError,
    check_settings,
    folder_name,
    last_written,
    newest_valid,
    newest_whole,
    prune,
    read_manifest,
    result_problem,
    seal,
    steps,
    verify,
)

WHOLE = {"format_version": 1, "phase": 1, "step": 1, "recipe_hash": "abc", "files": {}}


def checkpoint(checkpoints: Path, step: int) -> Path:
    """A sealed checkpoint with a file of text in it."""
    with new_folder(checkpoints / folder_name(step)) as folder:
        (folder / "model").write_text(f"weights of step {step}")
        seal(folder, phase=1, step=step, recipe_hash="abc")
    return checkpoints / folder_name(step)


def rewrite_manifest(folder: Path, content: object) -> None:
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_manifest_says_what_was_sealed(tmp_path: Path) -> None:
    manifest = verify(checkpoint(tmp_path, 200))
    assert (manifest.phase, manifest.step, manifest.recipe_hash) == (1, 200, "abc")
    assert list(manifest.files) == ["model"]
    assert manifest.files["model"]["bytes"] == len("weights of step 200")


def test_altered_bytes_of_the_same_size_are_detected(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "model").write_text("weights of step 2")
    read_manifest(folder)
    with pytest.raises(DamagedCheckpointError, match="model is altered: sha256"):
        verify(folder)


def test_a_truncated_file_is_detected_without_reading_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    os.truncate(folder / "model", 3)
    with pytest.raises(DamagedCheckpointError, match="model has 3 bytes, expected 17"):
        read_manifest(folder)


def test_a_missing_file_is_detected(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "model").unlink()
    with pytest.raises(DamagedCheckpointError, match="model is missing"):
        read_manifest(folder)


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / MANIFEST).unlink()
    assert newest_valid(tmp_path)[0] is None


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"format_version": 1},
        {**WHOLE, "format_version": "1"},
        {**WHOLE, "files": None},
        {**WHOLE, "files": {"model": 17}},
        {**WHOLE, "files": {"model": {"bytes": 17}}},
        {**WHOLE, "files": {"../model": {"bytes": 17, "sha256": "ab"}}},
        {**WHOLE, "format_version": 2},
        {**WHOLE, "format_version": 2, "world_size": 1, "settings": None},
        {**WHOLE, "sha256": "ab"},
    ],
)
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, content: object) -> None:
    folder = checkpoint(tmp_path, 1)
    rewrite_manifest(folder, content)
    with pytest.raises(DamagedCheckpointError, match=r"no valid MANIFEST\.json"):
        read_manifest(folder)


def test_bytes_that_are_not_text_are_damage(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedCheckpointError):
        read_manifest(folder)


def test_an_altered_value_in_the_manifest_is_detected(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    text = (folder / MANIFEST).read_text()
    # One flipped bit, which would otherwise look like a newer format.
    (folder / MANIFEST).write_text(text.replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(DamagedCheckpointError, match="altered"):
        read_manifest(folder)


def test_format_1_is_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    rewrite_manifest(folder, {**WHOLE, "files": read_manifest(folder).files})
    assert (verify(folder).world_size, verify(folder).settings) == (0, {})


def test_known_hashes_are_not_computed_again(tmp_path: Path) -> None:
    with new_folder(tmp_path / folder_name(1)) as folder:
        (folder / "model").write_text("weights")
        (folder / "scratch").write_text("not part of the checkpoint")
        entry: FileEntry = {"bytes": 7, "sha256": "ab" * 32}
        seal(folder, phase=1, step=1, recipe_hash="abc", world_size=4, settings={"lr": 0.1}, files={"model": entry})
    manifest = read_manifest(tmp_path / folder_name(1))
    assert manifest.files == {"model": entry}
    assert (manifest.world_size, manifest.settings) == (4, {"lr": 0.1})
    with pytest.raises(DamagedCheckpointError, match="model is altered"):
        verify(tmp_path / folder_name(1))


def test_settings_that_only_one_side_has_are_not_compared(tmp_path: Path) -> None:
    with new_folder(tmp_path / folder_name(1)) as folder:
        seal(folder, phase=1, step=1, recipe_hash="abc", settings={"lr": 0.1, "old": 1, "shape": [1, 2]})
    manifest = read_manifest(tmp_path / folder_name(1))
    check_settings(manifest, {"lr": 0.1, "new": 2, "shape": (1, 2)}, tmp_path)
    with pytest.raises(InputError, match=r"other settings: lr 0\.1 \(here 0\.2\)\n"):
        check_settings(manifest, {"lr": 0.2, "new": 2}, tmp_path)


def test_a_newer_format_is_refused_not_skipped(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    rewrite_manifest(checkpoint(tmp_path, 2), {"format_version": 3, "layout": "unheard of"})
    with pytest.raises(NewerFormatError, match="format 3 is newer than this bertjobs reads") as error:
        newest_valid(tmp_path)
    assert error.value.exit_code == 64


def test_the_newest_intact_checkpoint_is_chosen(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step) for step in (5, 90, 100)]
    assert newest_valid(tmp_path) == (folders[2], [])
    os.truncate(folders[2] / "model", 0)
    folder, damaged = newest_valid(tmp_path)
    assert folder == folders[1]
    assert [error.where for error in damaged] == [str(folders[2])]


def test_folders_of_other_names_are_not_checkpoints(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 5)
    whole.rename(tmp_path / "step-00000009.bak")
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 7).rename(tmp_path / ".tmp-step-00000007-abcdef01")
    assert [folder.name for folder in steps(tmp_path)] == ["step-00000005"]
    assert steps(tmp_path / "absent") == []


def test_pruning_keeps_the_newest_three(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint(tmp_path, step)
    (tmp_path / folder_name(1) / MANIFEST).unlink()
    prune(tmp_path, keep=3)
    # The one without a manifest is left for its owner to see.
    assert [folder.name for folder in steps(tmp_path)] == [folder_name(step) for step in (1, 3, 4, 5)]


def test_pruning_leaves_the_last_intact_checkpoint(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint(tmp_path, step)
    for step in (3, 4, 5):
        os.truncate(tmp_path / folder_name(step) / "model", 3)
    prune(tmp_path, keep=1)
    # Truncated ones do not count, and are left for their owner to see.
    assert [folder.name for folder in steps(tmp_path)] == [folder_name(step) for step in (2, 3, 4, 5)]
    assert newest_valid(tmp_path)[0] == tmp_path / folder_name(2)


def test_pruning_counts_from_the_checkpoint_just_written(tmp_path: Path) -> None:
    for step in (1, 2, 3, 30):
        checkpoint(tmp_path, step)
    prune(tmp_path, keep=2, newest=folder_name(3))
    assert [folder.name for folder in steps(tmp_path)] == [folder_name(step) for step in (2, 3, 30)]


def test_pruning_spares_the_last_checkpoint_of_a_phase(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    prune(tmp_path, keep=1, spare=[folder_name(1)])
    assert [folder.name for folder in steps(tmp_path)] == [folder_name(1), folder_name(3)]


def test_no_checkpoint_is_seen_while_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        checkpoint(tmp_path, step)
    seen = []
    monkeypatch.setattr(shutil, "rmtree", lambda folder: seen.append((folder, steps(tmp_path))))
    prune(tmp_path, keep=1)
    assert [folders for _, folders in seen] == [[tmp_path / folder_name(2)]]
    assert seen[0][0].name.startswith(".tmp-")


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"null", b"7", b'{"files": 1}', json.dumps({**WHOLE, "files": {"model": None}}).encode(),
     json.dumps({**WHOLE, "files": {"model": {"bytes": "x", "sha256": ""}}}).encode(),
     json.dumps({**WHOLE, "step": "x"}).encode(), json.dumps({**WHOLE, "format_version": []}).encode(),
     json.dumps({**WHOLE, "files": {"a\x00b": {"bytes": 1, "sha256": ""}}}).encode()],
)  # fmt: skip
def test_whatever_stands_in_place_of_a_manifest_the_checkpoint_before_it_counts(tmp_path: Path, content: bytes) -> None:
    whole, damaged = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    (damaged / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="no valid MANIFEST"):
        read_manifest(damaged)
    assert newest_whole(tmp_path) == whole
    assert newest_valid(tmp_path)[0] == whole


def test_the_checkpoint_written_last_may_be_one_of_fewer_steps(tmp_path: Path) -> None:
    assert last_written(tmp_path) == ""
    for step, written in ((300, 1e9), (100, 1e9), (150, 1.1e9)):
        os.utime(checkpoint(tmp_path, step), (written, written))
    assert last_written(tmp_path) == "step-00000150"
    shutil.rmtree(tmp_path / "step-00000150")
    assert last_written(tmp_path) == "step-00000300"


def test_what_is_wrong_with_a_result(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 9)
    name, sha256 = folder.name, sha256_of(folder / MANIFEST)
    assert result_problem(tmp_path, name, sha256) == ""
    assert result_problem(tmp_path, "step-00000008", sha256) == "step-00000008 is missing"
    assert result_problem(tmp_path, name, "0") == "step-00000009 is not the one that DONE.json names"
    (folder / "model").write_text("short")
    assert "step-00000009 is damaged: model has 5 bytes" in result_problem(tmp_path, name, sha256)
