"""Damages done to the files of a run, one at a time."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Damage = Callable[[Path, random.Random], None]

OTHERS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**70, 10**400, 1.5, -0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "\x1b[2J", "\ud800", "²", "../../up", "a" * 5000, [], {}, [[]], [1, "a"], {"a": [None]}, {"what": {}}),
)
"""Values of all types of JSON, to stand where another one should."""


def _write(path: Path, content: bytes) -> None:
    path.unlink()  # its bytes are shared with the undamaged run
    path.write_bytes(content)


def empty(path: Path, _: random.Random) -> None:
    _write(path, b"")


def truncated(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    _write(path, content[: draw.randrange(len(content) + 1)])


def random_bytes(path: Path, draw: random.Random) -> None:
    _write(path, draw.randbytes(draw.choice((1, 7, 300, 5000))))


def altered_bytes(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 20))):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    _write(path, bytes(content))


def nested(path: Path, draw: random.Random) -> None:
    depth = draw.choice((300, 900, 100_000))
    _write(path, draw.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth)))


def other_types(path: Path, draw: random.Random) -> None:
    """Put values of other types in one to three places of JSON, JSON lines or YAML; other files are halved."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".yml":
        changed = yaml.safe_dump(_changed(yaml.safe_load(text), draw), allow_unicode=False)
    elif path.suffix == ".jsonl":
        lines = text.splitlines()
        place = draw.choice([0, len(lines) - 1, draw.randrange(len(lines))]) if lines else 0
        changed = "".join(
            json.dumps(_changed(json.loads(line), draw) if number == place else json.loads(line)) + "\n"
            for number, line in enumerate(lines)
        )
    elif path.suffix == ".json":
        changed = json.dumps(_changed(json.loads(text), draw))
    else:
        changed = text[: len(text) // 2]
    _write(path, changed.encode("utf-8", errors="surrogatepass"))


def _changed(value: Any, draw: random.Random) -> Any:
    for _ in range(draw.randrange(1, 4)):
        value = _with_other(value, draw)
    return value


def _with_other(value: Any, draw: random.Random) -> Any:
    """The value with something else at a random place in it: at a key, in place of one, or of all."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _with_other(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], _with_other(value[place], draw), *value[place + 1 :]]
    return draw.choice(OTHERS)


def a_folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def a_pipe(path: Path, _: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def gone(path: Path, _: random.Random) -> None:
    path.unlink()


def closed(path: Path, _: random.Random) -> None:
    """Closed to its owner; says nothing to root."""
    content = path.read_bytes()
    _write(path, content)
    path.chmod(0)


DAMAGES: tuple[Damage, ...] = (
    *(empty, truncated, random_bytes, altered_bytes, nested, other_types, a_folder, a_link_to_nothing, a_pipe, gone),
    closed,
)


def copied(run: Path, to: Path) -> Path:
    """A copy of a folder whose files share their bytes with it: a damage replaces the file."""
    shutil.copytree(run, to, copy_function=os.link, symlinks=True)
    return to


def files_of(run: Path) -> list[str]:
    """The files of a run, below its folder."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
