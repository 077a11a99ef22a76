"""Files and folders are complete or absent, even when their writer is killed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.files.atomic import (
    new_folder,
    publish_folder,
    remove_folder,
    remove_leftovers,
    sha256_of,
    touch,
    unlinked,
    write_hashed,
    write_json,
    write_text,
)
from bertjobs.files.json_lines import append_line, read_lines

WRITE_FOLDER = """
import sys, time
from pathlib import Path
from bertjobs.files.atomic import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "first").write_text("1")
    print("begun", flush=True)
    time.sleep(60)
"""
REWRITE_FILE = """
import itertools, sys
from pathlib import Path
from bertjobs.files.atomic import write_text
print("begun", flush=True)
for number in itertools.count():
    write_text(Path(sys.argv[1]), str(number % 10) * 200_000)
"""


def kill_when_begun(program: str, path: Path) -> None:
    """Start a Python program on ``path`` and kill it in the middle of its work."""
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()


def test_a_killed_writer_leaves_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "step-00000010"
    kill_when_begun(WRITE_FOLDER, target)
    assert not target.exists()
    assert [path.name.startswith(".tmp-") for path in tmp_path.iterdir()] == [True]
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_earlier_folder(tmp_path: Path) -> None:
    target = tmp_path / "step-00000010"
    with new_folder(target) as folder:
        (folder / "first").write_text("old")
    kill_when_begun(WRITE_FOLDER, target)
    assert [path.name for path in target.iterdir()] == ["first"]
    assert (target / "first").read_text() == "old"


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "9" * 200_000)
    kill_when_begun(REWRITE_FILE, path)
    text = path.read_text()
    assert len(text) == 200_000
    assert len(set(text)) == 1


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("old", "new"):
        with new_folder(target) as folder:
            (folder / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


def test_a_folder_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    rename = os.rename

    def broken(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        publish_folder(tmp_path / "new", tmp_path / "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    assert (tmp_path / "old" / "old").exists()


def test_a_removed_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_a_file_is_hashed_as_it_is_written(blocks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"longer than what comes" * 100)
        written = write_hashed(path, [memoryview(block) for block in blocks])
        assert path.read_bytes() == b"".join(blocks)
        assert written == (path.stat().st_size, sha256_of(path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_file_that_does_not_fit_the_disk_is_an_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        write_hashed(Path("/dev/full"), [b"x" * 10])


def test_an_error_leaves_nothing_new(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "folder") as folder:  # noqa: PT012
        (folder / "file").write_text("half")
        raise KeyError
    (tmp_path / "kept").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "kept", "new \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append_line(path, {"number": number, "text": "x" * 500}), range(200)))
    assert sorted(line["number"] for line in read_lines(path)) == list(range(200))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"step": 1})
    append_line(path, {"step": 2})
    os.truncate(path, path.stat().st_size - 3)
    assert read_lines(path) == [{"step": 1}]
    assert read_lines(tmp_path / "absent") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_line_that_does_not_fit_the_disk_names_its_file() -> None:
    with pytest.raises(OSError, match="No space left") as error:
        append_line(Path("/dev/full"), {"step": 1}, follow=True)
    assert error.value.filename == "/dev/full"


def test_sha256(tmp_path: Path) -> None:
    write_json(tmp_path / "empty.json", {})
    assert (tmp_path / "empty.json").read_bytes() == b"{}\n"
    # printf '{}\n' | sha256sum
    assert sha256_of(tmp_path / "empty.json") == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_line(file, {"step": 1})
    with open(file, "ab") as handle:
        handle.write(b'{"st')
    append_line(file, {"step": 3})
    assert read_lines(file) == [{"step": 1}, {"step": 3}]


def test_a_touch_makes_a_private_file_and_follows_no_link(tmp_path: Path) -> None:
    file, other = tmp_path / "beat", tmp_path / "other"
    touch(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.utime(file, (1, 1))
    touch(file)
    assert time.time() - file.stat().st_mtime < 3600
    link = tmp_path / "link"
    link.symlink_to(other)
    with pytest.raises(OSError, match="link"):
        touch(link)
    assert not other.exists()


def test_a_log_is_not_led_into_another_file(tmp_path: Path) -> None:
    (tmp_path / "7-0.out").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"), open(tmp_path / "7-0.out", "ab", opener=unlinked):
        pass
    assert not (tmp_path / "other").exists()
