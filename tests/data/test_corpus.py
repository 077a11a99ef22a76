"""Documents from files: order, names, bytes that are not UTF-8, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.data.corpus import corpus_size, documents
from bertjobs.errors import InputError


def test_a_folder_gives_one_document_a_file_in_the_order_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "notes.md"):
        (tmp_path / name).write_text(f"text of {name}")
    found = list(documents(f"text:{tmp_path}"))
    assert [document.id for document in found] == ["a.txt", "b.txt", "sub/c.txt"]
    assert found[0].text == "text of a.txt"
    assert corpus_size(f"text:{tmp_path}") == sum(document.size for document in found)


def test_an_lddl_line_is_a_document_whatever_white_space_follows_its_id(tmp_path: Path) -> None:
    source = "one First text.\ntwo\tSecond \u2028 text.\n\nthree\nfour  Last"
    (tmp_path / "part.txt").write_text(source, encoding="utf-8")
    found = [(document.id, document.text.strip()) for document in documents(f"lddl:{tmp_path}")]
    assert found == [("one", "First text."), ("two", "Second \u2028 text."), ("four", "Last")]


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 and \xff, but \xef\xbf\xbd was there before")
    (document,) = documents(f"text:{tmp_path / 'a.txt'}")
    assert document.text == "caf\ufffd and \ufffd, but \ufffd was there before"
    assert document.replaced == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("txt:{}", "did you mean 'text'"),
        ("{}", "does not say its kind"),
        ("text:{}/nowhere", "does not exist"),
        ("text:", "does not exist"),
        ("lddl:{}/empty", "no *.txt file"),
        ("text:{}/blank.txt", "holds no text"),
    ],
)
def test_a_bad_source_is_refused(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n\n ")
    with pytest.raises(InputError) as caught:
        list(documents(source.format(tmp_path)))
    assert says in str(caught.value)
    assert caught.value.exit_code == 64
