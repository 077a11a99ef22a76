"""Words with tags, in CoNLL's columns or as token<TAB>label."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.tasks.example import Words
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading import conll
from bertjobs.tasks.reading.conll import WordColumns, read_words
from tests.tasks.reading.files import refused, write


def test_conll_2003_is_read_by_its_last_column(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.txt",
        "-DOCSTART- -X- O O", "", "EU NNP B-NP B-ORG", "rejects VBZ B-VP O", "", "", "-DOCSTART- -X- O O", "",
        "Peter NNP B-NP B-PER", "Blackburn NNP I-NP I-PER",
    )  # fmt: skip
    notes = Notes()
    assert list(read_words(path, WordColumns(), notes)) == [
        Words("3", ("EU", "rejects"), ("B-ORG", "O"), "train.txt, line 3"),
        Words("9", ("Peter", "Blackburn"), ("B-PER", "I-PER"), "train.txt, line 9"),
    ]
    assert notes.lines() == []
    (first, _) = read_words(path, WordColumns(tag=2), notes)
    assert first.tags == ("NNP", "VBZ")


def test_tabs_separate_words_that_hold_blanks_and_plain_tags_are_fine(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "t.tsv", "New York\tCOMMA", "#\tO", "it\tPERIOD", " ", end="\r\n"), Notes()
    (example,) = read_words(path, WordColumns(strict=True), notes)
    assert (example.words, example.tags) == (("New York", "#", "it"), ("COMMA", "O", "PERIOD"))


def test_conll_u_has_comments_and_lines_that_are_no_words(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.conllu",
        "# text = Vámonos ya", "1-2\tVámonos\t_\t_", "1\tVamos\tir\tVERB", "2\tnos\tyo\tPRON", "2.1\tx\tx\tX",
        "3\tya\tya\tADV", "",
    )  # fmt: skip
    notes = Notes()
    (example,) = read_words(path, WordColumns(word=2, tag=4, conll_u=True), notes)
    assert (example.id, example.words, example.tags) == ("3", ("Vamos", "nos", "ya"), ("VERB", "PRON", "ADV"))
    assert notes.lines() == [
        "2 words of t.conllu that are ranges or are not written were passed over (first: t.conllu, line 2)"
    ]


def test_words_to_be_tagged_need_no_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "Peter", "sleeps", "", "So")
    examples = list(read_words(path, WordColumns(), Notes(), labelled=False))
    assert [(example.words, example.tags) for example in examples] == [(("Peter", "sleeps"), None), (("So",), None)]
    path = write(tmp_path / "t.txt", "Peter NNP", "sleeps VBZ")
    (example,) = read_words(path, WordColumns(tag=0), Notes())
    assert (example.words, example.tags) == (("Peter", "sleeps"), None)


def test_spans_that_begin_with_i_are_counted(tmp_path: Path) -> None:
    tags = ["O", "I-PER", "I-PER", "I-LOC", "B-LOC", "I-LOC", "E-PER"]
    path, notes = write(tmp_path / "t.tsv", *[f"w\t{tag}" for tag in tags], "", "w\tI-PER", "", "w\tB-PER"), Notes()
    assert len(list(read_words(path, WordColumns(), notes))) == 3
    (line,) = notes.lines()
    assert line.startswith("4 tags of t.tsv that begin a span with I-")
    assert line.endswith("(first: t.tsv, line 2)")


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (["O", "I-PER"], ["I-PER follows O: no span of PER begins", "t.tsv, line 2", "B-PER"]),
        (["B-LOC", "I-PER"], ["I-PER follows B-LOC", "t.tsv, line 2"]),
    ],
)
def test_strict_columns_refuse_them(tmp_path: Path, tags: list[str], says: list[str]) -> None:
    path = write(tmp_path / "t.tsv", *[f"w\t{tag}" for tag in tags])
    message = refused(read_words(path, WordColumns(strict=True), Notes()))
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("EU NNP B-ORG\nrejects O\n", ["2 columns, not 3 as line 1", "t.txt, line 2"]),
        ("EU\tB-ORG\nrejects\tVBZ\tO\n", ["3 columns, not 2", "t.txt, line 2"]),
        ("EU\nrejects\n", ["1 column: the word or its tag is missing", "t.txt, line 1"]),
        ("EU\tB-ORG\n\tO\n", ["no word", "t.txt, line 2"]),
        ("EU\tB-ORG\nrejects\t\n", ["'rejects' has no tag", "t.txt, line 2"]),
        ("\n-DOCSTART- -X- O O\n\n", ["t.txt has no sentences"]),
        ("", ["t.txt is empty"]),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path: Path, content: str, says: list[str]) -> None:
    (tmp_path / "t.txt").write_text(content)
    message = refused(read_words(tmp_path / "t.txt", WordColumns(), Notes()))
    assert all(part in message for part in says), message


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "EU NNP")
    assert "2 columns: there is no column 4" in refused(read_words(path, WordColumns(tag=4), Notes()))


def test_a_file_without_empty_lines_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conll, "MOST_WORDS", 10)
    path = write(tmp_path / "t.txt", *["w\tO"] * 11)
    message = refused(read_words(path, WordColumns(), Notes()))
    assert "more than 10 words" in message
    assert "t.txt, line 1" in message
