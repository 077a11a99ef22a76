"""Folders that people ask for by name."""

from __future__ import annotations

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
