"""A prepare that is resumed: is what it has read still what the corpus holds?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from bertjobs.data.corpus import Piece, Source, read
from bertjobs.data.corpus.changes import CorpusChangedError, Digest, change
from bertjobs.data.corpus.files import File, is_url
from bertjobs.data.prepare.work_folder import WorkFolder

DIGEST = "digest"
"""The name in a task's marker of the digest of what it read."""


def compared(work: WorkFolder, pieces: Sequence[Piece], progress: Callable[[int, int], None]) -> WorkFolder:
    """The work folder, for the corpus as it was scanned now.

    Pieces that were read, and whose files have another time now, are read again and compared.

    Args:
        pieces: of the same files, cut at the same places.
        progress: called with the pieces that were compared, and how many there are.

    Raises:
        CorpusChangedError: a file has another size, or its text is not what was read.
    """
    suspects = {
        number: words
        for number, (before, now) in enumerate(zip(work.pieces, pieces, strict=True))
        if (words := _change(before, now, work))
    }
    if not suspects:
        return work
    read_before = [number for number in suspects if work.is_done("tokenise", number)]
    for place, number in enumerate(read_before):
        progress(place, len(read_before))
        digest, piece = work.result("tokenise", number).get(DIGEST), pieces[number]
        if digest is not None and digest != digest_of(piece, work):
            raise _changed(piece, suspects[number], work)
    progress(len(read_before), len(read_before))
    return work.with_pieces(
        replace(before, sizes=now.sizes, versions=now.versions) for before, now in zip(work.pieces, pieces, strict=True)
    )


def digest_of(piece: Piece, work: WorkFolder) -> str:
    """The digest of a piece's documents, read now."""
    digest = Digest()
    for _ in digest.of(read(piece, Source.parse(work.options.corpora[piece.source]).kind)):
        pass
    return str(digest)


def _change(before: Piece, now: Piece, work: WorkFolder) -> str:
    """How the files of a piece have changed, as far as their sizes and times say; "" if they have not."""
    files = zip(before.paths, before.sizes, before.versions, now.sizes, now.versions, strict=False)
    for path, size, version, size_now, version_now in files:
        if words := change(File(path, size, version), File(path, size_now, version_now)):
            if size != size_now:
                raise _changed(now, words, work)
            return words
    return ""


def _changed(piece: Piece, words: str, work: WorkFolder) -> CorpusChangedError:
    name = repr(piece.paths[0]) if len(piece.paths) == 1 else f"one of {piece.paths[0]!r} to {piece.paths[-1]!r}"
    return CorpusChangedError(
        f"{name} has changed since this prepare began: {words}", where="--corpus", hint=work.after_a_change
    )


def written_since(pieces: Iterable[Piece], moment_ns: int) -> str:
    """The first local file that was written after a moment, in ns since 1970; "" if none was."""
    for piece in pieces:
        for path, version in zip(piece.paths, piece.versions, strict=True):
            if not is_url(path) and int(version) > moment_ns:
                return path
    return ""
