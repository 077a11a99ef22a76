"""Where bytes come from: local files directly, URLs through fsspec, compressed files as what they hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from bertjobs.data.corpus.document import CHUNK
from bertjobs.data.corpus.encodings import Utf8Sign, as_utf8, check_byte_order, refuse_utf8
from bertjobs.data.corpus.folders import files_below
from bertjobs.data.corpus.persistent import PersistentReader, may_pass, persistently, reason, unavailable
from bertjobs.data.corpus.source import FILE_NAMES, HDF5_SUFFIXES, KINDS, Source
from bertjobs.data.corpus.unread import UnreadFiles
from bertjobs.data.corpus.zstd_stream import open_zstd
from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.shell import quote
from bertjobs.wording import counted

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_VERSIONS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "updated", "modified")
EXPANSION = 4
"""About how many bytes of text a byte of a compressed file holds."""


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes:
        path: its path or URL.
        size: bytes.
        version: what changes when the file is written anew: of a local file the time in ns, of a remote one what its
            server calls this state of it; empty where there is no such thing.
        seekable: it can be read from any place on.
        cut: its places are those of the text, so that it may be read in parts.
    """

    path: str
    size: int
    version: str = ""
    seekable: bool = True
    cut: bool = True

    @property
    def compressed(self) -> bool:
        return compression(self.path) != ""

    @property
    def divisible(self) -> bool:
        return self.seekable and self.cut and not self.compressed

    @property
    def text_bytes(self) -> int:
        return self.size * EXPANSION if self.compressed else self.size


def is_http(path: str) -> bool:
    """Whether a path is a URL of the web."""
    return path.startswith(("http://", "https://"))


def is_url(path: str) -> bool:
    """Whether a path is a URL that fsspec opens (``file://`` is taken the direct way)."""
    return "://" in path and not path.startswith("file://")


def compression(path: str) -> str:
    """The one of ``COMPRESSIONS`` that a file's name ends with, or "". What follows ``?`` or ``#`` in a URL of the web
    is not part of the name."""
    name = urlsplit(path).path if is_http(path) else path
    return next((suffix for suffix in COMPRESSIONS if name.lower().endswith(suffix)), "")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns any error while ``path`` is read into one that names it.

    Raises:
        UnavailableError: of an error that may pass.
        InputError: of any other.
    """
    try:
        yield
    except BertjobsError:
        raise
    except FileNotFoundError as error:
        raise _missing(error.filename if isinstance(error.filename, str) else path) from error
    except EOFError as error:
        raise InputError(
            f"{path!r} ends too early: it is truncated", where="--corpus", hint="download it again"
        ) from error
    except _signs_of_damage() as error:
        raise InputError(f"{path!r} is damaged or not what its name says: {error}", where="--corpus") from error
    except Exception as error:
        foreign = is_url(path) and not isinstance(error, OSError)  # a remote file system raises errors of its own
        if may_pass(error, foreign):
            raise unavailable(path, error) from error
        if not isinstance(error, OSError) and not foreign:
            raise
        raise InputError(f"cannot read {path!r}: {reason(error)}", where="--corpus") from error


def _signs_of_damage() -> tuple[type[Exception], ...]:
    import pyarrow as pa  # here: who only predicts needs no pyarrow

    return zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException


def _missing(path: str) -> InputError:
    """What to say of a file that is not there."""
    if Path(path).is_symlink():
        hint = f"it leads to {Path(path).readlink()}: restore that, or remove the link"
        return InputError(f"{path!r} is a link to nothing", where="--corpus", hint=hint)
    return InputError(f"{path!r} does not exist", where="--corpus", hint="check the path")


def find(source: Source, unread: UnreadFiles | None = None) -> tuple[str, list[File]]:
    """A source's root (the folder that ids leave out, with a slash) and its files, ordered by path below it.

    A folder's files are those with a name of the source's kind, also compressed, in it or below it; the case of a name
    does not matter, and names that begin with a dot are skipped.

    Args:
        unread: here the folder's other files are counted.

    Raises:
        InputError: nothing is there, it cannot be read, or the folder holds no such file.
    """
    path = source.path.removeprefix("file://")
    if not is_url(path):
        path = str(Path(path).absolute())  # a task may run elsewhere
    patterns, root, others = FILE_NAMES[source.kind], path.rstrip("/") + "/", UnreadFiles()

    def is_wanted(file: str) -> bool:
        below = file.removeprefix(root)
        if "/." in "/" + below:
            return False
        if not (named := _is_named(file, patterns)):
            others.add(below)
        return named

    with reading(path):
        single, files = (_remote if is_url(path) else _local)(path, is_wanted)
    if single:
        return path[: len(path) - len(path.rpartition("/")[2])], files
    if not files:
        raise InputError(f"corpus {str(source)!r} holds no {', '.join(patterns)} file", where="--corpus",
                         hint=_what_else(path, others))  # fmt: skip
    if unread is not None:
        unread.add_all(others)
    return root, sorted(files, key=lambda file: file.path.removeprefix(root).split("/"))


def _is_named(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2].lower()
    name = next((name.removesuffix(suffix) for suffix in COMPRESSIONS if name.endswith(suffix)), name)
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _what_else(folder: str, others: UnreadFiles) -> str:
    """What to do about a folder without files of a kind."""
    for path in [] if is_url(folder) else files_below(folder):
        if path.lower().endswith(HDF5_SUFFIXES):
            return (f"for HDF5 files of NVIDIA's earlier scripts: bertjobs data adopt --from hdf5 {quote(folder)} "
                    "--vocab FILE --output DIR")  # fmt: skip
        for kind, patterns in FILE_NAMES.items():
            if _is_named(path, patterns):
                return f"it holds {path.rpartition('/')[2]!r}: --corpus {quote(f'{kind}:{folder}')}? ({KINDS[kind]})"
    compressed = "also compressed: " + " ".join(COMPRESSIONS)
    if not others.count:
        return f"it holds no other file; {compressed}"
    names = ", ".join(map(repr, others.examples))
    return f"it holds {counted(others.count, 'file')}, such as {names}: rename them; {compressed}"


def _local(path: str, is_wanted: Callable[[str], bool]) -> tuple[bool, list[File]]:
    if not Path(path).is_dir():
        return True, [file_at(path)]
    return False, [file_at(file) for file in files_below(path) if is_wanted(file)]


def file_at(path: str, size: int | None = None) -> File:
    """The file with this path or URL.

    Args:
        size: its bytes, if they are known, where its server does not say how many there are; else they are counted.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be asked for; a remote file system raises errors of its own.
    """
    if is_http(path):
        from bertjobs.data.corpus.http import count_bytes, look_up  # here: few corpora need it

        looked = look_up(path)
        size = looked.size if looked.size is not None else size
        return File(path, count_bytes(path) if size is None else size, looked.version, looked.parts)
    if is_url(path):
        return _remote_file(path, _info(path))
    status = Path(path).stat()
    return File(path, status.st_size, str(status.st_mtime_ns))


def _info(url: str) -> Mapping[str, Any]:
    """What a remote file system says of a file or folder; FileNotFoundError if there is none."""
    system, inner = _file_system(url)
    return cast(Mapping[str, Any], persistently(lambda: system.info(inner), url, remote=True))


def _remote_file(path: str, entry: Mapping[str, Any]) -> File:
    version = next((str(entry[name]) for name in _VERSIONS if entry.get(name)), "")
    return File(path, int(entry.get("size") or 0), version)


def _remote(path: str, is_wanted: Callable[[str], bool]) -> tuple[bool, list[File]]:
    if is_http(path):
        return True, [file_at(path)]
    system, inner = _file_system(path)
    # Not isfile and exists, which take any error for "no".
    if _info(path)["type"] != "directory":
        return True, [file_at(path)]
    root, base = path.rstrip("/") + "/", inner.rstrip("/") + "/"
    entries = persistently(lambda: system.find(inner, detail=True), path, remote=True)
    files = ((root + name.removeprefix(base), entry) for name, entry in entries.items())
    return False, [_remote_file(file, entry) for file, entry in files if is_wanted(file)]


def _file_system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, inner = persistently(lambda: fsspec.core.url_to_fs(path), path, remote=True)
    except ImportError as error:
        raise InputError(f"cannot open {path!r}: {error}", where="--corpus", hint="install that package") from error
    except ValueError as error:
        raise InputError(f"cannot open {path!r}: {error}", where="--corpus") from error
    return system, str(inner)


def exists(path: str) -> bool:
    """Whether a file or folder is there; of a web server, a file."""
    if not is_url(path):
        return Path(path).exists()
    try:
        return bool(file_at(path))
    except FileNotFoundError:
        return False


def open_raw(path: str) -> BinaryIO:
    """The bytes of a file as they are, seekable and buffered; an error that may pass is waited for."""
    if is_http(path):
        from bertjobs.data.corpus.http import open_http

        return io.BufferedReader(open_http(path), CHUNK)
    if not is_url(path):
        return io.BufferedReader(PersistentReader(path, partial(_open_local, path), partial(_size, path), False), CHUNK)
    system, inner = _file_system(path)
    reader = PersistentReader(path, partial(_open_remote, system, inner), lambda: int(system.size(inner) or 0), True)
    return io.BufferedReader(reader, CHUNK)


def _open_local(path: str, place: int) -> BinaryIO:
    file = io.FileIO(path)
    file.seek(place)
    return cast(BinaryIO, file)


def _open_remote(system: Any, inner: str, place: int) -> Any:
    file = system.open(inner, "rb")
    file.seek(place)
    return file


def _size(path: str) -> int:
    return Path(path).stat().st_size


@contextmanager
def open_text(path: str, encoding: str = "") -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed as its suffix says, and as UTF-8 if it is in another encoding.

    Raises:
        InputError: the byte order of UTF-16 or UTF-32 is not known; the file is UTF-8, and not in its encoding.
    """
    if encoding:
        with open_text(path) as file:
            yield cast(BinaryIO, io.BufferedReader(_Utf8(file, encoding, path), CHUNK))
        return
    suffix = compression(path)
    with open_raw(path) as raw:
        if suffix == ".gz":
            yield cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), CHUNK))
        elif suffix == ".bz2":
            yield cast(BinaryIO, bz2.BZ2File(raw))
        elif suffix == ".xz":
            with lzma.open(raw) as file:
                yield cast(BinaryIO, file)
        elif suffix == ".zst":
            with open_zstd(raw, path) as file:
                yield file
        else:
            yield raw


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, ``CHUNK`` bytes at a time."""
    while chunk := file.read(CHUNK):
        yield chunk


class _Utf8(io.RawIOBase):
    """A file of another encoding, as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str, path: str) -> None:
        self._chunks, self._left = as_utf8(self._checked(chunks(file), encoding, path), encoding), memoryview(b"")

    @staticmethod
    def _checked(chunks: Iterator[bytes], encoding: str, path: str) -> Iterator[bytes]:
        sign = Utf8Sign(encoding)
        for place, chunk in enumerate(chunks):
            if not place:
                check_byte_order(chunk, encoding, path)
            refuse_utf8(sign.sees(chunk), encoding, path)
            yield chunk
        refuse_utf8(sign.sees(b"", final=True), encoding, path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left and (chunk := next(self._chunks, None)) is not None:
            self._left = memoryview(chunk)
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)
