"""Folders that people ask for by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.files.output_folder import check_output, output_folder


def test_nothing_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/er"):
        check_output(tmp_path / name)
        with output_folder(tmp_path / name) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text("x")
            assert not (tmp_path / name / "inner").exists()
        assert (tmp_path / name / "inner" / "file").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty", "new"]


@pytest.mark.parametrize(("kind", "words"), [("full", "not empty"), ("file", "not a folder"), ("link", "not a folder")])
def test_what_is_there_is_refused(tmp_path: Path, kind: str, words: str) -> None:
    output = tmp_path / "output"
    if kind == "full":
        output.mkdir()
        (output / "file").touch()
    elif kind == "file":
        output.touch()
    else:
        output.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"exists and is {words}"):
        check_output(output)


def test_what_came_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "output"

    def written() -> None:
        with output_folder(output) as folder:
            (folder / "ours").touch()
            output.mkdir()
            (output / "theirs").touch()

    with pytest.raises(InputError, match="not empty"):
        written()
    assert [path.name for path in output.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), output_folder(tmp_path / "output"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_links_lead_to_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("bertjobs.files.atomic.sync_file", flushed.append)
    (tmp_path / "original").write_text("x")
    with output_folder(tmp_path / "output") as folder:
        (folder / "ours").touch()
        (folder / "theirs").symlink_to(tmp_path / "original")
    assert [file.name for file in flushed] == ["ours"]


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_its_files_are_for_whom_the_user_makes_files(
    tmp_path: Path, umask: int, folder_mode: int, file_mode: int
) -> None:
    before = os.umask(umask)
    try:
        with output_folder(tmp_path / "output") as folder:
            (folder / "inner").mkdir(mode=0o700)
            (folder / "inner" / "file").touch(mode=0o600)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    folders = (tmp_path / "output", tmp_path / "output" / "inner")
    assert [path.stat().st_mode & 0o777 for path in folders] == [folder_mode] * 2
    assert (folders[1] / "file").stat().st_mode & 0o777 == file_mode
