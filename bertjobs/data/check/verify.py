"""Whether a data folder is what its manifest says, byte for byte."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.data.shards.manifest import MANIFEST_NAME, SPLITS, WORK_FOLDER, DataManifest, ShardFile
from bertjobs.data.text.vocabulary import TOKENIZER_FILE, TOKENS_FILE, Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.atomic import TEMPORARY_PREFIX, sha256_of
from bertjobs.files.reading import parse_json

ROWS_NAME = ".num_samples.json"  # what LDDL's own loader reads

_BLOCK = 1 << 22  # bytes hashed at a time
_REPORT_S = 0.5  # between two calls of progress


@dataclass(frozen=True)
class BadFile:
    """A file of a data folder that is not as it should be; ``path`` is relative to the folder."""

    path: str
    expected: str
    found: str


Progress = Callable[[int, int], None]
"""Called with the bytes read so far and their total."""


def verify(data: DataManifest, threads: int, progress: Progress) -> list[BadFile]:
    """Read a data folder whole and compare it with its manifest: every size and sha256, the vocabulary and
    its tokenizer, and whether there are files that it does not list.

    Returns:
        What is wrong, by path.
    """
    listed = [(split.folder / file.name, file) for phase in data.phases.values()
              for split in map(phase.split, SPLITS) for file in split.files]  # fmt: skip
    bad = [*_listed_twice(data, listed), *_wrong_vocabulary(data), *_unknown(data, {path for path, _ in listed})]
    bad += _wrong_row_counts(data)
    readable = []
    for path, file in listed:
        if actual := _wrong_size(path, file):
            bad.append(BadFile(_short(data, path), f"{file.bytes:,} bytes", actual))
        else:
            readable.append((path, file))
    bad += [
        BadFile(_short(data, path), f"sha256 {file.sha256}", actual)
        for (path, file), actual in zip(readable, _hashes(readable, threads, progress), strict=True)
        if actual != f"sha256 {file.sha256}"
    ]
    return sorted(bad, key=lambda one: one.path)


def _short(data: DataManifest, path: Path) -> str:
    return str(path.relative_to(data.folder))


def _wrong_size(path: Path, file: ShardFile) -> str:
    """What is there instead of a file of the right size; "" if the size is right."""
    if not path.exists():
        return f"a link to {path.readlink()}, which does not exist" if path.is_symlink() else "missing"
    if not path.is_file():
        return "not a file"
    size = path.stat().st_size
    return "" if size == file.bytes else f"{size:,} bytes"


def _hashes(files: list[tuple[Path, ShardFile]], threads: int, progress: Progress) -> list[str]:
    """``sha256 HEX`` of each file, or why it cannot be read. hashlib and reads let other threads run."""
    total, done, lock = sum(file.bytes for _, file in files), 0, threading.Lock()

    def read(path: Path) -> str:
        nonlocal done
        digest = hashlib.sha256()
        try:
            with path.open("rb", buffering=0) as handle:
                while block := handle.read(_BLOCK):
                    digest.update(block)
                    with lock:
                        done += len(block)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return f"sha256 {digest.hexdigest()}"

    progress(0, total)
    with ThreadPoolExecutor(max(1, threads), "verify") as pool:
        waiting = [pool.submit(read, path) for path, _ in files]
        try:
            while wait(waiting, timeout=_REPORT_S).not_done:
                progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress(total, total)
    return [future.result() for future in waiting]


def _listed_twice(data: DataManifest, listed: list[tuple[Path, ShardFile]]) -> Iterator[BadFile]:
    for path, times in Counter(path for path, _ in listed).items():
        if times > 1:
            yield BadFile(_short(data, path), f"once in {MANIFEST_NAME}", f"{times} times")


def _wrong_vocabulary(data: DataManifest) -> Iterator[BadFile]:
    expected = {TOKENS_FILE: data.vocabulary_sha256, **(data.files_beside or {})}
    actual = {name: _hash(data.folder / name) for name in expected}
    changed = [name for name, sha256 in expected.items() if actual[name] != f"sha256 {sha256}"]
    if changed:
        yield from (BadFile(name, f"sha256 {expected[name]}", actual[name]) for name in changed)
        return
    listed = data.files_beside is None or TOKENIZER_FILE in data.files_beside
    try:
        vocabulary = (Vocabulary.of_folder(data.folder, data.lowercase) if listed
                      else Vocabulary.read(data.vocabulary_path, data.lowercase))  # fmt: skip
    except InputError as error:
        yield BadFile(TOKENIZER_FILE if listed else TOKENS_FILE, "the tokens of the shards", error.what)
        return
    if vocabulary.size != data.vocabulary_size:
        yield BadFile(TOKENS_FILE, f"{data.vocabulary_size:,} tokens", f"{vocabulary.size:,} tokens")


def _hash(path: Path) -> str:
    """``sha256 HEX`` of a small file, or why it cannot be read."""
    try:
        return f"sha256 {sha256_of(path)}"
    except OSError as error:
        return error.strerror or "unreadable"


def _unknown(data: DataManifest, listed: set[Path]) -> Iterator[BadFile]:
    """Files that are in the folder but not in the manifest, and what an unfinished prepare left."""
    beside = (TOKENIZER_FILE,) if data.files_beside is None else data.files_beside
    known = listed | {data.folder / name for name in (MANIFEST_NAME, TOKENS_FILE, *beside)}
    known |= {path.parent / ROWS_NAME for path in listed}
    for parent, folders, names in os.walk(data.folder):
        for name in [one for one in folders if one == WORK_FOLDER or one.startswith(TEMPORARY_PREFIX)]:
            folders.remove(name)
            yield BadFile(_short(data, Path(parent) / name), "no such folder", "left by a prepare that was stopped")
        for path in (Path(parent) / name for name in names):
            if path not in known:
                left = path.name.startswith(TEMPORARY_PREFIX)
                actual = "left by a writer that was stopped" if left else f"not in {MANIFEST_NAME}"
                yield BadFile(_short(data, path), "no such file", actual)


def _wrong_row_counts(data: DataManifest) -> Iterator[BadFile]:
    """LDDL's own file of row counts, where it exists, must agree with the manifest: LDDL's loader believes it."""
    for phase in data.phases.values():
        for split in map(phase.split, SPLITS):
            path = split.folder / ROWS_NAME
            if not path.exists():
                if data.shard_format == "lddl":
                    yield BadFile(_short(data, path), "the rows of each shard", "missing")
                continue
            expected = {file.name: file.rows for file in split.files}
            if (actual := _read_json(path)) != expected:
                yield BadFile(
                    _short(data, path), f"the rows of each shard, {split.rows:,} in all", _rows_in_all(actual)
                )


def _rows_in_all(counts: Any) -> str:
    if isinstance(counts, dict) and all(isinstance(rows, int) for rows in counts.values()):
        return f"other counts or names, {sum(counts.values()):,} rows in all"
    return "something else"


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
