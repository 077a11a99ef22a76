"""Files that are damaged, odd or not there: their content, or one typed error."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.files.json_lines import append_line, last_lines, parse_lines, read_lines
from bertjobs.files.reading import DamagedFileError, parse_json, read_bytes, read_json, read_text, record_of


@dataclass(frozen=True)
class Thing:
    name: str
    count: int
    rate: float
    good: bool = True


WHOLE = {"name": "a", "count": 1, "rate": 2.5, "good": False}


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path / "absent" / "too", tmp_path / "file" / "below"):
        assert (read_bytes(path), read_text(path), read_json(path, dict), read_lines(path)) == (None, None, None, [])


def folder(path: Path) -> None:
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (folder, "it is a folder"),
        (link_to_nothing, "a link to nothing"),
        (link_to_itself, "symbolic links"),
        (pipe, "not a file"),
    ],
)
def test_what_cannot_be_read_is_one_error_that_names_it(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "thing.json"
    make(path)
    for reader in (read_bytes, read_text, read_lines, last_lines, lambda path: read_json(path, dict)):
        with pytest.raises(DamagedFileError, match=says) as error:
            reader(path)
        assert error.value.where == str(path)
        assert error.value.exit_code == 64


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "it is not an object"),
        (b'{"name": "a", "count": 1}', "it lacks 'rate'"),
        (b'{"name": "a", "count": true, "rate": 1}', "its 'count' is not a whole number"),
        (b'{"name": null, "count": 1, "rate": 1}', "its 'name' is not text"),
    ],
)
def test_a_damaged_record_says_what_is_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "thing.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=says):
        read_json(path, lambda value: record_of(Thing, value))


def test_a_record_is_read_back_with_defaults_and_without_what_later_versions_add(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    path.write_text(json.dumps({**WHOLE, "rack": 7}))
    assert read_json(path, lambda value: record_of(Thing, value)) == Thing("a", 1, 2.5, False)
    assert record_of(Thing, {"name": "a", "rate": 1}, count=3) == Thing("a", 3, 1.0, True)


@given(st.binary())
def test_any_bytes_are_json_or_a_value_error(content: bytes) -> None:
    with suppress(ValueError):
        parse_json(content)
    parse_lines(content)


def test_lines_that_are_not_json_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"[" * 100_000 + b'\n\xff\n\n7\n{"a": 2}\n{"a": 3')
    assert read_lines(path) == [{"a": 1}, 7, {"a": 2}]


def test_the_end_of_a_file_is_read_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [{"n": number} for number in range(100)]
    for line in lines:
        append_line(path, line)
    size = path.stat().st_size
    for count in (1, 10, 19, 20, size - 1, size, size + 7):
        tail = last_lines(path, count)
        assert tail == lines[len(lines) - len(tail) :]
        assert sum(len(json.dumps(line)) + 1 for line in tail) <= count
    assert last_lines(path, size) == lines


def test_a_line_is_not_led_into_another_file(tmp_path: Path) -> None:
    """Somebody else may make a link in a shared folder, under the name of a file that this user will write to."""
    other, path = tmp_path / "precious", tmp_path / "suspect-nodes.jsonl"
    other.write_text("mine\n")
    path.symlink_to(other)
    with pytest.raises(OSError, match=r"suspect-nodes\.jsonl"):
        append_line(path, {"a": 1})
    assert other.read_text() == "mine\n"
    append_line(path, {"a": 1}, follow=True)
    assert other.read_text() == 'mine\n{"a": 1}\n'
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a plain file"):
        append_line(path, {"a": 1})
