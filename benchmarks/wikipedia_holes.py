"""How many sentences of Wikipedia articles have a hole, where a template was that left no words; and the rate.

    .venv/bin/python benchmarks/wikipedia_holes.py [--show 20] [--rounds 3]

Read are the articles of the dump that gensim ships (the English Wikipedia of 2016), and one article for each of five
languages, made up for this and full of templates. A sentence has a hole if a template vanished from inside its
paragraph, unless a reader of the page would see no words there either: a footnote, an editor's mark, an anchor. Nor
does the pronunciation of a word count: it is left out on purpose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

from bertjobs.data.corpus import mediawiki
from bertjobs.data.corpus.source import Source
from bertjobs.data.corpus.wikitext import HOLE, MEDIA_NAMES, Article, read_article
from bertjobs.data.text.sentences import split_sentences

ARTICLES = Path(__file__).parent / "wikipedia"
LANGUAGES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian"}

_NOTES = frozenset({
    "r", "rp", "cn", "fact", "verify", "verify source", "clarify", "when", "who", "whom", "which", "where", "why",
    "how", "by whom", "dubious", "vague", "according to whom", "full", "or", "pov", "update after", "update inline",
    "weasel-inline", "peacock inline", "disputed inline", "page needed", "year needed", "source needed",
    "better source", "failed verification", "original research inline", "clear", "-", "qualify evidence",
    "no more links", "nomorelinks", "dmoz", "anchor", "anker", "note", "notelist", "main", "see also", "flagicon",
    "legend", "lunar coords and quad cat", "respell", "inflation-fn", "authority control", "short description",
    "belege fehlen", "normdaten", "cita requerida", "control de autoridades", "senza fonte", "portail", "portale",
    "fiume",
})  # fmt: skip
_NOTES_BEGIN = ("cite ", "citation", "ref", "efn", "sfn", "harv", "ipa", "infobox", "taxobox", "ficha", "#tag",
                "#invoke", "use ", "audio", "unreliable", "sister project")  # fmt: skip
_NOTES_OF = {"fr": ("refnec", "référence nécessaire"), "it": ("cita",)}  # which are words in other wikis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", type=int, default=0, help="print the most frequent templates that leave nothing")
    parser.add_argument("--rounds", type=int, default=3, help="how often the dump is read for its rate")
    args = parser.parse_args()
    dump = gensim_dump()
    print("articles                 sentences  with a hole    share")
    names: Counter[str] = Counter()
    for title, sources, language in (
        ("gensim's dump, English", wikitexts(dump), "en"),
        *((f"made up, {language}", iter([(ARTICLES / f"{language}.wikitext").read_text()]), language)
          for language in LANGUAGES),
    ):  # fmt: skip
        sentences = holes = 0
        for source in sources:
            whole, broken = count(source, language, names)
            sentences, holes = sentences + whole, holes + broken
        print(f"{title:<23} {sentences:>10,} {holes:>12,} {holes / sentences:>8.2%}", flush=True)
    for name, times in names.most_common(args.show):
        print(f"{times:>6} {name}")
    if args.rounds:
        rates = [rate(dump) for _ in range(args.rounds)]
        print(f"{statistics.median(rates):.2f} MB of wikitext per second of CPU time, median of {args.rounds}")


def gensim_dump() -> Path:
    gensim = find_spec("gensim")
    if gensim is None or gensim.origin is None:
        sys.exit("gensim is not installed: .venv/bin/pip install gensim")
    return next((Path(gensim.origin).parent / "test" / "test_data").glob("enwiki-*1.xml*shortened.bz2"))


def wikitexts(dump: Path) -> Iterator[str]:
    """The sources of a dump's articles."""
    seen: list[str] = []

    def remember(source: str, *_: Any) -> Article:
        seen.append(source)
        return Article("", 0)

    with mock.patch.object(mediawiki, "read_article", remember):
        for piece in mediawiki_pieces(dump):
            for _ in mediawiki.read_dump(piece):
                pass
    return iter(seen)


def mediawiki_pieces(dump: Path) -> list[mediawiki.Piece]:
    from bertjobs.data.corpus import scan

    return scan([Source("mediawiki", str(dump))])


def count(source: str, language: str, names: Counter[str]) -> tuple[int, int]:
    """The sentences of an article, and those of them that have a hole; the holes' names are counted in ``names``."""

    def mark(content: str) -> str:
        name = " ".join(content.partition("|")[0].replace("_", " ").split()).lower()
        if name in _NOTES or name.startswith(_NOTES_BEGIN) or name in _NOTES_OF.get(language, ()):
            return ""
        asked[name] += 1
        return HOLE

    asked: Counter[str] = Counter()
    text = read_article(source, MEDIA_NAMES, language, mark).text
    names.update(asked)
    sentences = split_sentences(text, LANGUAGES[language])
    return len(sentences), sum(HOLE in sentence for sentence in sentences)


def rate(dump: Path) -> float:
    """MB of wikitext per second of CPU time."""
    sources = list(wikitexts(dump))
    started = time.process_time()
    for source in sources:
        read_article(source)
    return sum(map(len, sources)) / 1e6 / (time.process_time() - started)


if __name__ == "__main__":
    main()
