"""The bytes of MANIFEST.json: the hash of itself at its end, and the form of what it holds. Standard library only.

The last member is ``sha256_of_above``, the hash of all bytes before it. Manifests of older versions have none, and
exactly ten members: so one whose hash has lost its name is not taken for one of those.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjobs.files.atomic import sha256_of, write_text
from bertjobs.files.reading import parse_json

MANIFEST_NAME = "MANIFEST.json"
FORMAT = "bertjobs-data"
VERSION = 2
SHARD_FORMATS = ("ids", "lddl")
SPLITS = ("train", "validation")
MASKINGS = ("dynamic", "static")
TOKENS_FILE, TOKENIZER_FILE = "vocab.txt", "tokenizer.json"

_HASH = "sha256_of_above"
_END = re.compile(rb',\n  "sha256_of_above": "([0-9a-f]{64})"\n\}\n\Z')
_OF_OLDER_VERSIONS = {"format", "version", "shard_format", "vocabulary", "settings", "documents", "held_out", "corpus",
                      "phases", "plan"}  # fmt: skip
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PHASE = re.compile(r"[1-9][0-9]{0,8}")
_OF_NOTHING = hashlib.sha256(b"").hexdigest()
_LONGEST = (1 << 16) - 1  # tokens of a sequence
_MOST = 1 << 48  # rows, tokens and bytes of a shard


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a data folder's MANIFEST.json, atomically: ``content``, the sha256 of each other file at the folder's top
    (tokenizer.json for one), and the manifest's own."""
    beside = sorted(path for path in folder.iterdir() if path.is_file() and _FILE_NAME.fullmatch(path.name))
    files = {path.name: sha256_of(path) for path in beside if path.name not in (TOKENS_FILE, MANIFEST_NAME)}
    write_text(folder / MANIFEST_NAME, hashed_text({**content, "files": files}))


def hashed_text(content: Mapping[str, Any]) -> str:
    """The text of a manifest, its hash at its end in place of one that ``content`` has."""
    rest = {name: value for name, value in content.items() if name != _HASH}
    body = json.dumps(rest, indent=2, sort_keys=False).removesuffix("\n}")
    return f'{body},\n  "{_HASH}": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def read_content(raw: bytes) -> dict[str, Any]:
    """What a manifest's bytes hold, if all that is used of it has the form that it should have.

    Raises:
        ValueError: not JSON, another format or version, a value of another type or beyond its bounds, a file elsewhere,
            or bytes that are not those of its hash; says which.
    """
    content = parse_json(raw.decode("utf-8"), finite=True)
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    version = content.get("version")
    if content.get("format") != FORMAT or version != VERSION or content.get("shard_format") not in SHARD_FORMATS:
        raise ValueError(f"format {content.get('format')!r:.50} version {version!r:.50}")
    _check_hash(raw, content)
    vocabulary = _member(content, "vocabulary", dict)
    _text(vocabulary, "sha256", _SHA256, "vocabulary.")
    _whole(vocabulary, "size", 1, _MOST, "vocabulary.")
    _member(vocabulary, "lowercase", bool, "vocabulary.")
    _check_settings(_member(content, "settings", dict))
    _check_counts(content)
    for name in (limits := _member(content, "limits", dict) if "limits" in content else {}):
        _share(limits, name, "limits.")
    for group in ("held_out", *(("unread_files",) if "unread_files" in content else ())):
        if not all(isinstance(name, str) for name in _member(content, group, list)):
            raise ValueError(f"{group} does not list names")
    phases = _member(content, "phases", dict)
    if not phases:
        raise ValueError("it has no phases")
    for number in phases:
        if not _PHASE.fullmatch(number):
            raise ValueError(f"phase {number[:20]!r} is not a number above 0")
        _check_phase(number, _member(phases, number, dict, "phases."))
    return content


def has_hash(content: Mapping[str, Any]) -> bool:
    """Whether a manifest that was read has a hash of itself."""
    return _HASH in content


def files_beside(content: Mapping[str, Any]) -> dict[str, str] | None:
    """The sha256 of each file at the folder's top besides the manifest and vocab.txt, by name; None where an older
    version's manifest does not say."""
    if "files" in content:
        return dict(content["files"])
    if content["plan"] is None:
        return None
    sha256 = content["plan"]["tokenizer_sha256"]
    return {} if sha256 == _OF_NOTHING else {TOKENIZER_FILE: sha256}


def _check_hash(raw: bytes, content: Mapping[str, Any]) -> None:
    end = _END.search(raw)
    if end is None:
        if _HASH in content or set(content) != _OF_OLDER_VERSIONS:
            raise ValueError("it does not end with the hash of itself")
        return
    expected, actual = end[1].decode(), hashlib.sha256(raw[: end.start()]).hexdigest()
    if actual != expected:
        raise ValueError(f"it was changed: its sha256 is {actual[:12]}..., at its end it says {expected[:12]}...")


def _check_settings(settings: dict[str, Any]) -> None:
    where = "settings."
    if _member(settings, "masking", str, where) not in MASKINGS:
        raise ValueError(f"settings.masking is none of {', '.join(MASKINGS)}")
    _share(settings, "masked_share", where)
    if "bin_size" in settings:
        _whole(settings, "bin_size", 1, _LONGEST, where)
    for name in ("balanced", "next_sentence", "across_documents"):
        if name in settings:
            _member(settings, name, bool, where)
    if "adopted_from" not in settings:
        _whole(settings, "duplicates", 1, _MOST, where)


def _check_counts(content: dict[str, Any]) -> None:
    for group in ("documents", "corpus", *(name for name in ("odd_files", "files_without_id") if name in content)):
        counts = _member(content, group, dict)
        for name in counts:
            _whole(counts, name, 0, _MOST, f"{group}.")
    for name, sha256 in _member(content, "files", dict).items() if "files" in content else ():
        if not _FILE_NAME.fullmatch(name) or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise ValueError(f"files lists {name[:200]!r}, which is not a file here with its sha256")
    if content.get("plan", content) is None:
        return
    plan = _member(content, "plan", dict)
    _member(plan, "settings", dict, "plan.")
    _member(plan, "lowercase", bool, "plan.")
    _whole(plan, "corpus_bytes", 0, _MOST, "plan.")
    for name in ("vocabulary_sha256", "tokenizer_sha256", "corpus_sha256"):
        _text(plan, name, _SHA256, "plan.")
    for name in SPLITS:
        _whole(content["documents"], name, 0, _MOST, "documents.")


def _check_phase(number: str, phase: dict[str, Any]) -> None:
    where = f"phase {number}: "
    _whole(phase, "sequence_length", 4, _LONGEST, where)
    _whole(phase, "max_predictions", 0, _LONGEST, where)
    for name in SPLITS:
        split = _member(phase, name, dict, where)
        pairs = _member(split, "pairs", dict, where) if "pairs" in split else {}
        for count in pairs:
            _whole(pairs, count, 0, _MOST, f"{where}pairs.")
        for file in _files(split, f"phase {number} {name}"):
            if not _FILE_NAME.fullmatch(_member(file, "name", str, where)):
                raise ValueError(f"phase {number} lists {name} files elsewhere: {file['name'][:200]!r}")
            _whole(file, "bin", 0, phase["sequence_length"] - 1, where)
            for count in ("rows", "tokens", "bytes"):
                _whole(file, count, 0, _MOST, where)
            _text(file, "sha256", _SHA256, where)


def _files(split: dict[str, Any], which: str) -> Iterator[dict[str, Any]]:
    files = _member(split, "files", list, f"{which}: ")
    if not files:
        raise ValueError(f"{which} lists no files")
    for file in files:
        if not isinstance(file, dict):
            raise ValueError(f"{which} lists a file that is not an object")
        yield file


_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false"}


def _member(parent: Mapping[str, Any], name: str, kind: type, where: str = "") -> Any:
    if type(parent.get(name)) is not kind:
        raise ValueError(f"{where}{name} is {'missing' if name not in parent else f'not {_WORDS[kind]}'}")
    return parent[name]


def _whole(parent: Mapping[str, Any], name: str, least: int, most: int, where: str) -> None:
    value = parent.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{where}{name[:50]} is not a whole number from {least} to {most}")


def _share(parent: Mapping[str, Any], name: str, where: str) -> None:
    value: Any = parent.get(name)
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{where}{name[:50]} is not a number from 0 to 1")


def _text(parent: Mapping[str, Any], name: str, form: re.Pattern[str], where: str) -> None:
    if not form.fullmatch(_member(parent, name, str, where)):
        raise ValueError(f"{where}{name} is not a sha256 of 64 hexadecimal digits")
