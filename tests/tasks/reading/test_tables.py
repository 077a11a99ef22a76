"""Tables are read as they were written, and each kind of damage is named with file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading import lines
from bertjobs.tasks.reading.tables import Cell, kind_of, read_rows
from tests.tasks.reading.files import refused, write

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n\r"), max_size=20)


def cells(path: Path, *names: str, notes: Notes | None = None) -> list[tuple[Cell, ...]]:
    rows = read_rows(path, names, Notes() if notes is None else notes)
    return [tuple(row.cells[name] for name in names) for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_is_read(rows: list[tuple[str, str]], end: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
        assert cells(path, "a", "b") == rows


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
def test_tsv_has_no_quotes(rows: list[tuple[str, str]], end: str) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "table.tsv", "a\tb", *map("\t".join, rows), end=end)
        assert cells(path, "b", "a") == [(second, first) for first, second in rows]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": st.none() | st.lists(TEXT)}), min_size=1, max_size=5))
def test_what_json_and_parquet_write_is_read(rows: list[dict[str, object]]) -> None:
    expected = [(row["a"], tuple(row["b"]) if isinstance(row["b"], list) else None) for row in rows]
    with TemporaryDirectory() as folder:
        in_lines, in_columns = Path(folder) / "table.jsonl", Path(folder) / "table.parquet"
        write(in_lines, *map(json.dumps, rows))
        schema = pa.schema({"a": pa.string(), "b": pa.list_(pa.string())})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), in_columns)
        assert cells(in_lines, "a", "b") == cells(in_columns, "a", "b") == expected


def test_a_row_knows_its_line_and_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b", '"one\ntwo",x', "", "three,y")
    notes = Notes()
    rows = list(read_rows(path, ["a"], notes))
    assert [(row.where, row.line, row.number) for row in rows] == [("t.csv, line 2", 2, 0), ("t.csv, line 5", 5, 1)]
    assert rows[0].cells == {"a": "one\ntwo"}
    assert notes.lines() == ["1 blank lines in t.csv (first: t.csv, line 4)"]
    pq.write_table(pa.table({"a": ["x", "y"]}), tmp_path / "t.parquet")
    assert [row.where for row in read_rows(tmp_path / "t.parquet", ["a"], notes)] == [
        "t.parquet, row 1",
        "t.parquet, row 2",
    ]


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"\xef\xbb\xbfa\tb\r\nx\ty\r\n")
    assert cells(path, "a", "b") == [("x", "y")]


def test_compressed_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\nx\ty\n"))
    assert kind_of(path) == "tsv"
    assert cells(path, "a") == [("x",)]
    path.write_bytes(path.read_bytes()[:-9])
    assert "truncated" in refused(read_rows(path, ["a"], Notes()))


def test_numbers_and_truth_values_are_texts_as_json_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"a": 1, "b": 2.5}', '{"a": true, "b": 3.0}', '{"a": null, "b": ["x", 7]}')
    assert cells(path, "a", "b") == [("1", "2.5"), ("true", "3"), (None, ("x", "7"))]


def test_halves_of_characters_and_nul_are_counted(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "t.jsonl", '{"a": "x\\ud800y"}', '{"a": "x\\u0000y"}'), Notes()
    assert cells(path, "a", notes=notes) == [("x\ufffdy",), ("xy",)]
    (line,) = notes.lines()
    assert line.startswith("2 texts from which NUL was removed")


def test_a_field_may_be_longer_than_what_csv_takes_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a", "x" * 200_000)
    assert cells(path, "a") == [("x" * 200_000,)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.tsv", b"", ["t.tsv is empty"]),
        ("t.tsv", b"a\tb\n", ["t.tsv has no rows"]),
        ("t.jsonl", b"\n", ["t.jsonl has no rows"]),
        ("t.tsv", b"A\tb\nx\ty\n", ["has no column 'a'; it has: 'A', 'b'", "did you mean"]),
        ("t.tsv", b"a\ta\nx\ty\n", ["2 columns 'a'"]),
        ("t.tsv", b"a\tb\nx\ty\nz\n", ["1 field, not 2 as the header", "t.tsv, line 3"]),
        ("t.tsv", b"a\tb\nx\ty\tz\n", ["3 fields, not 2", "t.tsv, line 2"]),
        ("t.csv", b'a,b\n"x\ny",z\nw\n', ["1 field, not 2", "t.csv, line 4", "a comma in a field"]),
        ("t.csv", b"b;a\nx;y\n", ["no column 'a'", "it looks separated by ';': write it with commas"]),
        ("t.csv", b"b\ta\nx\ty\n", ["no column 'a'", "it looks separated by tabs", "ends with .tsv"]),
        ("t.tsv", b"b,a\nx,y\n", ["no column 'a'", "it looks separated by ','", "ends with .csv"]),
        ("t.tsv", b"good\tpositive\n", ["no column 'a'", "name the columns? if so, choose one of: good, positive"]),
        ("t.csv", b'a,b\nx,"y\nz\n', ["a quote is opened and never closed", "t.csv, line 2"]),
        ("t.csv", b'a,b\n"x"y,z\n', ["is not CSV", "t.csv, line 2"]),
        ("t.tsv", b"a\tb\nx\t\0y\n", ["NUL byte", "t.tsv, line 2"]),
        ("t.tsv", b"a\tb\nx\ty\ncaf\xe9\tz\n", ["byte 4 of the line, 0xe9, is not UTF-8", "t.tsv, line 3", "iconv"]),
        ("t.tsv", "a\tb\nx\ty\n".encode("utf-16"), ["UTF-16", "iconv -f utf-16"]),
        ("t.tsv", b"PK\x03\x04", ["a zip archive"]),
        ("t.tsv", b"a\tb\rx\ty\r", ["end with a carriage return alone"]),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', ["is not JSON", "t.jsonl, line 2"]),
        ("t.jsonl", b'["a"]\n', ["not a JSON object but a list", "t.jsonl, line 1"]),
        ("t.jsonl", b'{"aa": 1}\n', ["no column 'a'; it has: 'aa'", "t.jsonl, line 1", "did you mean 'aa'?"]),
        ("t.jsonl", b'{"a": {"b": 1}}\n', ["column 'a' holds an object", "t.jsonl, line 1"]),
        ("t.parquet", b"PAR1 and no more", ["is damaged or not what its name says"]),
        ("t.gz", b"", ["does not say what kind of table", ".csv"]),
        ("t.csv.gz", b"a\nb\n", ["is damaged or not what its name says"]),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, says: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(read_rows(tmp_path / name, ["a"], Notes()))
    assert all(part in message for part in says), message
    assert "--corpus" not in message


def test_a_missing_file_and_a_missing_column_of_parquet_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(read_rows(tmp_path / "t.csv", ["a"], Notes()))
    pq.write_table(pa.table({"b": ["x"], "c": [b"x"]}), tmp_path / "t.parquet")
    assert "no column 'a'; it has: 'b', 'c'" in refused(read_rows(tmp_path / "t.parquet", ["a"], Notes()))
    assert "column 'c' holds bytes" in refused(read_rows(tmp_path / "t.parquet", ["c"], Notes()))
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert "has no rows" in refused(read_rows(tmp_path / "t.parquet", ["a"], Notes()))


def test_a_line_or_field_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 100)
    path = write(tmp_path / "t.tsv", "a\tb", "x" * 99 + "\ty")
    message = refused(read_rows(path, ["a"], Notes()))
    assert "longer than 100 bytes" in message
    assert "t.tsv, line 2" in message


def test_an_unclosed_quote_in_a_large_file_is_named_where_it_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b", '"x,y', *["z" * 1000 + ",z"] * 17_000)
    message = refused(read_rows(path, ["a"], Notes()))
    assert "is a quote never closed?" in message
    assert "t.csv, line 2" in message


def test_ragged_rows_are_counted_up_to_a_share(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "t.tsv", "a\tb", "x", *["x\ty"] * 999), Notes()
    rows = read_rows(path, ["a"], notes, leave_out_ragged=True)
    assert len(list(rows)) == 999
    assert notes.lines() == ["1 rows of t.tsv with a wrong number of fields were left out (first: t.tsv, line 2)"]
    path = write(tmp_path / "t.tsv", "a\tb", "x", *["x\ty"] * 998)
    message = refused(read_rows(path, ["a"], notes, leave_out_ragged=True))
    assert "1 of 999 rows of t.tsv do not have 2 fields" in message
    assert "t.tsv, line 2" in message


def test_a_file_without_header_takes_the_names_that_are_given(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x,y", '"1,5",z')
    rows = read_rows(path, ["b"], Notes(), header=("a", "b"))
    assert [row.cells["b"] for row in rows] == ["y", "z"]
    path = write(tmp_path / "t.csv", "x")
    assert "1 field, not 2 as expected" in refused(read_rows(path, ["b"], Notes(), header=("a", "b")))
