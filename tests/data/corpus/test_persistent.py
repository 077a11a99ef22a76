"""Reading on after errors that may pass, and only after those."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.corpus import documents, persistent
from bertjobs.data.corpus.persistent import PersistentReader, UnavailableError, may_pass
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.faults import not_written

CONTENT = bytes(range(256)) * 40
WAITS_S = (0.0,) * 5


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "WAITS_S", WAITS_S)


class Flaky(io.BytesIO):
    """A file that fails at some of its reads, as ``faults`` says one after the other."""

    def __init__(self, faults: list[OSError | None], can_seek: bool) -> None:
        super().__init__(CONTENT)
        self._faults, self._can_seek = faults, can_seek

    def seekable(self) -> bool:
        return self._can_seek

    def readinto(self, buffer: Any, /) -> int:
        if self._faults and (fault := self._faults.pop(0)):
            raise fault
        return super().readinto(memoryview(buffer)[:100])


def opener(faults: list[OSError | None], can_seek: bool) -> Callable[[int], Flaky]:
    def open_at(place: int) -> Flaky:
        file = Flaky(faults, can_seek)
        io.BytesIO.seek(file, place)
        return file

    return open_at


FAULT = st.sampled_from([None, None, errno.EIO, errno.ESTALE, errno.ECONNRESET, errno.ETIMEDOUT])


@given(faults=st.lists(FAULT, max_size=40), can_seek=st.booleans(), data=st.data())
def test_reads_and_seeks_are_those_of_the_sound_file(
    faults: list[int | None], can_seek: bool, data: st.DataObject
) -> None:
    kept: list[OSError | None] = []
    for number in faults:  # never more in a row than there are tries
        in_a_row = next((place for place, one in enumerate(reversed(kept)) if one is None), len(kept))
        kept.append(OSError(number, os.strerror(number)) if number and in_a_row < len(WAITS_S) else None)
    reader = PersistentReader("a", opener(kept, can_seek), lambda: len(CONTENT), False)
    with io.BufferedReader(reader, 64) as file:
        sound = io.BytesIO(CONTENT)
        for _ in range(data.draw(st.integers(1, 8))):
            if data.draw(st.booleans()):
                place = data.draw(st.integers(-len(CONTENT), 0))
                assert file.seek(place, os.SEEK_END) == sound.seek(place, os.SEEK_END)
            count = data.draw(st.integers(0, 3000))
            assert file.read(count) == sound.read(count)
        assert file.read() == sound.read()


def test_a_fault_that_stays_ends_with_70_after_all_tries(capsys: pytest.CaptureFixture[str]) -> None:
    faults: list[OSError | None] = [OSError(errno.EIO, "Input/output error") for _ in range(99)]
    reader = PersistentReader("a.txt", opener(faults, True), lambda: 0, False)
    with pytest.raises(UnavailableError, match=r"cannot read 'a.txt' at present: Input/output error") as caught:
        reader.read(10)
    assert caught.value.exit_code == 70
    assert len(faults) == 99 - len(WAITS_S) - 1
    assert capsys.readouterr().err.count("a.txt: Input/output error; trying again in 0 s") == len(WAITS_S)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.ENOENT])
def test_a_fault_of_the_file_itself_is_not_waited_for(number: int) -> None:
    faults: list[OSError | None] = [OSError(number, os.strerror(number)), None]
    with pytest.raises(OSError, match=os.strerror(number)):
        PersistentReader("a", opener(faults, True), lambda: 0, False).read(10)
    assert faults == [None]


def test_what_a_remote_file_system_raises_may_pass_unless_it_is_plainly_wrong() -> None:
    class OfALibrary(Exception):
        pass

    assert may_pass(OfALibrary("reset"), remote=True)
    assert not may_pass(OfALibrary("reset"), remote=False)
    for error in (FileNotFoundError("x"), ValueError("x"), PermissionError("x"), InputError("x"), EOFError()):
        assert not may_pass(error, remote=True)
        assert not may_pass(error, remote=False)


def test_a_disk_that_fails_while_a_corpus_is_read_is_not_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("One text.")
    count = 0

    def failing(path: str, place: int) -> io.FileIO:
        nonlocal count
        count += 1
        if count <= 2:
            raise OSError(errno.ESTALE, "Stale file handle", path)
        file = io.FileIO(path)
        file.seek(place)
        return file

    monkeypatch.setattr("bertjobs.data.corpus.files._open_local", failing)
    assert [one.text for one in documents(f"text:{tmp_path}")] == ["One text."]
    count = -999
    with pytest.raises(UnavailableError, match="Stale file handle") as caught:
        list(documents(f"text:{tmp_path}"))
    assert str(tmp_path / "a.txt") in caught.value.what


def test_what_cannot_be_written_is_bad_input_only_where_another_try_fails_too() -> None:
    for number, code in ((errno.ENOSPC, 70), (errno.EIO, 70), (errno.EACCES, 64), (errno.ENOTDIR, 64)):
        error = not_written("/a", OSError(number, os.strerror(number)), "--output")
        assert isinstance(error, BertjobsError)
        assert (error.exit_code, error.what) == (code, f"cannot write '/a': {os.strerror(number)}")


@pytest.mark.parametrize(("fault", "code"), [(ConnectionError("reset"), 70), (PermissionError("no"), 64)])
def test_a_remote_file_system_that_fails_does_not_say_that_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, code: int
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def failing(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(MemoryFileSystem, "info", failing)
    with pytest.raises(BertjobsError) as caught:
        list(documents("text:memory://bucket/a.txt"))
    assert caught.value.exit_code == code
    assert str(fault) in caught.value.what
    assert "does not exist" not in caught.value.what
