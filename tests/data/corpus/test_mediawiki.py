"""MediaWiki dumps: which pages are articles, and which parts of their wikitext are prose."""

from __future__ import annotations

import bz2
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from bertjobs.data.corpus import Document, Source, documents, read, scan
from bertjobs.data.corpus.wikitext import read_article
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError
from tests.data.conftest import quiet
from tests.data.corpus.test_pieces import HEAD, TAIL, page, read_all


@pytest.fixture(scope="session")
def wikipedia() -> Path:
    """211 pages of the English Wikipedia of 2016, which gensim ships."""
    gensim = find_spec("gensim")
    if gensim is None or gensim.origin is None:
        pytest.skip("gensim is not installed")
    folder = Path(gensim.origin).parent / "test" / "test_data"
    return next(folder.glob("enwiki-latest-pages-articles1.xml*shortened.bz2"))


@pytest.fixture(scope="session")
def articles(wikipedia: Path) -> list[Document]:
    return list(documents(f"mediawiki:{wikipedia}"))


# ---------------------------------------------------------------- dumps


def test_articles_are_namespace_0_without_redirects(tmp_path: Path) -> None:
    pages = [
        page(1, "One is a &lt;b&gt;page&lt;/b&gt; &amp;amp; it has text in it."),
        page(2, "Talk about one.", namespace=1),
        page(3, "#REDIRECT [[One]]", extra='<redirect title="One" />'),
        page(4, ""),
        page(5, "{{stub}}"),
        page(6, "Six is a page."),
    ]
    (tmp_path / "a.xml").write_text(HEAD + "".join(pages) + TAIL)
    articles = [(document.id, document.text) for document in documents(f"mediawiki:{tmp_path}")]
    assert articles == [("1", "One is a page & it has text in it."), ("6", "Six is a page.")]


def test_a_dump_names_its_own_namespaces(tmp_path: Path) -> None:
    head = (
        '<mediawiki><siteinfo><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></siteinfo>'
    )
    (tmp_path / "a.xml").write_text(head + page(1, "[[Datei:x.jpg|Bild]]Ein [[Haus|Text]].[[Kategorie:H]]") + TAIL)
    assert [document.text for document in documents(f"mediawiki:{tmp_path}")] == ["Ein Text."]


def test_a_dump_names_its_language(tmp_path: Path) -> None:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">'
    (tmp_path / "a.xml").write_text(head + page(1, "Am {{Datum|3|5|1960}} waren es {{formatnum:12345}}.") + TAIL)
    assert [document.text for document in documents(f"mediawiki:{tmp_path}")] == ["Am 3. Mai 1960 waren es 12.345."]


def test_pages_of_another_model_are_skipped_and_counted(tmp_path: Path) -> None:
    def of_model(number: int, text: str, *models: str) -> str:
        return page(number, text).replace("<text ", "".join(f"<model>{model}</model>" for model in models) + "<text ")

    pages = [
        of_model(1, "One is an article.", "wikitext"),
        of_model(2, "return { answer = 42 }", "Scribunto"),
        of_model(3, "a {{color: red}} sheet", "css"),
        of_model(4, "another { } sheet", "css"),
        of_model(5, "Five became an article.", "css", "wikitext"),
        page(6, "Six says nothing of its model."),
        of_model(7, '{"type":"item","id":"Q7"}', "wikibase-item"),
    ]
    assert "<model>css</model>" in pages[2]
    (tmp_path / "a.xml").write_text(HEAD + "".join(pages) + TAIL)
    (piece,) = scan([Source("mediawiki", str(tmp_path))])
    skipped: list[Document] = []
    assert [document.id for document in read(piece, "mediawiki", skipped.append)] == ["1", "5", "6"]
    assert [(document.id, document.model) for document in skipped] == [
        ("2", "Scribunto"),
        ("3", "css"),
        ("4", "css"),
        ("7", "wikibase-item"),
    ]


def test_skipped_pages_and_paragraphs_are_in_the_manifest(tmp_path: Path, vocabulary_path: Path) -> None:
    text = "The people of the union and their government. The treasury was in a year of peace."
    pages = [page(number, text) for number in range(20)]
    pages[5] = page(5, f"A title\n\n{text}\n\nA caption's name\n\n(...)")
    pages[6] = page(6, "A title alone")
    pages[3] = pages[3].replace("<text ", "<model>Scribunto</model><text ")
    (tmp_path / "a.xml").write_text(HEAD + "".join(pages) + TAIL)
    output = tmp_path / "out"
    prepare(PrepareOptions((f"mediawiki:{tmp_path}",), str(vocabulary_path), str(output), (PHASES[1],)), quiet)
    data = DataManifest.read(output)
    assert data.corpus["skipped_pages"] == 1
    assert data.corpus["short_paragraphs"] == 3
    assert data.corpus["empty"] == 1
    assert sum(data.documents.values()) == 18


def test_of_several_revisions_the_last_is_read(tmp_path: Path) -> None:
    both = page(1, "Old text.").replace("</page>", "<revision><text>New text.</text></revision></page>")
    (tmp_path / "a.xml").write_text(HEAD + both + TAIL)
    assert [document.text for document in documents(f"mediawiki:{tmp_path}")] == ["New text."]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_dump_is_refused(tmp_path: Path, compressed: bool) -> None:
    streams = [HEAD, *(page(number, "word " * 400) for number in range(5)), TAIL]
    path = tmp_path / ("a.xml.bz2" if compressed else "a.xml")
    path.write_bytes(b"".join(bz2.compress(s.encode()) if compressed else s.encode() for s in streams))
    assert len(list(documents(f"mediawiki:{path}"))) == 5
    parts = [bz2.compress(s.encode()) if compressed else s.encode() for s in streams[:-2]]
    for end in ([b""], [parts[-1][: len(parts[-1]) // 2]]):
        path.write_bytes(b"".join(parts + end))
        for piece_bytes in (3000, 1 << 30):
            source = Source("mediawiki", str(path))
            with pytest.raises(InputError, match="truncated"):
                read_all(source, piece_bytes)


def test_a_page_of_all_revisions_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("w") as file:
        file.write(HEAD + page(7, "word " * 5_000_000) + TAIL)
    with pytest.raises(InputError, match=r"page 7 of .* is longer than") as caught:
        list(documents(f"mediawiki:{tmp_path}"))
    assert "pages-articles" in str(caught.value)


# ---------------------------------------------------------------- a real dump


def test_the_real_dump_gives_its_articles(articles: list[Document]) -> None:
    assert len(articles) == 105
    assert sum(len(article.text) for article in articles) > 2_500_000
    assert articles[0].id == "12"
    assert articles[0].text.startswith(
        "Anarchism is a political philosophy that advocates self-governed societies based on voluntary institutions. "
        "These are often described as stateless societies, although several authors have defined them more "
        "specifically as institutions based on non-hierarchical free associations. Anarchism considers"
    )
    assert all(article.replaced == article.nul == 0 for article in articles)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}",
        r"</?(?:ref|br|sup|sub|small|div|span|i|b|nowiki|math)\b",
        r"''|__[A-Z]+__|^=|=$|^[*#;:|]",
        r"&(?:nbsp|ndash|lt|gt|amp|quot);",
        r"https?://|\b(?:File|Image|Category):\S|\|thumb",
        r"\(\s*[,;)]|,\s?,| ,\s|  ",
    ],
)
def test_no_markup_is_left_in_the_real_dump(articles: list[Document], pattern: str) -> None:
    left = [
        (article.id, article.text[max(0, match.start() - 30) : match.end() + 30])
        for article in articles
        for match in re.finditer(pattern, article.text, re.MULTILINE)
    ]
    assert left == []


def test_the_real_dump_in_streams_gives_the_same_articles(
    wikipedia: Path, articles: list[Document], tmp_path: Path
) -> None:
    raw = bz2.decompress(wikipedia.read_bytes())
    head, *pages = raw.split(b"  <page>")
    streams = [
        head,
        *(b"".join(b"  <page>" + page for page in pages[place : place + 20]) for place in range(0, 206, 20)),
    ]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(b"".join(map(bz2.compress, streams)))
    source = Source("mediawiki", str(path))
    pieces = scan([source], 500_000)
    assert len(pieces) > 5
    assert [document for piece in pieces for document in read(piece, "mediawiki")] == articles


# ---------------------------------------------------------------- wikitext


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Ada''' ''and'' '''''Bo''''' are ''''quoted''''.", "Ada and Bo are 'quoted'."),
        ("See [[Ada]], [[Ada L.|her]], [[:Category:X]], [[Ada#Life|life]].", "See Ada, her, Category:X, life."),
        ("A [[bus]]es b.", "A buses b."),
        ("Text.[[File:a.jpg|thumb|left|A [[nested]] caption with {{a|b}}]] More.", "Text. More."),
        ("Text.[[Bild:a.jpg|mini|Eine Bildunterschrift]] More.", "Text. More."),
        ("Text.\n[[Category:Ada|x]]\n[[fr:Ada]]\n[[zh-min-nan:Ada]]", "Text."),
        ("A {{t|{{u|v}}|w={{x}}}} b{{c}}.", "A b."),
        ("{{Infobox\n| a = b\n{| class=x\n| y\n|}\n|}}\nText.", "Text."),
        ("Before.\n{| class=wikitable\n! h\n|-\n| c {{a|\n}}\n{|\n| nested\n|}\n|}\nAfter.", "Before.\nAfter."),
        ("Before.\n:::{|\n| c\n|}\nAfter.", "Before.\nAfter."),
        ("A<ref>no</ref> b<ref name=x/> c<ref name=\"y\">{{cite|a}}\n* x</ref> d.", "A b c d."),
        ("A<!-- no\n\n --> b.", "A b."),
        ("== Header ==\nText.\n===Sub===\n----\nMore.", "Text.\nMore."),
        ("Text.\n* item\n# item\n; term : def\n: indented\nMore.", "Text.\nMore."),
        ("One line\nand the next.\n\nNew paragraph.", "One line and the next.\nNew paragraph."),
        ("A [http://x.org two words] b [http://x.org] c http://x.org/y?z d [//x.org e].", "A two words b c d e."),
        ("H<sub>2</sub>O &amp; a&nbsp;b &lt;x&gt; caf&eacute;<br />c.", "H2O & a b <x> caf\u00e9 c."),
        ("Say <nowiki>[[not a link]] and ''so'' {{t}}</nowiki> here.", "Say [[not a link]] and ''so'' {{t}} here."),
        ("A formula <math>x^2</math>, and {{math|x}} is there.", "A formula, and x is there."),
        ("Ada ({{IPA|x}}; {{lang|el|\u0391}}) was ({{x}}) here ({{x}}, b).", "Ada (\u0391) was here (b)."),
        ("It is {{convert|5|km|mi|abbr=on}} long, {{convert|3|to|4|ft|m}} wide.", "It is 5 km long, 3 to 4 ft wide."),
        ("{{As of|2010}}, 3; {{as of|2011|lc=y}} 4, {{circa|1900}} 2.", "As of 2010, 3; as of 2011 4, c. 1900 2."),
        ("An unclosed [[link and {{template go on.", "An unclosed link and template go on."),
        ("Closed ]] and }} without an opening.\n|}\nMore.", "Closed and without an opening.\nMore."),
        ("{{a [[b}} c.", "c."),
        ("__NOTOC__\nText.", "Text."),
        ("A.<p>B.</p>\nC.", "A.\nB.\nC."),
        ("Notes\n\nA heading that is none\n\nA sentence.", "A sentence."),
        ("", ""),
    ],
)  # fmt: skip
def test_wikitext_becomes_prose(wikitext: str, expected: str) -> None:
    assert read_article(wikitext).text == expected


@pytest.mark.parametrize("unit", ["{{", "[[", "{|\n", "<ref>", "<!--", "[http://", "'", "( ,", "{{a|", "[[}}", "{{]]"])
def test_hostile_wikitext_takes_no_longer_than_its_length_allows(unit: str) -> None:
    import time

    started = time.process_time()
    read_article(unit * (100_000 // len(unit)) + " and a sentence at the end.")
    assert time.process_time() - started < 3


def test_short_paragraphs_stay_in_scripts_that_end_a_sentence_without_a_mark() -> None:
    kept = ["กรุงเทพเป็นเมืองหลวง", "ພາສາລາວ", "ភាសាខ្មែរ", "မြန်မာဘာသာ", "东京是日本的首都", "東京は首都です"]
    dropped = ["A title", "Заголовок", "제목", "عنوان"]
    assert read_article("\n\n".join(kept + dropped)).text.split("\n") == kept
