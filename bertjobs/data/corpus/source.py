"""What a corpus is: a source as the user writes it, a piece of it, a document in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.data.corpus.encodings import canonical
from bertjobs.errors import InputError, nearest

KINDS: Mapping[str, str] = {
    "text": "a file, or a folder of *.txt: one document per file",
    "lddl": "NVIDIA LDDL's source, a file or a folder of *.txt: one document per line, <id><white space><text>",
    "jsonl": "a file, or a folder of *.jsonl, *.ndjson, *.json: one JSON object per line",
    "parquet": "a file, or a folder of *.parquet: one document per row",
    "hf": "a folder that Hugging Face `datasets` wrote with save_to_disk",
    "mediawiki": "a MediaWiki XML dump, or a folder of *.xml: one document per article",
}
"""Each kind of corpus, with what it reads."""

SYNTAX = "KIND:PATH[#field=NAME][#split=NAME][#encoding=NAME][@WEIGHT]"
HELP = (
    f"{SYNTAX}, KIND one of {', '.join(KINDS)}; PATH may be compressed (.gz .bz2 .xz .zst) or a URL that fsspec opens; "
    "field: where jsonl, parquet and hf keep the text (default: text); split: the one split of an hf folder to take "
    "(default: all); encoding: as --encoding, for this corpus alone; WEIGHT: how many times as often its documents are "
    "drawn (default: 1)"
)
"""Help text of ``--corpus``."""

_WITH_FIELD = ("jsonl", "parquet", "hf")
WITH_ENCODING = ("text", "lddl", "jsonl")
"""Kinds whose files hold text and nothing else that would say its encoding."""

_WEIGHT = re.compile(r"@([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\Z")
_OPTION = re.compile(r"#(field|split|encoding)=([^#]+)\Z")


@dataclass(frozen=True)
class Source:
    """One corpus, ``KIND:PATH[#field=NAME][#split=NAME][#encoding=NAME][@WEIGHT]``.

    Attributes:
        kind: one of ``KINDS``.
        path: a file or folder, or a URL of fsspec.
        weight: how many times as often its documents are drawn, above 0.
        field: the field or column that holds the text (jsonl, parquet, hf).
        split: the split to take (hf); empty takes all.
        encoding: of its files, Python's name for it (text, lddl, jsonl); empty for UTF-8.
    """

    kind: str
    path: str
    weight: float = 1.0
    field: str = "text"
    split: str = ""
    encoding: str = ""

    @classmethod
    def parse(cls, given: str) -> Source:
        """The source that ``given`` names; only a number after the last ``@`` counts as a weight.

        Raises:
            InputError: no kind or an unknown one, no path, a weight not above 0, an option of another kind.
        """
        rest, weight = given, 1.0
        if match := _WEIGHT.search(rest):
            rest, weight = rest[: match.start()], float(match[1])
            if not 0 < weight < float("inf"):
                raise InputError(f"weight {match[1]} of corpus {given!r} is not above 0", where="--corpus")
        kind, colon, path = rest.partition(":")
        if not colon:
            raise InputError(f"corpus {given!r} does not say its kind", where="--corpus", hint=f"text:{given}?")
        if kind not in KINDS:
            raise InputError(f"unknown kind of corpus {kind!r}", where="--corpus", hint=nearest(kind, KINDS))
        options: dict[str, str] = {}
        while match := _OPTION.search(path):
            path = path[: match.start()]
            options.setdefault(match[1], match[2])
        for option, kinds in (("field", _WITH_FIELD), ("split", ("hf",)), ("encoding", WITH_ENCODING)):
            if option in options and kind not in kinds:
                raise InputError(
                    f"a corpus of kind {kind!r} has no option {option!r}", where=f"--corpus {given}", hint=SYNTAX
                )
        if not path:
            raise InputError(f"corpus {given!r} names no path", where="--corpus", hint=f"{kind}:PATH")
        if "encoding" in options:
            options["encoding"] = canonical(options["encoding"], where=f"--corpus {given}")
        return cls(kind, path, weight, **options)

    def in_encoding(self, encoding: str) -> Source:
        """The source with this encoding, Python's name for it, if it is of a kind that has one and names none."""
        return replace(self, encoding=self.encoding or encoding) if self.kind in WITH_ENCODING else self

    def __str__(self) -> str:
        field = "" if self.field == "text" else f"#field={self.field}"
        split = f"#split={self.split}" if self.split else ""
        encoding = f"#encoding={self.encoding}" if self.encoding else ""
        weight = "" if self.weight == 1 else f"@{self.weight!r}"
        return f"{self.kind}:{self.path}{field}{split}{encoding}{weight}"


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: the documents that begin in ``[start, end)`` of its file.

    Attributes:
        source: index of its source in the list that was scanned.
        paths: one file; for kind text a run of files, each read whole.
        start, end: bytes (lddl, jsonl, mediawiki), row groups (parquet) or record batches (hf);
            ``end`` -1: to the file's end.
        text_bytes: about how many bytes of text it holds.
        root: the folder (with a closing slash) that document ids leave out.
        field: the field or column that holds the text.
        encoding: of its files, empty for UTF-8.
        sizes, versions: of each file when the corpus was scanned, as in ``files.File``.
    """

    source: int
    paths: tuple[str, ...]
    start: int
    end: int
    text_bytes: int
    root: str = ""
    field: str = "text"
    encoding: str = ""
    sizes: tuple[int, ...] = ()
    versions: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Piece:
        """The piece of which ``values`` is ``dataclasses.asdict``, also after a round trip through JSON."""
        lists = {name: tuple(values.get(name, ())) for name in ("paths", "sizes", "versions")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Document:
    """One document, or a part of a very long one.

    Attributes:
        id: "relative/path" (text), the line's first word (lddl), "relative/path:BYTE" (jsonl), "relative/path:ROW"
            (parquet, hf), the page's id (mediawiki); parts after the first have "#2", "#3", ... at the end.
        text: its text, not only white space.
        replaced: how many U+FFFD stand for what was not UTF-8.
        nul: how many NUL bytes were removed.
        size: bytes read for it.
    """

    id: str
    text: str
    replaced: int
    nul: int
    size: int
