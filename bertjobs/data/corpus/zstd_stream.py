"""Zstandard files. Those with a long window (``zstd --long=31`` needs 2 GB to read) are beyond what pyarrow reads."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from bertjobs.data.corpus.document import CHUNK
from bertjobs.errors import InputError, install_hint

_MODULES = ("compression.zstd", "backports.zstd")  # Python's own since 3.14, and what it was made of


@contextmanager
def open_zstd(raw: BinaryIO, path: str) -> Iterator[BinaryIO]:
    """What the frames of a file hold.

    Raises:
        InputError: ``path`` is damaged or not Zstandard, or has a long window and nothing here reads that.
        EOFError, OSError: it is truncated.
    """
    zstd = _library()
    if zstd is None:
        import pyarrow as pa  # here: who only predicts needs no pyarrow

        with _long_window_named(path):
            yield cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"), CHUNK))
        return
    window = zstd.DecompressionParameter.window_log_max
    try:
        with zstd.ZstdFile(raw, options={window: window.bounds()[1]}) as file:
            yield file
    except zstd.ZstdError as error:
        raise InputError(f"{path!r} is damaged or not what its name says: {error}", where="--corpus") from error


def _library() -> Any:
    """The module that reads any window, if there is one."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@contextmanager
def _long_window_named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if "too much memory" not in str(error):
            raise
        raise InputError(
            f"{path!r} was written with a long window (zstd --long), which pyarrow does not read",
            where="--corpus",
            hint=install_hint("zstd"),
        ) from error
