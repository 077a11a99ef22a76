"""A corpus that is written while it is read, or between two runs, is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertjobs.data.corpus import Piece, Source, read, scan
from bertjobs.data.corpus.changes import CorpusChangedError, Digest, change, unchanged
from bertjobs.data.corpus.files import File
from bertjobs.data.corpus.persistent import UnavailableError
from bertjobs.errors import InputError
from tests.data.corpus.server import Behaviour, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One text."}\n' * 9)
    return path


@pytest.fixture
def piece(path: Path) -> Piece:
    (piece,) = scan([Source("jsonl", str(path))])
    return piece


def read_it(piece: Piece) -> None:
    with unchanged(piece, "start over"):
        list(read(piece, "jsonl"))


def test_a_file_that_stays_is_read(piece: Piece) -> None:
    read_it(piece)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "Two text."}\n' * 9, "it was last written at"),
        ('{"text": "One text."}\n' * 8, "it had 198 bytes, now 176"),
        ('{"text": "One t', "it had 198 bytes, now 15"),  # which is no JSON either, but not for that reason
    ],
)
def test_a_file_that_is_written_anew_is_named(path: Path, piece: Piece, content: str, says: str) -> None:
    path.write_text(content)
    os.utime(path, ns=(1, 10**18))
    with pytest.raises(CorpusChangedError, match=says) as caught:
        read_it(piece)
    assert f"'{path}' has changed since the prepare began" in caught.value.what
    assert (caught.value.hint, caught.value.exit_code) == ("start over", 64)


def test_bad_input_that_was_there_from_the_beginning_stays_bad_input(path: Path) -> None:
    path.write_text('{"text": "One t')
    (piece,) = scan([Source("jsonl", str(path))])
    with pytest.raises(InputError, match="is not a JSON object") as caught:
        read_it(piece)
    assert not isinstance(caught.value, CorpusChangedError)


def test_a_file_that_is_gone_may_come_back(path: Path, piece: Piece) -> None:
    path.unlink()
    with pytest.raises(UnavailableError, match="was there when the prepare began, and is not now") as caught:
        read_it(piece)
    assert caught.value.exit_code == 70


def test_a_remote_file_has_its_server_s_name_for_its_state() -> None:
    behaviour = Behaviour({"/a.jsonl": b'{"text": "One text."}\n'})
    with serving(behaviour) as address:
        (piece,) = scan([Source("jsonl", f"{address}/a.jsonl")])
        read_it(piece)
        behaviour.etag = '"2"'
        with pytest.raises(CorpusChangedError, match="its server gave its version"):
            read_it(piece)


def test_a_file_whose_server_does_not_say_its_length_is_counted_once() -> None:
    behaviour = Behaviour({"/a.jsonl": b'{"text": "One text."}\n'}, parts=False, length=False)
    with serving(behaviour) as address:
        (piece,) = scan([Source("jsonl", f"{address}/a.jsonl")])
        asked = len(behaviour.asked)
        read_it(piece)
    assert len(behaviour.asked) - asked == 2  # its text, and its state


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("1700000000123456789", "1700000000123456789", True),
        ("1700000000123456789", "1700000000000000000", True),
        ("1700000000123456000", "1700000000123456789", True),
        ("1700000000123456789", "1700000000123456788", False),
        ("1700000000000000000", "1700000001000000000", False),
        ("", "1700000001000000000", True),
        ('"1"', '"2"', False),
    ],
)
def test_times_that_another_host_rounds_down_are_equal(before: str, now: str, same: bool) -> None:
    path = "https://host/a" if before.startswith('"') else "/a"
    assert (change(File(path, 1, before), File(path, 1, now)) == "") == same


def test_a_digest_is_of_ids_and_texts(tmp_path: Path) -> None:
    def digest(text: str, name: str = "a.txt") -> str:
        for old in tmp_path.glob("*.txt"):
            old.unlink()
        (tmp_path / name).write_text(text)
        (piece,) = scan([Source("text", str(tmp_path))])
        made = Digest()
        assert [one.text for one in made.of(read(piece, "text"))] == [text]
        return str(made)

    assert len({digest("One."), digest("Two."), digest("One.", "b.txt")}) == 3
    assert digest("One.") == digest("One.")
