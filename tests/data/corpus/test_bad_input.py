"""A corpus that cannot be read is refused in one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.data.corpus import documents
from bertjobs.errors import InputError
from tests.data.corpus.test_sources import COMPRESS

DAMAGED = "damaged|truncated|cannot read"


def refused(source: str) -> str:
    with pytest.raises(InputError) as caught:
        list(documents(source))
    assert caught.value.exit_code == 64
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("text:{}/nowhere", "does not exist"),
        ("hf:{}/nowhere", "does not exist"),
        ("lddl:{}/empty", "holds no *.txt file"),
        ("parquet:{}", "holds no *.parquet file"),
        ("text:{}/blank.txt", "holds no text"),
        ("text:{}/zero.txt", "holds no text"),
        ("jsonl:{}/blank.txt", "holds no text"),
        ("hf:{}/empty", "has no state.json"),
        ("hf:{}/broken", "not what save_to_disk writes"),
        ("hf:{}/missing", "data.arrow' does not exist"),
        ("parquet:{}/blank.txt", "is damaged or not what its name says"),
        ("mediawiki:{}/blank.txt", "is not a MediaWiki XML dump"),
        ("text:{}/not.gz", "is damaged or not what its name says"),
        ("text:{}/not.bz2", "cannot read"),
        ("text:{}/not.xz", "is damaged or not what its name says"),
        ("text:{}/not.zst", "is damaged or not what its name says"),
        ("mediawiki:{}/not.bz2", "cannot read"),
        ("text:nothing://{}", "Protocol not known: nothing"),
        ("text:s3://bucket/key", "s3fs"),
        ("text:memory://nowhere{}", "does not exist"),
    ],
)
def test_a_bad_source_is_refused(tmp_path: Path, source: str, says: str) -> None:
    for folder in ("empty", "broken", "missing"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    (tmp_path / "missing" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (tmp_path / "blank.txt").write_text(" \n\n ")
    (tmp_path / "zero.txt").write_bytes(b"")
    for name in ("not.gz", "not.bz2", "not.xz", "not.zst"):
        (tmp_path / name).write_text("This is plain text, whatever its name says.")
    assert says in refused(source.format(tmp_path))


@pytest.mark.parametrize("kind", ["text", "lddl", "mediawiki"])
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_truncated_compressed_file_is_named(tmp_path: Path, suffix: str, kind: str) -> None:
    raw = "".join(f"<mediawiki>id{line} line {line * 7919 % 10007}\n" for line in range(20_000)).encode()
    whole = COMPRESS[suffix](raw)
    path = tmp_path / f"part.txt{suffix}"
    for length in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        message = refused(f"{kind}:{path}")
        assert str(path) in message
        assert any(word in message for word in DAMAGED.split("|")), message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "is not a JSON object"),
        (b"[1]", "is not a JSON object: it is a list"),
        (b'"text"', "is not a JSON object: it is a str"),
        (b'{"body": "x", "n": 1}', "has no field 'text'; it has: 'body', 'n'"),
        (b'{"text": 3}', "has no text in field 'text', but a int"),
        (b'{"text": "x"} more', "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
    ],
)
def test_a_json_line_without_a_text_is_named(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' * 600 + line + b"\n")
    message = refused(f"jsonl:{path}")
    assert says in message
    assert f"line 1,201 of '{path}'" in message


def test_a_missing_column_is_named_with_the_existing_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    message = refused(f"parquet:{tmp_path}")
    assert "has no column 'text'; it has: body, n" in message
    assert "holds int64, not text" in refused(f"parquet:{tmp_path}#field=n")


def test_a_column_that_is_there_twice_is_refused_and_others_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["n", "n", "text"]), path)
    assert [document.text for document in documents(f"parquet:{path}")] == ["c"]
    assert "has 2 columns named 'n': it is not clear which one holds the text" in refused(f"parquet:{path}#field=n")


ITEM = '{"type":"item","id":"Q31","labels":{"en":{"language":"en","value":"Belgium"}},"claims":{}}'


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("jsonl", "latest-all.json", f"[\n{ITEM},\n{ITEM}\n]\n"),
        ("jsonl", "items.json", f"{ITEM}\n{ITEM}\n"),
        ("jsonl", "lexemes.json", '[\n{"id":"L1","type":"lexeme","lemmas":{},"claims":{}}\n]\n'),
        ("mediawiki", "wikidatawiki.xml",
         "<mediawiki><siteinfo><dbname>wikidatawiki</dbname></siteinfo>\n<page><ns>0</ns></page></mediawiki>\n"),
        ("mediawiki", "a.xml", "<mediawiki>\n<page><ns>0</ns><id>1</id><revision><model>wikibase-item</model>"
         "<text>{}</text></revision></page></mediawiki>\n"),
    ],
)  # fmt: skip
def test_a_dump_of_wikidata_is_refused(tmp_path: Path, kind: str, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    message = refused(f"{kind}:{tmp_path}")
    assert f"{str(tmp_path / name)!r} is a dump of Wikidata" in message


def test_other_json_with_a_type_is_not_taken_for_wikidata(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"type": "item", "body": "x"}\n')
    assert "has no field 'text'" in refused(f"jsonl:{tmp_path}")


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 1000]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-10])
    assert "a.parquet' is damaged" in refused(f"parquet:{tmp_path}")
    (tmp_path / "a.parquet").write_bytes(whole[:10] + bytes(30) + whole[40:])
    assert "a.parquet'" in refused(f"parquet:{tmp_path}")


def test_a_truncated_arrow_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    path = tmp_path / "data.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])) as stream:
        stream.write_table(pa.table({"text": ["x" * 5000]}))
    path.write_bytes(path.read_bytes()[:2000])
    assert "data.arrow'" in refused(f"hf:{tmp_path}")


def test_a_very_long_line_without_an_id_is_not_lddl(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 2_000_000)
    assert "it has no id" in refused(f"lddl:{tmp_path}")


def test_a_file_most_lines_of_which_have_no_id_is_not_lddl(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一。\n" * 9 + "1 一。\n" * 8, encoding="utf-8")
    assert "9 of 17 lines of" in refused(f"lddl:{tmp_path}")
    (tmp_path / "a.txt").write_text("一。\n" * 8 + "1 一。\n" * 8, encoding="utf-8")
    assert len(list(documents(f"lddl:{tmp_path}"))) == 8


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot read" in refused(f"text:{loop}")
