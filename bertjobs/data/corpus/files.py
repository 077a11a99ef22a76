"""Where bytes come from: local files directly, URLs through fsspec, compressed files as what they hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from bertjobs.data.corpus.document import CHUNK
from bertjobs.data.corpus.folders import files_below
from bertjobs.data.corpus.source import FILE_NAMES, HDF5_SUFFIXES, KINDS, Source
from bertjobs.data.corpus.zstd_stream import open_zstd
from bertjobs.errors import BertjobsError, InputError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
EXPANSION = 4
"""About how many bytes of text a byte of a compressed file holds."""


@dataclass(frozen=True)
class File:
    """A file of a source: its path or URL, and its size in bytes."""

    path: str
    size: int

    @property
    def compressed(self) -> bool:
        return self.path.lower().endswith(COMPRESSIONS)

    @property
    def text_bytes(self) -> int:
        return self.size * EXPANSION if self.compressed else self.size


def is_url(path: str) -> bool:
    """Whether a path is a URL that fsspec opens (``file://`` is taken the direct way)."""
    return "://" in path and not path.startswith("file://")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns any error while ``path`` is read into an InputError that names it."""
    try:
        yield
    except BertjobsError:
        raise
    except FileNotFoundError as error:
        name = error.filename if isinstance(error.filename, str) else path
        what = "is a link to nothing" if Path(name).is_symlink() else "does not exist"
        raise InputError(f"{name!r} {what}", where="--corpus", hint="check the path") from error
    except EOFError as error:
        raise InputError(
            f"{path!r} ends too early: it is truncated", where="--corpus", hint="download it again"
        ) from error
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException) as error:
        raise InputError(f"{path!r} is damaged or not what its name says: {error}", where="--corpus") from error
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error.strerror or error}", where="--corpus") from error
    except Exception as error:
        if not is_url(path):  # a remote file system raises errors of its own
            raise
        raise InputError(f"cannot read {path!r}: {error}", where="--corpus") from error


def find(source: Source) -> tuple[str, list[File]]:
    """A source's root (the folder that ids leave out, with a slash) and its files, ordered by path below it.

    A folder's files are those with a name of the source's kind, also compressed, in it or below it; the case of a name
    does not matter, and names that begin with a dot are skipped.

    Raises:
        InputError: nothing is there, it cannot be read, or the folder holds no such file.
    """
    path = source.path.removeprefix("file://")
    if not is_url(path):
        path = str(Path(path).absolute())  # a task may run elsewhere
    patterns = FILE_NAMES[source.kind]
    with reading(path):
        single, files = _remote(path) if is_url(path) else _local(path, patterns)
    if single:
        return path[: len(path) - len(path.rpartition("/")[2])], files
    root = path.rstrip("/") + "/"
    files = [file for file in files
             if _is_named(file.path, patterns) and "/." not in "/" + file.path.removeprefix(root)]  # fmt: skip
    if not files:
        raise InputError(f"corpus {str(source)!r} holds no {', '.join(patterns)} file", where="--corpus",
                         hint=_what_else(path))  # fmt: skip
    return root, sorted(files, key=lambda file: file.path.removeprefix(root).split("/"))


def _is_named(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2].lower()
    name = next((name.removesuffix(suffix) for suffix in COMPRESSIONS if name.endswith(suffix)), name)
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _what_else(folder: str) -> str:
    """What to do about a folder without files of a kind."""
    for path in [] if is_url(folder) else files_below(folder):
        if path.lower().endswith(HDF5_SUFFIXES):
            return f"for HDF5 files of NVIDIA's earlier scripts: bertjobs data adopt --from hdf5 {folder}"
        for kind, patterns in FILE_NAMES.items():
            if _is_named(path, patterns):
                return f"it holds {path.rpartition('/')[2]!r}: --corpus {kind}:{folder}? ({KINDS[kind]})"
    return "also compressed: " + " ".join(COMPRESSIONS)


def _local(path: str, patterns: Sequence[str]) -> tuple[bool, list[File]]:
    if not Path(path).is_dir():
        return True, [File(path, Path(path).stat().st_size)]
    wanted = (file for file in files_below(path) if _is_named(file, patterns))
    return False, [File(file, Path(file).stat().st_size) for file in wanted]


def _remote(path: str) -> tuple[bool, list[File]]:
    system, inner = _file_system(path)
    if system.isfile(inner):
        return True, [File(path, int(system.size(inner) or 0))]
    if not system.exists(inner):
        raise FileNotFoundError(path)
    root, base = path.rstrip("/") + "/", inner.rstrip("/") + "/"
    entries = system.find(inner, detail=True)
    return False, [File(root + name.removeprefix(base), int(entry["size"] or 0)) for name, entry in entries.items()]


def _file_system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise InputError(f"cannot open {path!r}: {error}", where="--corpus", hint="install that package") from error
    except ValueError as error:
        raise InputError(f"cannot open {path!r}: {error}", where="--corpus") from error
    return system, str(inner)


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    if not is_url(path):
        return Path(path).exists()
    system, inner = _file_system(path)
    return bool(system.exists(inner))


def size_of(path: str) -> int:
    """A file's size in bytes."""
    if not is_url(path):
        return Path(path).stat().st_size
    system, inner = _file_system(path)
    return int(system.size(inner) or 0)


def open_raw(path: str) -> BinaryIO:
    """The bytes of a file as they are, seekable and buffered."""
    if not is_url(path):
        return open(path, "rb", buffering=CHUNK)
    system, inner = _file_system(path)
    return io.BufferedReader(system.open(inner, "rb"), CHUNK)


@contextmanager
def open_text(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed as its suffix says."""
    suffix = Path(path).suffix.lower()
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
