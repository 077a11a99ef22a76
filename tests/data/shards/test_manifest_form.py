"""MANIFEST.json's own hash, and what is refused of it: each by one error, without a traceback."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertjobs.data.check.target import find_target
from bertjobs.data.check.verify import verify
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.errors import InputError

# The members that manifests had before they had a hash of themselves.
OLDER = ("format", "version", "shard_format", "vocabulary", "settings", "documents", "held_out", "corpus", "phases",
         "plan")  # fmt: skip
MEMBERS = [name for name in OLDER if name not in ("format", "shard_format")]


@pytest.fixture
def folder(static: DataManifest, tmp_path: Path) -> Path:
    """A data folder that the test may damage."""
    return Path(shutil.copytree(static.folder, tmp_path / "data"))


def silent(done: int, total: int) -> None:
    """A progress callback that does nothing."""


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST_NAME).read_bytes())


def reason(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        DataManifest.read(folder)
    assert caught.value.exit_code == 64
    return caught.value.what


def test_the_hash_is_of_all_bytes_before_it(folder: Path) -> None:
    raw = (folder / MANIFEST_NAME).read_bytes()
    body, end = raw[: raw.rindex(b",")], raw[raw.rindex(b",") :]
    assert json.loads(b"{" + end[1:]) == {"sha256_of_above": hashlib.sha256(body).hexdigest()}
    assert hashed_text(content_of(folder)).encode() == raw


def test_a_changed_manifest_is_refused_wherever_it_is_read(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b'"duplicates": 2', b'"duplicates": 3', 1))
    assert "it was changed: its sha256 is" in reason(folder)
    with pytest.raises(InputError, match="it was changed"):
        find_target(folder)


def test_a_manifest_of_an_older_version_is_read_and_has_no_hash(folder: Path) -> None:
    older = {name: content_of(folder)[name] for name in OLDER}
    (folder / "tokenizer_config.json").unlink()
    (folder / MANIFEST_NAME).write_text(json.dumps(older, indent=2) + "\n")
    data = DataManifest.read(folder)
    assert not data.has_hash
    assert data.files_beside == {}
    assert verify(data, 1, silent) == []


def test_of_an_older_version_the_plan_knows_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    older = {name: content_of(folder)[name] for name in OLDER}
    (folder / "tokenizer_config.json").unlink()
    sha256 = hashlib.sha256(b"{}").hexdigest()
    older["plan"]["tokenizer_sha256"] = sha256
    (folder / MANIFEST_NAME).write_text(json.dumps(older, indent=2))
    data = DataManifest.read(folder)
    assert data.files_beside == {"tokenizer.json": sha256}
    data.check_vocabulary_file()
    (folder / "tokenizer.json").write_text("{ }")
    with pytest.raises(InputError, match=r"tokenizer\.json was changed"):
        data.check_vocabulary_file()
    assert [one.path for one in verify(data, 1, silent)] == ["tokenizer.json"]


def test_a_manifest_whose_hash_has_lost_its_name_is_not_taken_for_an_older_one(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b"sha256_of_above", b"sha256_of_abovf"))
    assert "does not end with the hash of itself" in reason(folder)
    content = content_of(folder)
    path.write_text(json.dumps(content))  # in another form
    assert "does not end with the hash of itself" in reason(folder)


NESTED = "@nested@"  # stands for a list in a list in a list, 100,000 deep
HUGE = 10**30


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("version",), 3, "version 3"),
        (("version",), [2], "version [2]"),
        (("shard_format",), [], "format 'bertjobs-data'"),
        (("vocabulary",), [], "vocabulary is not an object"),
        (("vocabulary", "size"), "500", "vocabulary.size is not a whole number"),
        (("vocabulary", "size"), True, "vocabulary.size is not a whole number"),
        (("vocabulary", "size"), HUGE, "vocabulary.size is not a whole number"),
        (("vocabulary", "sha256"), "abc", "vocabulary.sha256 is not a sha256"),
        (("vocabulary", "lowercase"), 1, "vocabulary.lowercase is not true or false"),
        (("settings",), None, "settings is not an object"),
        (("settings", "masking"), "sometimes", "settings.masking is none of"),
        (("settings", "masked_share"), "half", "settings.masked_share is not a number"),
        (("settings", "masked_share"), float("nan"), "NaN is not a number"),
        (("settings", "masked_share"), float("inf"), "Infinity is not a number"),
        (("settings", "duplicates"), -1, "settings.duplicates is not a whole number"),
        (("settings", "bin_size"), 0, "settings.bin_size is not a whole number"),
        (("settings", "next_sentence"), "false", "settings.next_sentence is not"),
        (("documents",), {"train": -1}, "documents.train is not a whole number"),
        (("documents",), {}, "documents.train is not a whole number"),
        (("corpus",), {"bytes": [1]}, "corpus.bytes is not a whole number"),
        (("held_out",), "speech-03", "held_out is not a list"),
        (("held_out",), [1], "held_out does not list names"),
        (("sources",), [1], "sources do not name their corpus"),
        (("sources", 0, "corpus"), 1, "sources do not name their corpus"),
        (("sources", 0, "unknown"), -1, "sources.unknown is not a whole number"),
        (("limits",), [], "limits is not an object"),
        (("limits", "max_unknown_share"), 2, "limits.max_unknown_share is not a number from 0 to 1"),
        (("files",), {"../x": "0" * 64}, "files lists '../x'"),
        (("files",), {"tokenizer.json": None}, "files lists 'tokenizer.json'"),
        (("phases",), {}, "it has no phases"),
        (("phases",), [], "phases is not an object"),
        (("phases", "../1"), {}, "phase '../1' is not a number"),
        (("phases", "-1"), {}, "phase '-1' is not a number"),
        (("phases", "1"), None, "phases.1 is not an object"),
        (("phases", "1", "sequence_length"), -128, "sequence_length is not a whole number"),
        (("phases", "1", "sequence_length"), HUGE, "sequence_length is not a whole number"),
        (("phases", "1", "max_predictions"), 1.5, "max_predictions is not a whole number"),
        (("phases", "1", "train"), [], "train is not an object"),
        (("phases", "1", "train", "pairs"), [], "pairs is not an object"),
        (("phases", "1", "train", "pairs"), {"pairs": "9"}, "pairs.pairs is not a whole number"),
        (("phases", "1", "train", "files"), [], "lists no files"),
        (("phases", "1", "train", "files"), [1], "lists a file that is not an object"),
        (("phases", "1", "train", "files", 0, "name"), "..", "train files elsewhere: '..'"),
        (("phases", "1", "train", "files", 0, "name"), "/etc/passwd", "files elsewhere"),
        (("phases", "1", "train", "files", 0, "name"), "a/../../b", "files elsewhere"),
        (("phases", "1", "train", "files", 0, "name"), "a\0b", "files elsewhere"),
        (("phases", "1", "train", "files", 0, "name"), ["a"], "name is not text"),
        (("phases", "1", "train", "files", 0, "bin"), 128, "bin is not a whole number from 0 to 127"),
        (("phases", "1", "train", "files", 0, "rows"), -5, "rows is not a whole number"),
        (("phases", "1", "train", "files", 0, "rows"), [5], "rows is not a whole number"),
        (("phases", "1", "train", "files", 0, "tokens"), 1e9, "tokens is not a whole number"),
        (("phases", "1", "train", "files", 0, "bytes"), HUGE, "bytes is not a whole number"),
        (("phases", "1", "train", "files", 0, "sha256"), "g" * 64, "sha256 is not a sha256"),
        (("plan",), [], "plan is not an object"),
        (("plan", "settings"), [], "plan.settings is not an object"),
        (("plan", "corpus_bytes"), "9", "plan.corpus_bytes is not a whole number"),
        (("plan", "tokenizer_sha256"), 5, "plan.tokenizer_sha256 is not text"),
        (("held_out",), NESTED, "it is nested too deeply"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_values_of_another_type_or_beyond_their_bounds_are_refused(
    folder: Path, place: tuple[str | int, ...], value: Any, says: str
) -> None:
    content = content_of(folder)
    parent: Any = content
    for name in place[:-1]:
        parent = parent[name]
    parent[place[-1]] = value
    text = hashed_text(content)  # the hash is right: the value is what is wrong
    if value == NESTED:
        body = text[: text.rindex(",")].replace(f'"{NESTED}"', "[" * 100_000 + "]" * 100_000)
        text = f'{body},\n  "sha256_of_above": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'
    (folder / MANIFEST_NAME).write_text(text)
    assert says in reason(folder)


@pytest.mark.parametrize("name", MEMBERS)
def test_each_member_is_needed(folder: Path, name: str) -> None:
    content = content_of(folder)
    del content[name]
    (folder / MANIFEST_NAME).write_text(hashed_text(content))
    assert "damaged or of another format" in reason(folder)


def test_a_manifest_that_is_no_text_or_no_file_is_refused(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    assert "codec can't decode" in reason(folder)
    path.unlink()
    path.mkdir()
    assert "it is a folder" in reason(folder)
