"""What the user writes as a corpus, and the documents that each kind makes of it."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.corpus import KINDS, Piece, Source, documents, named_on_disk, read, scan
from bertjobs.errors import InputError


def texts(source: str) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in documents(source)]


# ---------------------------------------------------------------- the syntax of --corpus


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("text:/a/b", Source("text", "/a/b")),
        ("lddl:/a@2.5", Source("lddl", "/a", 2.5)),
        ("lddl:/a@home/b", Source("lddl", "/a@home/b")),
        ("text:/a@1@2", Source("text", "/a@1", 2.0)),
        ("text:/a@v2", Source("text", "/a@v2")),
        ("jsonl:/a#field=body", Source("jsonl", "/a", field="body")),
        ("hf:/a#split=train#field=body@3", Source("hf", "/a", 3.0, "body", "train")),
        ("hf:/a#field=body#split=train@1e-2", Source("hf", "/a", 0.01, "body", "train")),
        ("jsonl:s3://bucket/a#1.jsonl", Source("jsonl", "s3://bucket/a#1.jsonl")),
        ("text:memory://x", Source("text", "memory://x")),
    ],
)
def test_a_source_is_kind_path_options_weight(given: str, expected: Source) -> None:
    assert Source.parse(given) == expected


@given(
    kind=st.sampled_from(sorted(KINDS)),
    path=st.text(st.characters(exclude_characters="#@"), min_size=1)
    | st.sampled_from(["a@2023", "@1.5", "a@b", "a@-1"]),
    weight=st.just(1.0) | st.floats(min_value=1e-6, max_value=1e6),
)
def test_a_source_reads_back_what_it_writes(kind: str, path: str, weight: float) -> None:
    source = Source(kind, path, weight)
    assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("txt:/a", "did you mean 'text'"),
        ("/a", "does not say its kind"),
        ("/a b", "'text:/a b'?"),
        ("s3://bucket/a", "unknown kind of corpus 's3'"),
        ("text:", "names no path"),
        ("text:@2", "names no path"),
        ("text:/a@0", "is not above 0"),
        ("text:/a@-1", "is not above 0"),
        ("text:/a#field=b", "has no option 'field'"),
        ("jsonl:/a#split=b", "has no option 'split'"),
    ],
)
def test_a_nonsensical_source_is_refused(given: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Source.parse(given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("there", "given", "path", "weight"),
    [
        (["folder@2023"], "text:{}/folder@2023", "folder@2023", 1.0),
        (["folder@2023"], "text:{}/folder@2023@2", "folder@2023", 2.0),
        (["folder"], "text:{}/folder@2", "folder", 2.0),
        ([], "text:{}/folder@2", "folder", 2.0),
        (["folder@v2"], "text:{}/folder@v2", "folder@v2", 1.0),
        (["folder@2", "folder"], "text:{}/folder@2@1", "folder@2", 1.0),
        (["folder@2", "folder"], "text:{}/folder@+2.0", "folder", 2.0),
        (["f@1.5"], "jsonl:file://{}/f@1.5", "f@1.5", 1.0),
    ],
)
def test_a_name_that_ends_like_a_weight_is_a_name_where_it_exists(
    tmp_path: Path, there: list[str], given: str, path: str, weight: float
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    source = Source.parse(named_on_disk(given.format(tmp_path)))
    assert (source.path.removeprefix("file://"), source.weight) == (f"{tmp_path}/{path}", weight)


def test_a_weight_that_may_also_be_a_name_is_refused_with_both_ways_to_write_it(tmp_path: Path) -> None:
    for name in ("books", "books@2.5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"In {name}.")
    with pytest.raises(InputError, match="both exist") as caught:
        list(documents(f"text:{tmp_path}/books@2.5"))
    for written, expected in ((f"text:{tmp_path}/books@2.5@1", "books@2.5"), (f"text:{tmp_path}/books@+2.5", "books")):
        assert written in str(caught.value)
        assert texts(written) == [("a.txt", f"In {expected}.")]


def test_a_piece_goes_through_json(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    (piece,) = scan([Source("text", str(tmp_path))])
    assert len(piece.paths) == 2
    assert Piece.from_json(json.loads(json.dumps(asdict(piece)))) == piece


# ---------------------------------------------------------------- the kinds


def test_a_folder_of_text_gives_one_document_per_file_in_the_order_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "notes.md", ".d.txt", ".hidden/e.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    assert texts(f"text:{tmp_path}") == [(name, f"text of {name}") for name in ("a.txt", "b.txt", "sub/c.txt")]
    assert texts(f"text:{tmp_path}/sub/c.txt") == [("c.txt", "text of sub/c.txt")]
    assert texts(f"text:file://{tmp_path}/sub") == [("c.txt", "text of sub/c.txt")]


def test_an_lddl_line_is_a_document_whatever_white_space_follows_its_id(tmp_path: Path) -> None:
    source = "one First text.\r\ntwo\tSecond \u2028 text.\n\n \t \nthree\nfour  Last"
    (tmp_path / "part.txt").write_bytes(source.encode())
    named = [(name, text.strip()) for name, text in texts(f"lddl:{tmp_path}")]
    assert named == [("one", "First text."), ("two", "Second \u2028 text."), ("four", "Last")]


def test_an_lddl_line_is_split_as_lddl_splits_it(tmp_path: Path) -> None:
    lines = ["a b c", "a\u00a0b", "a\tb  c", "  two", "x\u2003y"]
    (tmp_path / "part.txt").write_text("\n".join(lines), encoding="utf-8")

    def by_lddl(line: str) -> tuple[str, str]:  # its rule: the id ends before the first white space, which is dropped
        end = next(place for place, character in enumerate(line) if character.isspace())
        return line[:end], line[end + 1 :]

    assert texts(f"lddl:{tmp_path}") == [by_lddl(line) for line in lines]


def test_json_lines_have_their_text_in_a_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"text": "Eins\nzwei \u00e4", "n": [1, {"text": "no"}]},
        {"n": 2, "text": None},
        {"text": "Drei", "body": "B"},
    ]
    path.write_bytes("\n".join(json.dumps(row) for row in rows[:2]).encode() + b"\r\n\r\n")
    path.write_bytes(path.read_bytes() + json.dumps(rows[2], ensure_ascii=False).encode())
    named = texts(f"jsonl:{path}")
    assert [text for _, text in named] == ["Eins\nzwei \u00e4", "Drei"]
    assert named[0][0] == "a.jsonl:0"
    path.write_text(json.dumps(rows[2]))
    assert texts(f"jsonl:{path}#field=body") == [("a.jsonl:0", "B")]


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("jsonl", "a.jsonl", r'{"text": "a \ud800 b \u0000 c"}'),
        ("jsonl", "a.jsonl", r'{"text": "' + r"a \ud800 b \u0000 c" * 60_000 + '"}'),  # longer than a chunk
        ("wikiextractor", "wiki_00", r'{"id": "1", "title": "A", "text": "a \ud800 b \u0000 c"}'),
    ],
)
def test_escapes_in_json_are_counted_and_no_sign_of_another_encoding(
    tmp_path: Path, kind: str, name: str, line: str
) -> None:
    (tmp_path / name).write_text(f"{line}\n" * 30)
    source = Source.parse(f"{kind}:{tmp_path}")
    (piece,) = scan([source], 1 << 30)
    odd: dict[str, int] = {}
    found = list(read(piece, kind, odd=odd))
    escapes = 30 * (line.count(r"\ud800") + line.count(r"\u0000"))
    assert sum(document.replaced + document.nul for document in found) == escapes
    assert sum(document.escaped for document in found) == escapes
    assert odd == {name: escapes}
    with (tmp_path / name).open("ab") as file:
        file.write(line.encode().replace(b"a ", b"\xe4 ") + b"\n")
        file.write(b'{"id": "1", "text": "' + b"\xe4" * 30_000 + b'"}\n')
    with pytest.raises(InputError, match="is not UTF-8"):
        list(documents(f"{kind}:{tmp_path}"))


def test_half_surrogates_and_nul_from_json_escapes_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"text": "a\ud800b\u0000c\ud83d\ude00"}')
    (document,) = documents(f"jsonl:{tmp_path}")
    assert (document.text, document.replaced, document.nul) == ("a\ufffdbc\U0001f600", 1, 1)
    assert (document.escaped, document.halves) == (2, 1)


@pytest.mark.parametrize("column", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_are_documents(tmp_path: Path, column: pa.DataType) -> None:
    rows = ["Eins.", None, " ", "Zwei \u00e4.", "Drei.", "Eins."]
    for name in ("b", "a"):
        table = pa.table({"id": range(6), "text": pa.array(rows).cast(column), "body": [name] * 6})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2)
    kept = [(0, "Eins."), (3, "Zwei \u00e4."), (4, "Drei."), (5, "Eins.")]
    assert texts(f"parquet:{tmp_path}") == [(f"{name}.parquet:{row}", text) for name in "ab" for row, text in kept]
    assert [text for _, text in texts(f"parquet:{tmp_path}#field=body")] == ["a"] * 6 + ["b"] * 6


def test_a_hugging_face_folder_is_read_without_its_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [f"Text {row}." for row in range(2500)]
    made = datasets.Dataset.from_dict({"text": rows, "label": [0] * 2500})
    made.save_to_disk(str(tmp_path / "one"), num_shards=2)
    named = texts(f"hf:{tmp_path}/one")
    assert [text for _, text in named] == rows
    assert len({name for name, _ in named}) == 2500
    filtered = made.filter(lambda row: row["text"].endswith("7."))
    filtered.save_to_disk(str(tmp_path / "filtered"))
    assert [text for _, text in texts(f"hf:{tmp_path}/filtered")] == [row for row in rows if row.endswith("7.")]
    both = datasets.DatasetDict({"train": made.select(range(5)), "test": made.select(range(5, 8))})
    both.save_to_disk(str(tmp_path / "both"))
    assert [text for _, text in texts(f"hf:{tmp_path}/both")] == rows[:8]
    assert texts(f"hf:{tmp_path}/both#split=test")[0][1] == rows[5]
    with pytest.raises(InputError, match="did you mean 'test'"):
        scan([Source.parse(f"hf:{tmp_path}/both#split=tests")])


def test_a_hugging_face_folder_of_one_split_is_not_another(tmp_path: Path) -> None:
    with pa.ipc.new_stream(tmp_path / "data.arrow", pa.schema({"text": pa.string()})) as stream:
        stream.write_table(pa.table({"text": ["Eins."]}))

    def state(**more: object) -> None:
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], **more}))

    for name, said in (("train", "is the split 'train'"), (None, "is one split, without a name")):
        state(_split=name)
        assert len(texts(f"hf:{tmp_path}")) == 1
        with pytest.raises(InputError, match=said) as caught:
            scan([Source.parse(f"hf:{tmp_path}#split=validation")])
        assert "leave out #split=validation" in str(caught.value.hint)
    state()
    with pytest.raises(InputError, match="without a name"):
        scan([Source.parse(f"hf:{tmp_path}#split=validation")])
    state(_split="train")
    assert len(texts(f"hf:{tmp_path}#split=train")) == 1


# ---------------------------------------------------------------- bytes


def _zst(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, "zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _zst,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_read_as_what_they_hold(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESS[suffix]
    lines = [f"id{line} Text \u00e4 {line}.".encode() for line in range(1000)]
    half = b"\n".join(lines[:500]) + b"\n"
    (tmp_path / f"a.txt{suffix}").write_bytes(compress(half) + compress(b"\n".join(lines[500:])))
    named = texts(f"lddl:{tmp_path}")
    assert named == [(f"id{line}", f"Text \u00e4 {line}.") for line in range(1000)]
    assert len(texts(f"text:{tmp_path}")) == 1


def zst_frame(raw: bytes, window_log: int) -> bytes:
    """A frame of one block that is not compressed, whose header asks for a window of 2**window_log bytes (RFC 8878)."""
    header = (0xFD2FB528).to_bytes(4, "little") + b"\0" + bytes([(window_log - 10) << 3])
    return header + (len(raw) << 3 | 1).to_bytes(3, "little") + raw


@pytest.mark.parametrize("window_log", [20, 27, 28, 31])
def test_zstd_with_a_long_window_is_read(tmp_path: Path, window_log: int) -> None:
    """As `zstd --long=31` writes it; other readers stop at 27."""
    (tmp_path / "a.txt.zst").write_bytes(zst_frame(b"one Eins.\n", window_log) + zst_frame(b"two Zwei.", window_log))
    assert texts(f"lddl:{tmp_path}") == [("one", "Eins."), ("two", "Zwei.")]


def test_without_its_library_only_usual_windows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjobs.data.corpus.zstd_stream._MODULES", ())
    (tmp_path / "a.txt.zst").write_bytes(zst_frame(b"one Eins.\n", 27))
    assert texts(f"lddl:{tmp_path}") == [("one", "Eins.")]
    (tmp_path / "a.txt.zst").write_bytes(zst_frame(b"one Eins.\n", 28))
    with pytest.raises(InputError, match="was written with a long window") as caught:
        texts(f"lddl:{tmp_path}")
    assert "pip install 'bertjobs[zstd]'" in str(caught.value)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls_are_read_through_fsspec(tmp_path: Path, scheme: str) -> None:
    import fsspec

    base = f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}"
    files = {
        "a/x.txt": b"one Eins.\ntwo Zwei.\n",
        "a/b/y.txt.gz": gzip.compress(b"three Drei."),
        "j/z.jsonl": b'{"text": "Vier."}\n{"text": "F\xc3\xbcnf."}',
    }
    for name, raw in files.items():
        with fsspec.open(f"{base}/{name}", "wb", auto_mkdir=True) as file:
            file.write(raw)
    with fsspec.open(f"{base}/p/t.parquet", "wb", auto_mkdir=True) as file:
        pq.write_table(pa.table({"text": ["Sechs."]}), file)
    assert texts(f"lddl:{base}/a") == [("three", "Drei."), ("one", "Eins."), ("two", "Zwei.")]
    assert [name for name, _ in texts(f"text:{base}/a/")] == ["b/y.txt.gz", "x.txt"]
    assert texts(f"jsonl:{base}/j/z.jsonl") == [("z.jsonl:0", "Vier."), ("z.jsonl:18", "F\u00fcnf.")]
    assert texts(f"parquet:{base}/p") == [("t.parquet:0", "Sechs.")]


def test_a_hugging_face_folder_behind_a_url(tmp_path: Path) -> None:
    import fsspec

    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["Eins.", "Zwei."]}).save_to_disk(str(tmp_path / "d"))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "d"), f"/{tmp_path.name}-hf", recursive=True)
    assert [text for _, text in texts(f"hf:memory://{tmp_path.name}-hf")] == ["Eins.", "Zwei."]


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 and \xff, but \xef\xbf\xbd was \0there before\xe2\x82")
    (document,) = documents(f"text:{tmp_path / 'a.txt'}")
    assert document.text == "caf\ufffd and \ufffd, but \ufffd was there before\ufffd"
    assert (document.replaced, document.nul) == (3, 1)
    assert document.size == (tmp_path / "a.txt").stat().st_size


@pytest.mark.parametrize("kind", ["text", "lddl", "jsonl"])
def test_a_byte_order_mark_is_not_text(tmp_path: Path, kind: str) -> None:
    body = {"text": b"id Text.", "lddl": b"id Text.", "jsonl": b'{"text": "id Text."}'}[kind]
    path = tmp_path / ("a.jsonl" if kind == "jsonl" else "a.txt")
    path.write_bytes(codecs.BOM_UTF8 + body)
    (document,) = documents(f"{kind}:{path}")
    assert document.text == ("Text." if kind == "lddl" else "id Text.")
    assert "\ufeff" not in document.id


def test_white_space_alone_is_not_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b" \n\t\xe2\x80\x83\n")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"Text.")
    assert texts(f"text:{tmp_path}") == [("c.txt", "Text.")]
    assert [list(read(piece, "text")) for piece in scan([Source("text", str(tmp_path / "a.txt"))])] == [[]]
