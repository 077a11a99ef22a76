"""Pieces: however small they are cut, together they give each document once, in order, in bounded memory."""

from __future__ import annotations

import bz2
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.corpus import Document, Source, documents, read, scan
from bertjobs.data.corpus.document import MAX_DOCUMENT, Decoded, parts

TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=60).filter(lambda text: text.strip()),
    min_size=1,
    max_size=30,
)


def read_all(source: Source, piece_bytes: int) -> list[Document]:
    return [document for piece in scan([source], piece_bytes) for document in read(piece, source.kind)]


def write_lddl(folder: Path, texts: Sequence[str]) -> str:
    half = len(texts) // 2
    for name, part in (("a", texts[:half]), ("b", texts[half:])):
        lines = "\n".join(f"{name}{line} {text}" for line, text in enumerate(part))
        (folder / f"{name}.txt").write_bytes(lines.encode())
    return f"lddl:{folder}"


def write_jsonl(folder: Path, texts: Sequence[str]) -> str:
    (folder / "a.jsonl").write_text("\n\n".join(json.dumps({"n": 1, "text": text}) for text in texts) + "\n")
    return f"jsonl:{folder}"


def write_text(folder: Path, texts: Sequence[str]) -> str:
    for name, text in enumerate(texts):
        (folder / f"{name:03}.txt").write_bytes(text.encode())
    return f"text:{folder}"


def write_parquet(folder: Path, texts: Sequence[str]) -> str:
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), folder / "a.parquet", row_group_size=3)
    return f"parquet:{folder}"


def write_hf(folder: Path, texts: Sequence[str]) -> str:
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    table = pa.table({"id": range(len(texts)), "text": texts})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    return f"hf:{folder}"


@pytest.mark.parametrize("write", [write_lddl, write_jsonl, write_text, write_parquet, write_hf])
@given(texts=TEXTS, piece_bytes=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_pieces_of_any_size_give_the_same_documents(
    write: Callable[[Path, Sequence[str]], str], texts: list[str], piece_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Source.parse(write(Path(folder), texts))
        whole = read_all(source, 1 << 30)
        assert [document.text for document in whole] == texts
        assert read_all(source, piece_bytes) == whole
        assert scan([source], piece_bytes) == scan([source], piece_bytes)


def page(number: int, text: str, namespace: int = 0, extra: str = "") -> str:
    return (
        f"<page>\n<title>T{number}</title><ns>{namespace}</ns><id>{number}</id>{extra}<revision><id>9</id>"
        f'<text bytes="1" xml:space="preserve">{text}</text></revision>\n</page>\n'
    )


HEAD, TAIL = "<mediawiki><siteinfo></siteinfo>\n", "</mediawiki>\n"


@given(
    lengths=st.lists(st.integers(0, 300), max_size=12),
    piece_bytes=st.integers(1, 2000),
    cuts=st.lists(st.integers(0, 6000), max_size=8),
    compressed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_a_dump_may_be_cut_anywhere(lengths: list[int], piece_bytes: int, cuts: list[int], compressed: bool) -> None:
    """Even where the streams of a .bz2 dump end inside a page or a tag, as parallel compressors write them."""
    pages = [page(number, f"Page {number} says " + "\u00e4 " * length + "so.") for number, length in enumerate(lengths)]
    raw = (HEAD + "".join(pages) + TAIL).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("dump.xml.bz2" if compressed else "dump.xml")
        ends = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
        streams = [raw[start:end] for start, end in pairwise(ends)]
        path.write_bytes(b"".join(map(bz2.compress, streams)) if compressed else raw)
        source = Source("mediawiki", str(path))
        whole = read_all(source, 1 << 30)
        assert [document.id for document in whole] == [str(number) for number in range(len(lengths))]
        assert read_all(source, piece_bytes) == whole
        if compressed and piece_bytes < 100:
            assert len(scan([source], piece_bytes)) == len(streams)


def test_pieces_are_near_the_size_asked_for(tmp_path: Path) -> None:
    source = Source.parse(write_lddl(tmp_path, ["word " * 20] * 4000))
    pieces = scan([source], 10_000)
    assert sum(piece.text_bytes for piece in pieces) == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert max(piece.text_bytes for piece in pieces) <= 10_000
    assert len(pieces) < 60


def test_small_files_of_text_share_pieces(tmp_path: Path) -> None:
    source = Source.parse(write_text(tmp_path, ["x" * 100] * 50 + ["y" * 2000] + ["z" * 100]))
    pieces = scan([source, source], 1000)
    assert [len(piece.paths) for piece in pieces] == [10] * 5 + [1, 1] + [10] * 5 + [1, 1]
    assert [piece.source for piece in pieces] == [0] * 7 + [1] * 7


# ---------------------------------------------------------------- long documents


@given(
    words=st.lists(st.text("abc\u00e4", min_size=1, max_size=30), min_size=1, max_size=60),
    longest=st.integers(5, 100),
    step=st.integers(1, 50),
)
@settings(deadline=None)
def test_parts_are_the_whole_and_end_at_white_space(words: list[str], longest: int, step: int) -> None:
    text = " ".join(words)
    stretches = [Decoded(text[place : place + step], 0, 0, step) for place in range(0, len(text), step)]
    pieces = list(parts("d", stretches, longest))
    assert "".join(part.text for part in pieces).split() == text.split() or max(map(len, words)) >= longest
    assert "".join(part.text for part in pieces).replace(" ", "") == text.replace(" ", "")
    assert max(len(part.text) for part in pieces) <= longest
    assert [part.id for part in pieces] == ["d", *(f"d#{number}" for number in range(2, len(pieces) + 1))]
    for part in pieces[:-1]:
        assert part.text.endswith(" ") or " " not in part.text.strip()
    assert pieces == list(parts("d", [Decoded(text, 0, 0, sum(part.size for part in pieces))], longest)) or step < len(
        text
    )


MEMORY = """
import sys
from bertjobs.data.corpus import documents

def peak():  # of this program; getrusage also counts the one that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

list(documents(sys.argv[1]))
before = peak()
sizes = [len(document.text) for document in documents(sys.argv[2])]
print(sum(sizes), max(sizes), len(sizes), peak() - before)
"""


@pytest.mark.parametrize("kind", ["lddl", "text", "bert", "jsonl", "jsonl-skipped"])
def test_50_mb_in_one_line_are_read_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    words = 10_000_000
    kind, _, skipped = kind.partition("-")
    begin, word, end = {"lddl": ("id ", "word ", ""), "jsonl": ('{"text": "', r"w\"d ", '"}')}.get(
        kind, ("", "word ", "")
    )
    if skipped:
        begin, end = '{"other": "', '", "more": [{"text": "no"}, 1e3, "x"], "text": "Short."}'
    suffix = "jsonl" if kind == "jsonl" else "txt"
    for name, count in (("small", 10), ("large", words)):
        with (tmp_path / f"{name}.{suffix}").open("w") as file:
            file.write(begin + word * count + end)
    command = [sys.executable, "-c", MEMORY, f"{kind}:{tmp_path}/small.{suffix}", f"{kind}:{tmp_path}/large.{suffix}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    characters, longest, count, kilobytes = map(int, output.split())
    if skipped:
        assert (characters, count) == (6, 1)
    else:
        each = len(word) if kind != "jsonl" else 4
        assert characters == words * each
        assert longest <= MAX_DOCUMENT
        assert count == -(-characters // MAX_DOCUMENT)
    assert kilobytes < 30_000


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) - 1, (1 << 20) + 1, 3_000_000])
def test_a_long_json_line_gives_the_text_that_json_gives(tmp_path: Path, length: int) -> None:
    unit = 'ab"\\ \u00e4\u20ac \U0001f600 \t'
    text = (unit * (length // len(unit) + 1))[:length]
    for ascii_only in (True, False):
        (tmp_path / "a.jsonl").write_text(
            json.dumps({"pre": ["x" * 2_000_000, {"text": 1}], "text": text, "n": 1}, ensure_ascii=ascii_only)
            + '\n{"text": "next"}'
        )
        texts = list(documents(f"jsonl:{tmp_path}"))
        assert "".join(document.text for document in texts[:-1]) == text
        assert texts[-1].text == "next"


@pytest.mark.parametrize("tail", ["", '"', '"]', '"} x', '\\x"}', '\\ud83"}'])
def test_a_long_json_line_that_is_broken_is_refused(tmp_path: Path, tail: str) -> None:
    from bertjobs.errors import InputError

    (tmp_path / "a.jsonl").write_text('{"text": "' + "word " * 500_000 + tail)
    with pytest.raises(InputError, match=r"line 1 of .* is not a JSON object"):
        list(documents(f"jsonl:{tmp_path}"))
