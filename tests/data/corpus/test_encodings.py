# ruff: noqa: RUF001 - letters of other alphabets are what this is about
"""Files that are not UTF-8: refused with their names and likely encodings, or decoded by the one that is given."""

from __future__ import annotations

import codecs
import io
import json
import os
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.corpus import Source, documents, read, scan
from bertjobs.data.corpus.encodings import as_utf8, canonical, likely
from bertjobs.errors import InputError
from tests.data.corpus.test_bad_input import refused
from tests.data.corpus.test_sources import COMPRESS

TEXTS = {
    "cp1252": "Müller wohnt in Köln. Die Straße ist schön, und über den Dächern flogen Vögel. „Ja“, sagte er – so.\n",
    "latin-1": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Où est-il né ?\n",
    "cp1250": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Żółć i łąka.\n",
    "cp1251": "Привет, мир. Это обычный русский текст о жизни и работе.\n",
    "koi8_r": "Привет, мир. Это обычный русский текст о жизни и работе.\n",
    "shift_jis": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "euc_jp": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "gb18030": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。\n",
    "big5": "人人生而自由，在尊嚴和權利上一律平等。\n",
    "euc_kr": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n",
    "cp1253": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.\n",
    "cp1256": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.\n",
    "cp874": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน\n",
}
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
SAMPLES = [
    *TEXTS.items(),
    *((name, TEXTS[text]) for name in WIDE for text in ("cp1252", "cp1251", "gb18030", "cp1256")),
]


@pytest.mark.parametrize("kind", ["text", "lddl"])
@pytest.mark.parametrize(("encoding", "text"), SAMPLES)
def test_a_file_in_another_encoding_is_refused_with_an_encoding_that_reads_it(
    tmp_path: Path, kind: str, encoding: str, text: str
) -> None:
    lines = "".join(f"id{number} {text}" for number in range(60))
    path = tmp_path / "a.txt"
    path.write_bytes(lines.encode(encoding))
    with pytest.raises(InputError, match="is not UTF-8") as caught:
        scan([Source(kind, str(tmp_path))])
    assert str(path) in caught.value.what
    assert caught.value.hint
    name = caught.value.hint.partition("--encoding ")[2].partition(";")[0]
    if name == encoding or lines.encode(encoding).decode(name) == lines:
        named = list(documents(f"{kind}:{path}#encoding={name}"))
        assert "".join(document.text for document in named).count(text.strip()) == 60
    else:  # Western encodings differ in letters that a short text may lack
        assert {name, encoding} <= {"cp1252", "cp1250", "cp1251", "latin-1", "euc_kr", "cp949"}, (name, encoding)
        assert name == "cp1252"


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text " * 100)
    return buffer.getvalue()


def _npy(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "is a PNG image, not text"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)) * 9, "is a JPEG image, not text"),
        (b"%PDF-1.4\n" + b"1 0 obj << /Length 3 >> endobj\n" * 99, "is a PDF document, not text"),
        (_zip(), "is a zip archive"),
        (_npy(np.arange(999)), "is a NumPy array"),
        (_npy(np.arange(999))[128:], "is binary data, not text"),
        (np.random.default_rng(1).random(999).tobytes(), "is binary data, not text"),
        (b"SQLite format 3\0" + bytes(999), "is an SQLite database"),
    ],
    ids=["png", "jpeg", "pdf", "zip", "npy", "integers", "floats", "sqlite"],
)
@pytest.mark.parametrize("kind", ["text", "lddl", "jsonl"])
def test_a_binary_file_is_refused_for_what_it_is(tmp_path: Path, kind: str, content: bytes, says: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    message = refused(f"{kind}:{path}")
    assert says in message
    assert f"'{path}'" in message
    assert "leave it out of the corpus" in message


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_without_its_suffix_says_so(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.txt").write_bytes(COMPRESS[suffix](b"Some text. " * 999))
    message = refused(f"text:{tmp_path}")
    assert f"a.txt' is compressed, but its name does not end in {suffix}" in message
    assert f"add {suffix} to its name" in message


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "gb18030"])
def test_json_lines_in_another_encoding_are_not_called_broken_json(tmp_path: Path, encoding: str) -> None:
    text = TEXTS["gb18030" if encoding == "gb18030" else "cp1252"]
    path = tmp_path / "a.jsonl"
    path.write_bytes("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for _ in range(99)).encode(encoding))
    assert "is not UTF-8" in refused(f"jsonl:{path}")
    assert [one.text for one in documents(f"jsonl:{path}#encoding={encoding}")] == [text] * 99


def test_a_file_among_many_that_nobody_looked_at_is_refused_when_it_is_read(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}.txt").write_bytes("Schöne Grüße aus Köln.\n".encode() * 9)
    bad = tmp_path / "037.txt"
    bad.write_bytes(("Schöne Grüße aus Köln.\n" * 9).encode("cp1252"))
    pieces = scan([Source("text", str(tmp_path))])  # it is not one of the few that are looked at
    with pytest.raises(InputError) as caught:
        list(read(pieces[0], "text"))
    assert f"'{bad}' is not UTF-8" in str(caught.value)


def test_small_files_are_judged_together_where_each_is_too_small(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number:03}.txt").write_bytes("Köln, Grüße\n".encode("cp1252"))  # two bytes each
    assert "000.txt' is not UTF-8" in refused(f"text:{tmp_path}")


def test_a_few_bad_bytes_are_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("Schöne Grüße. " * 5000).encode() + b"\xff\xfe\x80\0" + b" Ende." * 999)
    (document,) = documents(f"text:{tmp_path}")
    assert (document.replaced, document.nul) == (3, 1)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")  # so few say nothing
    assert [one.text for one in documents(f"text:{tmp_path}")][1] == "caf\ufffd"


def test_utf8_that_was_damaged_is_not_called_another_encoding(tmp_path: Path) -> None:
    lines = TEXTS["cp1251"].encode().splitlines() * 100
    (tmp_path / "a.txt").write_bytes(b"\n".join(line[:50] + line[51:] for line in lines))  # a byte of each is lost
    message = refused(f"text:{tmp_path}")
    assert "it looks like UTF-8 that was damaged" in message
    assert "iconv -c -f utf-8" in message


def test_utf8_s_own_mark_is_removed(tmp_path: Path) -> None:
    for kind, line in (("text", "Eins."), ("lddl", "id Eins."), ("jsonl", '{"text": "Eins."}')):
        path = tmp_path / f"{kind}.txt"
        path.write_bytes(codecs.BOM_UTF8 + line.encode())
        for source in (f"{kind}:{path}", f"{kind}:{path}#encoding=utf-8-sig"):
            (document,) = documents(source)
            assert document.text == "Eins."
            assert "\ufeff" not in document.id


def test_a_column_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    wrong = pa.array([TEXTS["cp1252"].encode("cp1252")] * 9, type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    message = refused(f"parquet:{tmp_path}")
    assert "in column 'text' of" in message
    assert "a.parquet' are not UTF-8" in message


# ---------------------------------------------------------------- --encoding


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le", "cp1252", "gb18030", "shift_jis"])
@given(
    lines=st.lists(st.text("abcäöü €\t", min_size=1, max_size=50), min_size=1, max_size=20),
    piece_bytes=st.integers(1, 99),
)
@settings(max_examples=25, deadline=None)
def test_text_in_any_encoding_is_that_of_utf8(encoding: str, lines: list[str], piece_bytes: int) -> None:
    """However small the pieces are asked for: a file in another encoding is one."""
    text = "\n".join(f"id{number} {line}." for number, line in enumerate(lines))
    text = text.encode(encoding, "ignore").decode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.txt").write_text(text, encoding="utf-8", newline="")
        (Path(folder) / "b.dat").write_bytes(text.encode(encoding))
        plain, other = (
            [(one.id, one.text) for piece in scan([source], piece_bytes) for one in read(piece, "lddl")]
            for source in (Source("lddl", f"{folder}/a.txt"), Source("lddl", f"{folder}/b.dat", encoding=encoding))
        )
    assert plain == other


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bert", "Müller wohnt hier.\nSchön.\n\nÜber den Dächern.\n"),
        ("wikiextractor", '<doc id="1" url="u" title="Öl">\nÖl\n\nMüller wohnt hier.\n</doc>\n' * 3),
        ("wikiextractor", '{"id": "1", "title": "Öl", "text": "Müller wohnt hier."}\n' * 3),
    ],
)
def test_all_kinds_of_text_have_encodings(tmp_path: Path, kind: str, text: str, encoding: str) -> None:
    folders = (tmp_path / "plain", tmp_path / encoding)
    for folder, written in zip(folders, ("utf-8", "utf-8-sig" if encoding == "utf-8" else encoding), strict=True):
        folder.mkdir()
        for name in ("wiki_00", "wiki_01"):
            (folder / (name if kind == "wikiextractor" else f"{name}.txt")).write_bytes(text.encode(written))
    plain, other = (
        [(one.id, one.text) for one in documents(f"{kind}:{folder}{option}")]
        for folder, option in zip(folders, ("", f"#encoding={encoding}"), strict=True)
    )
    assert [text for _, text in other] == [text for _, text in plain] != []
    if kind == "wikiextractor":
        assert other == plain
    if encoding == "utf-16":
        assert "is not UTF-8" in refused(f"{kind}:{folder}")


@given(
    text=st.text(max_size=300),
    cuts=st.lists(st.integers(0, 1200), max_size=9),
    name=st.sampled_from([*WIDE, "gb18030"]),
)
def test_chunks_may_end_inside_a_character(text: str, cuts: list[int], name: str) -> None:
    raw = text.encode(name, "replace")
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    chunks = [raw[start:end] for start, end in pairwise(ends)]
    assert b"".join(as_utf8(iter(chunks), name)).decode() == raw.decode(name)


@pytest.mark.parametrize(
    ("encoding", "raw", "expected"),
    [
        ("cp1252", b"caf\xe9 \x81 \x8d.", ("café \ufffd \ufffd.", 2)),
        ("ascii", b"caf\xe9.", ("caf\ufffd.", 1)),
        ("utf-16-le", "ab".encode("utf-16-le") + b"\0\xd8" + "c".encode("utf-16-le"), ("ab\ufffdc", 1)),
        ("utf-8", b"a\xef\xbf\xbdb\xffc", ("a\ufffdb\ufffdc", 1)),
    ],
)
def test_what_is_not_of_the_given_encoding_is_replaced_and_counted(
    tmp_path: Path, encoding: str, raw: bytes, expected: tuple[str, int]
) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    (document,) = documents(f"text:{tmp_path}#encoding={encoding}")
    assert (document.text, document.replaced) == expected


def test_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("Schöne Grüße aus Köln. " * 99).encode())
    assert "is not ascii" in refused(f"text:{tmp_path}#encoding=ascii")
    assert "looks like UTF-8" in refused(f"text:{tmp_path}#encoding=ascii")
    message = refused(f"text:{tmp_path}#encoding=utf-16")
    assert "has no byte order mark; it looks like UTF-8" in message
    (tmp_path / "a.txt").write_bytes(("Schöne Grüße. " * 99).encode("utf-16-be"))
    assert "--encoding utf-16-be" in refused(f"text:{tmp_path}#encoding=utf-16")


def test_names_of_encodings() -> None:
    assert canonical("Latin1") == canonical("ISO-8859-1") == "iso8859-1"
    assert canonical("UTF8") == canonical("utf-8-sig") == ""
    for name in ("rot13", "hex", "idna", "nosuch", "", "undefined", "a\0b"):
        with pytest.raises(InputError, match="there is no encoding"):
            canonical(name)
    with pytest.raises(InputError, match="did you mean 'latin-1'"):
        Source.parse("text:/a#encoding=latin-l")
    with pytest.raises(InputError, match="has no option 'encoding'"):
        Source.parse("parquet:/a#encoding=cp1252")
    source = Source.parse("jsonl:/a#field=body#encoding=latin1@2")
    assert Source.parse(str(source)) == source == Source("jsonl", "/a", 2.0, "body", encoding="iso8859-1")
    assert Source("parquet", "/a").in_encoding("cp1252") == Source("parquet", "/a")
    assert Source("text", "/a", encoding="big5").in_encoding("cp1252").encoding == "big5"
    assert Source("text", "/a").in_encoding("cp1252").encoding == "cp1252"


def test_random_bytes_are_not_taken_for_text() -> None:
    assert not likely(os.urandom(20_000)).text


@pytest.mark.parametrize("encoding", ["cp1252", "cp850", "mac-roman"])
@pytest.mark.parametrize("times", [1, 60_000], ids=["one letter", "megabytes"])
def test_utf8_is_not_read_as_an_encoding_of_single_bytes(tmp_path: Path, encoding: str, times: int) -> None:
    for number in range(60):
        (tmp_path / f"{number:03}.txt").write_bytes(b"Plain ASCII. " * 9)
    (tmp_path / "037.txt").write_bytes(b"Plain ASCII. " * 6000 + "Köln liegt am Rhein. ".encode() * times)
    message = refused(f"text:{tmp_path}#encoding={encoding}")  # none of the few that are looked at beforehand
    assert f"037.txt' is not {encoding}; it looks like UTF-8" in message
    assert "leave --encoding out" in message
    (tmp_path / "037.txt").write_bytes(("Köln. " * 99).encode(encoding))
    assert len(list(documents(f"text:{tmp_path}#encoding={encoding}"))) == 60


def test_an_encoding_is_advised_only_where_no_other_file_is_utf8(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_bytes(
            (TEXTS["cp1252"] * 9).encode("cp1252" if number else "ascii", "ignore")
        )
    assert "if that is right, add --encoding cp1252" in refused(f"text:{tmp_path}")
    (tmp_path / "3.txt").write_bytes((TEXTS["cp1252"] * 9).encode())
    message = refused(f"text:{tmp_path}")
    assert "convert this file from cp1252 to UTF-8; other files are UTF-8" in message
    assert "add --encoding" not in message
