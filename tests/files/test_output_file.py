"""A file that a person asked for is written whole or not at all; a FIFO is written into, and a link stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bertjobs.files.output_file import is_stream, output_file


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to(fifo)
    for name in ("fifo", "link"):
        with output_file(tmp_path / name) as file:
            file.write(b"words")
        assert os.read(reader, 10) == b"words"
        assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "link"]
    os.close(reader)
    assert is_stream(Path("/dev/null"))


def test_the_file_behind_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/file")
    for words in (b"new", b"newer"):
        with output_file(link) as file:
            file.write(words)
        assert (tmp_path / "there" / "file").read_bytes() == words
        assert link.is_symlink()


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), output_file(path) as file:
        file.writelines([b"a part", "text"])  # type: ignore[list-item]
    assert path.read_text() == "old"
