"""WikiExtractor's output, written here as its versions 2 and 3 write it."""

from __future__ import annotations

import bz2
import html
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.corpus import Document, Source, documents, read, scan
from bertjobs.errors import InputError
from tests.data.corpus.test_bad_input import refused
from tests.data.corpus.test_pieces import read_all

Article = tuple[int, str, Sequence[str]]

ARTICLES: list[Article] = [
    (12, "Anarchism", ["Anarchism is a philosophy.", "History.", "It is older than <state> & law."]),
    (25, 'The "Doors" (band)', []),
    (39, "Albedo", ["Albedo", "Albedo is the fraction of light > 0 that a body reflects."]),
]
TEXTS = [
    (12, "Anarchism is a philosophy.\n\nHistory.\n\nIt is older than <state> & law."),
    (39, "Albedo\n\nAlbedo is the fraction of light > 0 that a body reflects."),
]


def doc(number: int, title: str, lines: Sequence[str]) -> str:
    """Version 3: the title, an empty line, the paragraphs escaped, an empty line before the end."""
    text = "\n".join(html.escape(line, quote=False) for line in lines)
    head = f'<doc id="{number}" url="https://en.wikipedia.org/wiki?curid={number}" title="{title}">'
    return f"{head}\n{title}\n\n{text}\n\n</doc>\n"


def json_line(number: int, title: str, lines: Sequence[str], with_title: bool = False) -> str:
    """``--json``; version 2 puts the title into the text."""
    text = "\n".join([*((title, "") if with_title else ()), *(html.escape(line, quote=False) for line in lines)])
    return (
        json.dumps({"id": str(number), "revid": "1", "url": f"https://x?curid={number}", "title": title, "text": text})
        + "\n"
    )


def old_json_line(number: int, title: str, lines: Sequence[str]) -> str:
    return json_line(number, title, lines, with_title=True)


def texts(source: str) -> list[tuple[int, str]]:
    return [(int(document.id), document.text) for document in documents(source)]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("write", [doc, old_json_line])
def test_an_output_folder_is_read_in_its_order(tmp_path: Path, write, compressed: bool) -> None:
    for place, article in enumerate(ARTICLES):
        folder = tmp_path / ("AA" if place < 2 else "AB")
        folder.mkdir(exist_ok=True)
        raw = write(*article).encode()
        name = f"wiki_{place:02}" + (".bz2" if compressed else "")
        (folder / name).write_bytes(bz2.compress(raw) if compressed else raw)
    (tmp_path / "AA" / "notes").write_text("not WikiExtractor's")
    assert texts(f"wikiextractor:{tmp_path}") == TEXTS
    (piece,) = scan([Source("wikiextractor", str(tmp_path))])
    assert len(piece.paths) == 3


def test_json_of_version_3_has_no_title_in_its_text(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_text("".join(json_line(*article) for article in ARTICLES[:2]))
    assert texts(f"wikiextractor:{tmp_path}") == TEXTS[:1]


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_bytes("".join(doc(*article) for article in ARTICLES).replace("\n", "\r\n").encode())
    assert texts(f"wikiextractor:{tmp_path}") == TEXTS


def test_articles_without_text_are_handed_out_to_be_counted(tmp_path: Path) -> None:
    for write in (doc, json_line):
        (tmp_path / "wiki_00").write_text("".join(write(*article) for article in ARTICLES))
        (piece,) = scan([Source("wikiextractor", str(tmp_path))])
        empty: list[Document] = []
        assert len(list(read(piece, "wikiextractor", empty.append))) == 2
        assert [one.id for one in empty] == ["25"]


@pytest.mark.parametrize(
    ("line", "paragraph"),
    [
        ("Section::::Early life.", "Early life."),
        ("BULLET::::- An item", "An item"),
        ("BULLET::::12. Twelfth", "Twelfth"),
        ("## Early life.", "Early life."),
        ("# not a mark", "# not a mark"),
        ("See Section::::x", "See Section::::x"),
    ],
)
def test_marks_of_headings_and_items_are_dropped_and_their_words_kept(
    tmp_path: Path, line: str, paragraph: str
) -> None:
    (tmp_path / "wiki_00").write_text(doc(1, "T", ["Before.", line, "After."]))
    assert texts(f"wikiextractor:{tmp_path}") == [(1, f"Before.\n\n{paragraph}\n\nAfter.")]


@given(
    articles=st.lists(
        st.lists(st.sampled_from(["A paragraph.", "Ein Absatz ä.", "{not json}", "<b>", "x" * 30, "三"]), max_size=5),
        min_size=1,
        max_size=12,
    ),
    piece_bytes=st.integers(1, 600),
    json_lines=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_give_the_same_articles(
    articles: list[list[str]], piece_bytes: int, json_lines: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wiki_00"
        write = json_line if json_lines else doc
        path.write_text("".join(write(number, f"T{number}", lines) for number, lines in enumerate(articles)))
        source = Source("wikiextractor", folder)
        whole = read_all(source, 1 << 30)
        assert [(int(one.id), one.text) for one in whole] == [
            (number, "\n\n".join(lines)) for number, lines in enumerate(articles) if lines
        ]
        assert read_all(source, piece_bytes) == whole


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Plain text.\n", "begins a file with <doc id=... or {"),
        (doc(1, "A", ["x"]) + "stray\n" + doc(2, "B", ["y"]), "after </doc> comes <doc id=..."),
        (doc(1, "A", ["x"]).replace("</doc>", "") + doc(2, "B", ["y"]), "is not closed before the next one"),
        (doc(1, "A", ["x"]).removesuffix("</doc>\n"), "truncated"),
        ('{"id": "1", "title": "x"}\n', "a JSON object with id, title and text was expected ('text')"),
        ('{"text": "x"}\n', "a JSON object with id, title and text was expected ('id')"),
        ('{"id": "1", "text": 3}\n', "a JSON object with id, title and text was expected"),
        ('{"id": "1", "text": "x"\n', "a JSON object with id, title and text was expected"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "wiki_00").write_text(content)
    message = refused(f"wikiextractor:{tmp_path}")
    assert says in message
    assert "wiki_00" in message


def test_an_article_that_no_wiki_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjobs.data.corpus.wikiextractor.MAX_PAGE", 10_000)
    (tmp_path / "wiki_00").write_text(doc(1, "A", ["word " * 100] * 40))
    assert "is longer than 10,000 bytes" in refused(f"wikiextractor:{tmp_path}")


def test_invalid_utf8_and_nul_are_counted(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_bytes(doc(1, "A", ["x@y#z"]).encode().replace(b"@", b"\xff").replace(b"#", b"\0"))
    (document,) = documents(f"wikiextractor:{tmp_path}")
    assert (document.text, document.replaced, document.nul) == ("x\ufffdyz", 1, 1)
    (tmp_path / "wiki_00").write_text('{"id": "1", "title": "A", "text": "a\\ud800b"}')
    (document,) = documents(f"wikiextractor:{tmp_path}")
    assert (document.text, document.replaced) == ("a\ufffdb", 1)


def test_a_missing_id_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_text('<doc title="x">\n\n</doc>\n')
    with pytest.raises(InputError, match="after </doc> comes"):
        list(documents(f"wikiextractor:{tmp_path}"))
