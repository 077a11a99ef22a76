"""BERT's own format, against the rule of create_pretraining_data.py: strip each line; an empty one ends a document."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.corpus import SENTENCES, Source, documents, scan
from bertjobs.data.corpus.document import CHUNK, MAX_DOCUMENT
from bertjobs.data.text.splitters import split_lines
from tests.data.corpus.test_pieces import read_all
from tests.data.corpus.test_sources import COMPRESS

SENTENCE = st.sampled_from(
    ["One.", "Zwei ä", "三。", " indented", "\u3000wide", "x" * 40, "\ttab", "trailing  ", "\u00a0no"]
)
EMPTY = st.sampled_from(["", " ", "\t", "\u3000", "\u00a0 ", "\r", "\x1c", "\u2028"])
LINES = st.lists(SENTENCE | EMPTY, max_size=40)


def by_rule(text: str) -> list[list[str]]:
    """Documents as lists of sentences."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if sentence := line.strip():
            found[-1].append(sentence)
        else:
            found.append([])
    return [document for document in found if document]


def test_its_sentences_are_its_lines() -> None:
    assert SENTENCES["bert"] == "lines"


@given(lines=LINES, ending=st.sampled_from(["", "\n", "\n\n", "\r\n"]), piece_bytes=st.integers(1, 120))
@settings(max_examples=300, deadline=None)
def test_pieces_of_any_size_hold_whole_documents_of_lines(lines: list[str], ending: str, piece_bytes: int) -> None:
    text = "\n".join(lines) + ending
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_bytes(text.encode())
        if not text:
            return
        source = Source("bert", str(path))
        whole = read_all(source, 1 << 30)
        assert [split_lines(document.text) for document in whole] == by_rule(text)
        assert read_all(source, piece_bytes) == whole
        assert len({document.id for document in whole}) == len(whole)
        raw = path.read_bytes()
        for document in whole:  # an id is where the document begins
            place = int(document.id.partition(":")[2])
            assert raw[place:].decode().startswith(document.text)


@pytest.mark.parametrize("suffix", ["", *COMPRESS])
def test_a_folder_of_compressed_files(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESS.get(suffix, bytes)
    (tmp_path / f"a.txt{suffix}").write_bytes(compress("\ufeffOne.\nTwo.\n\nThree.".encode()))
    (tmp_path / f"b.txt{suffix}").write_bytes(compress(b"\n\nFour.\r\nFive.\r\n\r\n"))
    found = [(document.id, split_lines(document.text)) for document in documents(f"bert:{tmp_path}")]
    assert found == [
        (f"a.txt{suffix}:0", ["One.", "Two."]),
        (f"a.txt{suffix}:14", ["Three."]),
        (f"b.txt{suffix}:2", ["Four.", "Five."]),
    ]


def test_a_document_that_is_longer_than_many_pieces_is_in_one_of_them(tmp_path: Path) -> None:
    long = "\n".join(f"Sentence {number} of a long document." for number in range(50_000))
    (tmp_path / "a.txt").write_text(f"First.\n\n{long}\n\nLast.\n")
    source = Source("bert", str(tmp_path / "a.txt"))
    pieces = scan([source], 100_000)
    assert len(pieces) > 15
    read = read_all(source, 100_000)
    assert [document.id for document in read] == ["a.txt:0", "a.txt:8", f"a.txt:{8 + len(long) + 2}"]
    assert read[1].text.strip() == long
    assert len(long) < MAX_DOCUMENT


@pytest.mark.parametrize("length", [CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_lines_about_as_long_as_a_chunk(tmp_path: Path, length: int) -> None:
    text = f"One.\n{'x' * length}\nTwo.\n\n{'y' * length}   \nThree.\n"
    (tmp_path / "a.txt").write_text(text)
    source = Source("bert", str(tmp_path / "a.txt"))
    joined: dict[str, str] = {}
    for document in read_all(source, CHUNK // 3):
        name = document.id.partition("#")[0]
        joined[name] = joined.get(name, "") + document.text
    assert "".join(joined.values()).split() == text.split()
    assert len(joined) == 2


@pytest.mark.parametrize("blank", [CHUNK - 2, CHUNK - 1, CHUNK, 2 * CHUNK])
def test_a_long_line_of_white_space_is_the_same_in_all_pieces(tmp_path: Path, blank: int) -> None:
    (tmp_path / "a.txt").write_text(f"One.\n{' ' * blank}\nTwo.\n")
    source = Source("bert", str(tmp_path / "a.txt"))
    whole = read_all(source, 1 << 30)
    assert [word for document in whole for word in document.text.split()] == ["One.", "Two."]
    for piece_bytes in (blank // 2, blank, blank + 5, blank + 6, blank + 7):
        assert read_all(source, piece_bytes) == whole


def test_pieces_join_without_a_gap() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_text("a\n\nb\n\n" * 50)
        pieces = scan([Source("bert", str(path))], 9)
        assert all(first.end == second.start for first, second in pairwise(pieces))
