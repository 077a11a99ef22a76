"""Wikidata's dumps, in JSON or in MediaWiki's XML: they are refused, for they hold facts and no text."""

from __future__ import annotations

import re

from bertjobs.errors import InputError

_XML = b"<dbname>wikidatawiki</dbname>"
_MODEL = re.compile(rb"<model>(?:wikibase-(item|property|lexeme)|[^<]*)</model>")
_TYPE = re.compile(rb'\{\s*"(?:[^"]*"\s*:\s*"[^"]*"\s*,\s*")*?type"\s*:\s*"(?:item|property|lexeme)"')
_PARTS = re.compile(rb'"(?:labels|claims|lemmas)"\s*:')


def refuse_wikidata(head: bytes, path: str) -> None:
    """InputError if a file that begins with these bytes (some 64 KB are enough) is a dump of Wikidata."""
    if _XML in head or _mostly_facts(head) or (_TYPE.search(head) and _PARTS.search(head)):
        raise InputError(
            f"{path!r} is a dump of Wikidata: facts, and no text to train on",
            where="--corpus",
            hint="for text take a Wikipedia's, for instance enwiki-latest-pages-articles-multistream.xml.bz2",
        )


def _mostly_facts(head: bytes) -> bool:
    """Whether most pages are items, properties or lexemes; a wiki with its own Wikibase has some between articles."""
    models = _MODEL.findall(head)
    return 2 * sum(map(bool, models)) > len(models)
