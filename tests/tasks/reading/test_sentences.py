"""Sentences from tables: columns, labels of all kinds, ids."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.ids import Ids
from bertjobs.tasks.reading.sentences import Columns, read_sentences
from tests.tasks.reading.files import refused, write


def test_columns_are_taken_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "b\tlabel\tname\ta", 'x "y\tyes\tq1\tz')
    columns = Columns(("a",), second="b", id=("name",))
    assert list(read_sentences(path, columns, Notes())) == [Sentences("q1", "z", 'x "y', "yes", "t.tsv, line 2")]
    joined = Columns(("a", "b"))
    assert list(read_sentences(path, joined, Notes())) == [Sentences("2", 'z x "y', None, "yes", "t.tsv, line 2")]


def test_a_second_text_that_is_optional_is_read_where_it_is_there(tmp_path: Path) -> None:
    columns = Columns(second="second", second_optional=True)
    rows = [{"text": "a", "second": "b", "label": "x"}, {"text": "c", "second": None, "label": "x"}]
    single = [{"text": "a", "label": "x"}, {"text": "c", "label": "x"}]
    for table, wanted in ((rows, ["b", None]), (single, [None, None])):
        values = ["\t".join(one[key] or "" for key in table[0]) for one in table]
        paths = [write(tmp_path / "t.jsonl", *map(json.dumps, table))]
        paths.append(write(tmp_path / "t.tsv", "\t".join(table[0]), *values))
        paths.append(write(tmp_path / "t.csv", ",".join(table[0]), *(row.replace("\t", ",") for row in values)))
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "t.parquet")
        for path in (*paths, tmp_path / "t.parquet"):
            assert [example.second for example in read_sentences(path, columns, Notes())] == wanted, path


def test_without_ids_the_line_or_the_row_is_the_id(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text", '"two\nlines"', *["x"] * 1000)
    ids = [example.id for example in read_sentences(path, Columns(label=""), Notes())]
    assert ids[:3] + ids[-1:] == ["2", "4", "5", "1003"]
    ids = [example.id for example in read_sentences(path, Columns(label="", row_ids=True), Notes())]
    assert ids == [str(number) for number in range(1001)]


def test_several_labels_are_split_or_listed(tmp_path: Path) -> None:
    lines = write(tmp_path / "t.tsv", "text\tlabel", "x\tred; blue", "y\t", "z\tred;red")
    columns = Columns(separator=";")
    assert [example.label for example in read_sentences(lines, columns, Notes())] == [("red", "blue"), (), ("red",)]
    objects = write(tmp_path / "t.jsonl", *map(json.dumps, [{"text": "x", "label": ["a;b", "c"]}, {"text": "y"}]))
    examples = read_sentences(objects, columns, Notes(), labelled=False)
    assert [example.label for example in examples] == [("a;b", "c"), None]
    of_one = refused(read_sentences(objects, Columns(), Notes()))
    assert "is a list" in of_one
    assert "--option kind=several" in of_one
    assert "no column 'label'" in refused(read_sentences(objects, columns, Notes()))


def test_blanks_around_a_label_make_no_other_label(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": label} for label in ("yes", " yes", "yes ")]
    path = write(tmp_path / "t.jsonl", *map(json.dumps, rows), json.dumps({"text": "x", "label": ["yes", "yes "]}))
    assert [one.label for one in islice(read_sentences(path, Columns(), Notes()), 3)] == ["yes"] * 3
    assert [one.label for one in read_sentences(path, Columns(separator=";"), Notes())] == [("yes",)] * 4


def test_numbers_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"text": "x", "label": 2.5}', '{"text": "y", "label": "-1e1"}')
    assert [example.label for example in read_sentences(path, Columns(number=True), Notes())] == [2.5, -10.0]


def test_a_test_set_needs_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "text", "x")
    assert [example.label for example in read_sentences(path, Columns(), Notes(), labelled=False)] == [None]
    path = write(tmp_path / "t.tsv", "text\tlabel", "x\t", "y\tno")
    assert [example.label for example in read_sentences(path, Columns(), Notes(), labelled=False)] == [None, "no"]


def test_only_some_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "text\tlabel\tlanguage", "x\ta\ten", "y\tb\tde")
    columns = Columns(only=("language", "de"))
    assert [example.text for example in read_sentences(path, columns, Notes())] == ["y"]
    message = refused(read_sentences(path, Columns(only=("language", "fr")), Notes()))
    assert "no row of t.tsv has 'fr' in column 'language'" in message


def test_empty_texts_are_counted(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "t.tsv", "text\tlabel", " \ta", "\tb", "x\ta"), Notes()
    assert [example.text for example in read_sentences(path, Columns(), notes)] == [" ", "", "x"]
    assert notes.lines() == ["2 empty texts in column 'text' (first: t.tsv, line 2)"]


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        (Columns(number=True), ["1\tx\tfive"], ["'five' in column 'label' is not a number", "t.tsv, line 3"]),
        (Columns(number=True), ["1\tx\tnan"], ["'nan' in column 'label' is not a number"]),
        (Columns(), ["1\tx\t"], ["no label in column 'label'", "t.tsv, line 3"]),
        (Columns(names={"yes": "y", "no": "n"}), ["1\tx\tyess"], ["'yess'", "one of yes, no", "did you mean 'yes'?"]),
        (Columns(id=("id",)), ["1\tx\tyes", "0\ty\tno"], ["the id '0' occurs a second time", "t.tsv, line 4"]),
        (Columns(id=("id",)), ["\tx\tyes"], ["no id in column 'id'", "t.tsv, line 3"]),
        (Columns(("sentence",)), [], ["no column 'sentence'; it has: 'id', 'text', 'label'"]),
        (Columns(second="txet"), [], ["no column 'txet'", "did you mean 'text'?"]),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, columns: Columns, rows: list[str], says: list[str]) -> None:
    good = "0\tx\t5" if columns.number else "0\tx\tyes"
    path = write(tmp_path / "t.tsv", "id\ttext\tlabel", good, *rows)
    message = refused(read_sentences(path, columns, Notes()))
    assert all(part in message for part in says), message


def test_null_and_lists_are_not_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"text": null, "label": "a"}')
    assert "no text in column 'text'" in refused(read_sentences(path, Columns(), Notes()))
    path = write(tmp_path / "t.jsonl", '{"text": ["x"], "label": "a"}')
    assert "holds a list, not text" in refused(read_sentences(path, Columns(), Notes()))


def test_only_columns_that_an_option_names_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "id\ttext\tlabel", "1\tx\ta", "1\ty\tb")
    for row_ids in (False, True):
        message = refused(read_sentences(path, Columns(id=("id",), row_ids=row_ids), Notes()))
        assert ("leave out --option id" in message) != row_ids


def add_all(ids: Ids, names: list[str]) -> None:
    for number, name in enumerate(names):
        ids.add(name, f"line {number}")
    ids.check()


@pytest.mark.parametrize("second", [1, 8191, 8192, 30_000, 39_999])
def test_an_id_that_repeats_is_named_wherever_it_repeats(second: int) -> None:
    names = [str(number) for number in range(40_000)]
    add_all(Ids(), names)
    names[second] = "0"
    with pytest.raises(InputError, match=rf"'0' occurs a second time\n  where: line {second}\n"):
        add_all(Ids(), names)


def test_many_ids_take_little_memory() -> None:
    tracemalloc.start()
    try:
        ids = Ids()
        for number in range(100_000):
            ids.add(f"an id of some length {number}", "")
        ids.check()
        assert tracemalloc.get_traced_memory()[0] < 100_000 * 12
    finally:
        tracemalloc.stop()
