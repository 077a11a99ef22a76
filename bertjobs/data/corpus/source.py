"""What a corpus is: a source as the user writes it, a piece of it, a document in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.data.corpus.encodings import canonical
from bertjobs.errors import InputError, nearest
from bertjobs.slurm.shell import quote

KINDS: Mapping[str, str] = {
    "text": "a file, or a folder of *.txt: one document per file",
    "lddl": "NVIDIA LDDL's source, a file or a folder of *.txt: one document per line, <id><white space><text>",
    "jsonl": "a file, or a folder of *.jsonl, *.ndjson, *.json: one JSON object per line",
    "parquet": "a file, or a folder of *.parquet: one document per row",
    "hf": "a folder that Hugging Face `datasets` wrote with save_to_disk",
    "mediawiki": "a MediaWiki XML dump, or a folder of *.xml: one document per article",
    "bert": "BERT's own input, a file or a folder of *.txt: one sentence per line, an empty line between documents",
    "wikiextractor": "what WikiExtractor wrote, a file or a folder of wiki_*: <doc> elements, or JSON lines",
}
"""Each kind of corpus, with what it reads."""

FILE_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("*.txt",),
    "lddl": ("*.txt",),
    "jsonl": ("*.jsonl", "*.ndjson", "*.json"),
    "parquet": ("*.parquet",),
    "hf": ("*.arrow",),
    "mediawiki": ("*.xml",),
    "bert": ("*.txt",),
    "wikiextractor": ("wiki_[0-9]*",),
}
"""The files that each kind reads in a folder: lower-case patterns, without the suffix of a compressed file."""

HDF5_SUFFIXES = (".hdf5", ".h5")
"""Of files that are not a corpus: ``bertjobs data adopt`` reads them."""

SENTENCES: Mapping[str, str] = {"bert": "lines"}
"""How the documents of a kind are split into sentences, where that is not left to the language: at their line ends."""

SYNTAX = "KIND:PATH[#field=NAME][#split=NAME][#encoding=NAME][@WEIGHT]"
HELP = (
    "KIND:PATH, and after it any of #field=NAME #split=NAME #encoding=NAME @WEIGHT; "
    f"KIND is one of {', '.join(KINDS)}; PATH may be compressed (.gz .bz2 .xz .zst) or a URL that fsspec opens; "
    "field: where jsonl, parquet and hf keep the text (default: text); split: the one split of an hf folder to take "
    "(default: all); encoding: as --encoding, for this corpus alone; WEIGHT: how many times as often its documents are "
    "drawn (default: 1); a file or folder whose own name ends with @NUMBER is read as such"
)
"""Help text of ``--corpus``."""

_WITH_FIELD = ("jsonl", "parquet", "hf")
WITH_ENCODING = ("text", "lddl", "jsonl", "bert", "wikiextractor")
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
        encoding: of its files, Python's name for it if its kind has one; empty for UTF-8.
    """

    kind: str
    path: str
    weight: float = 1.0
    field: str = "text"
    split: str = ""
    encoding: str = ""

    @classmethod
    def parse(cls, given: str) -> Source:
        """The source that ``given`` names; a number after the last ``@`` counts as a weight (see ``with_weight``).

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
            hint = f"{quote(f'text:{given}')}?"
            raise InputError(f"corpus {given!r} does not say its kind", where="--corpus", hint=hint)
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
        named = f"{self.kind}:{self.path}{field}{split}{encoding}"
        return named if self.weight == 1 and not _WEIGHT.search(named) else f"{named}@{self.weight!r}"


def with_weight(given: str, exists: Callable[[str], bool]) -> str:
    """``given`` as ``Source.parse`` takes it, with ``@1`` after a path whose own name ends like a weight.

    ``text:books@2023`` is the path ``books@2023`` if that exists, else the path ``books`` with the weight 2023.

    Args:
        exists: whether a local path is there.

    Raises:
        InputError: both paths exist; says how to write either.
    """
    path = given.partition(":")[2].removeprefix("file://")
    weight = _WEIGHT.search(path)
    if weight is None or "://" in path or not exists(path):
        return given
    shorter = path[: weight.start()]
    if exists(shorter):
        kind = given.partition(":")[0]
        raise InputError(
            f"corpus {given!r} can mean {path!r}, or {shorter!r} with the weight {weight[1]}: both exist",
            where="--corpus",
            hint=f"write {quote(f'{kind}:{path}@1')} for the first, "
            f"{quote(f'{kind}:{shorter}@{float(weight[1]):+}')} for the second",
        )
    return f"{given}@1"


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads: the documents that begin in ``[start, end)`` of its file.

    Attributes:
        source: index of its source in the list that was scanned.
        paths: one file; of kinds with many small files (text, wikiextractor) also several, each read whole.
        start, end: bytes, row groups (parquet) or record batches (hf); ``end`` -1: to the file's end.
        text_bytes: about how many bytes of text it holds.
        root: the folder (with a closing slash) that document ids leave out.
        field: the field or column that holds the text.
        encoding: of its files, empty for UTF-8.
        sizes, versions: of each file when the corpus was scanned, as in ``files.File``.
        ids_repeat: documents of one source have equal ids.
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
    ids_repeat: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Piece:
        """The piece of which ``values`` is ``dataclasses.asdict``, also after a round trip through JSON."""
        lists = {name: tuple(values.get(name, ())) for name in ("paths", "sizes", "versions")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Document:
    """One document, or a part of a very long one.

    Attributes:
        id: "relative/path" (text), the line's first word (lddl), "relative/path:BYTE" (jsonl, bert),
            "relative/path:ROW" (parquet, hf), the page's id (mediawiki, wikiextractor); parts after the first have
            "#2", "#3", ... at the end.
        text: its text, not only white space; "" for one without text, which is counted and not used.
        replaced: how many U+FFFD stand for what was not UTF-8, or for half a character in JSON.
        nul: how many NUL bytes were removed.
        size: bytes read for it.
        model: of a wiki's page that is not wikitext, such as "wikibase-item"; it has no text. Else "".
        short_paragraphs: of a wiki's article, those that were left out as titles or captions.
        without_id: it is a line of LDDL's source without an id; it has no text either.
        halves: of ``replaced``, those that stand for halves of characters that JSON had as escapes.
        escaped: of ``replaced`` and ``nul``, those that JSON had as escapes, in bytes that were valid.
    """

    id: str
    text: str
    replaced: int
    nul: int
    size: int
    model: str = ""
    without_id: bool = False
    short_paragraphs: int = 0
    escaped: int = 0
    halves: int = 0
