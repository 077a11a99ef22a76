"""Where documents come from: ``text:PATH`` and ``lddl:PATH``.

``text`` is a file, or a folder of ``*.txt`` files, one document a file. ``lddl`` is the source form of
NVIDIA's LDDL: one document a line, ``<id><whitespace><text>``, in a file or a folder of ``*.txt`` files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import InputError, nearest

KINDS = ("text", "lddl")


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: the file's path below the source's folder, or LDDL's identifier.
        text: its text; bytes that are not UTF-8 have become U+FFFD.
        replaced: how many U+FFFD that made.
        size: bytes read for it.
    """

    id: str
    text: str
    replaced: int
    size: int


def documents(source: str) -> Iterator[Document]:
    """The documents of ``KIND:PATH`` that hold more than white space, in a fixed order.

    Raises:
        InputError: an unknown kind, a path that is not there or cannot be read, or no document at all.
    """
    kind, files, root = _locate(source)
    read = _text_documents if kind == "text" else _lddl_documents
    return _not_empty(read(files, root), source)


def corpus_size(source: str) -> int:
    """Bytes in the files of a source. Raises InputError as ``documents`` does."""
    return sum(file.stat().st_size for file in _locate(source)[1])


def _locate(source: str) -> tuple[str, list[Path], Path]:
    kind, colon, name = source.partition(":")
    if not colon:
        raise InputError(f"corpus {source!r} does not say its kind", where="--corpus", hint=f"text:{source}?")
    if kind not in KINDS:
        raise InputError(f"unknown kind of corpus {kind!r}", where="--corpus", hint=nearest(kind, KINDS))
    path = Path(name)
    if not name or not path.exists():
        raise InputError(f"corpus {source!r} does not exist", where="--corpus", hint="check the path")
    if path.is_file():
        return kind, [path], path.parent
    files = sorted((file for file in path.rglob("*.txt") if file.is_file()), key=lambda file: file.as_posix())
    if not files:
        raise InputError(f"corpus {source!r} holds no *.txt file", where="--corpus")
    return kind, files, path


def _decode(raw: bytes) -> tuple[str, int]:
    text = raw.decode("utf-8", errors="replace")
    return text, text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")


def _text_documents(files: list[Path], root: Path) -> Iterator[Document]:
    for file in files:
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read a document: {error.strerror}", where=str(file)) from error
        text, replaced = _decode(raw)
        yield Document(file.relative_to(root).as_posix(), text, replaced, len(raw))


def _lddl_documents(files: list[Path], root: Path) -> Iterator[Document]:  # noqa: ARG001 (same shape as above)
    for file in files:
        try:
            with file.open("rb") as lines:
                for raw in lines:
                    line, replaced = _decode(raw)
                    identifier, *rest = line.split(maxsplit=1)[:2] or [""]
                    yield Document(identifier, rest[0] if rest else "", replaced, len(raw))
        except OSError as error:
            raise InputError(f"cannot read documents: {error.strerror}", where=str(file)) from error


def _not_empty(found: Iterator[Document], source: str) -> Iterator[Document]:
    empty = True
    for document in found:
        if document.text and not document.text.isspace():
            empty = False
            yield document
    if empty:
        raise InputError(f"corpus {source!r} holds no text", where="--corpus")
