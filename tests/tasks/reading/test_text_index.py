"""Texts found by their ids in files that are not held."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.reading import text_index
from bertjobs.tasks.reading.text_index import TextIndex
from tests.tasks.reading.files import write


def test_each_id_has_its_text_in_any_order(tmp_path: Path) -> None:
    long = "long " * 5000
    path = write(tmp_path / "collection.tsv", "10\tten", "", "1\tone", f"D-2\t{long}", "\u00e9\t\u00e9t\u00e9")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"last\twithout an end")
    index = TextIndex(path)
    assert [index.get(one) for one in ("last", "D-2", "10", "1", "\u00e9")] == [
        "without an end", long, "ten", "one", "\u00e9t\u00e9"
    ]  # fmt: skip
    assert [index.get(one) for one in ("100", "", "one", "D")] == [None] * 4


def test_windows_line_ends_are_no_part_of_a_text(tmp_path: Path) -> None:
    assert TextIndex(write(tmp_path / "f.tsv", "1\tone", "2\ttwo", end="\r\n")).get("1") == "one"


def test_ids_whose_hashes_are_equal_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "hash", lambda _: 5, raising=False)
    index = TextIndex(write(tmp_path / "f.tsv", *(f"{number}\ttext {number}" for number in range(5))))
    assert [index.get(str(number)) for number in range(6)] == [*(f"text {number}" for number in range(5)), None]
    with pytest.raises(InputError, match="the id '3' occurs a second time"):
        TextIndex(write(tmp_path / "g.tsv", *(f"{number}\ttext" for number in (4, 3, 3, 5))))


def test_the_texts_are_not_held(tmp_path: Path) -> None:
    count = 20_000
    path = write(
        tmp_path / "collection.tsv", *(f"{number}\t{'a passage of some length ' * 10}" for number in range(count))
    )
    tracemalloc.start()
    index = TextIndex(path)
    for number in range(0, count, 7):
        assert index.get(str(number))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20 * count
    assert peak < 60 * count
    assert path.stat().st_size > 250 * count


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"7\tQ", b"7\tR"], "the id '7' occurs a second time.*f.tsv, line 2"),
        ([b"7\tQ", b"", b"no tab"], "does not begin with an id and a tab.*f.tsv, line 3"),
        ([b"7\tQ", b"\tno id"], "does not begin with an id and a tab.*f.tsv, line 2"),
        ([b"5\tQ", b"7\tcaf\xe9"], "byte 6 of the line is not UTF-8.*f.tsv, line 2"),
        ([b"5\tQ", b"7\tQ\tmore"], "not an id and a text.*f.tsv, line 2"),
        ([b"5\tQ", b"7\t "], "not an id and a text.*f.tsv, line 2"),
        ([], "f.tsv is empty"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, lines: list[bytes], words: str) -> None:
    path = tmp_path / "f.tsv"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(InputError) as refused:
        TextIndex(path).get("7")
    what, _, where = words.partition(".*")
    assert what in refused.value.what
    assert (refused.value.where or "").endswith(where)
