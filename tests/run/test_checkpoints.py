"""Which checkpoints exist for a reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bertjobs.run.atomic import new_folder
from bertjobs.run.checkpoints import (
    MANIFEST,
    DamagedCheckpointError,
    NewerFormatError,
    folder_name,
    newest_valid,
    prune,
    read_manifest,
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


def test_altered_bytes_of_the_same_size_are_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "model").write_text("weights of step 2")
    read_manifest(folder)
    with pytest.raises(DamagedCheckpointError, match="model is altered: sha256"):
        verify(folder)


def test_a_truncated_file_is_found_without_reading_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    os.truncate(folder / "model", 3)
    with pytest.raises(DamagedCheckpointError, match="model has 3 bytes, expected 17"):
        read_manifest(folder)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
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
    ],
)
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, content: object) -> None:
    folder = checkpoint(tmp_path, 1)
    rewrite_manifest(folder, content)
    with pytest.raises(DamagedCheckpointError, match=r"no valid MANIFEST\.json"):
        read_manifest(folder)


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedCheckpointError):
        read_manifest(folder)


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    rewrite_manifest(checkpoint(tmp_path, 2), {"format_version": 2, "layout": "unheard of"})
    with pytest.raises(NewerFormatError, match="format 2 is newer than this bertjobs reads") as error:
        newest_valid(tmp_path)
    assert error.value.exit_code == 64


def test_the_newest_whole_one_is_chosen(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step) for step in (5, 90, 100)]
    assert newest_valid(tmp_path) == (folders[2], [])
    os.truncate(folders[2] / "model", 0)
    folder, damaged = newest_valid(tmp_path)
    assert folder == folders[1]
    assert [error.where for error in damaged] == [str(folders[2])]


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
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
    prune(tmp_path)
    # The one without a manifest is left for its owner to see.
    assert [folder.name for folder in steps(tmp_path)] == [folder_name(step) for step in (1, 3, 4, 5)]
