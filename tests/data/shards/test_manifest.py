"""A data folder that cannot be used is refused, with the reason and what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.data.shards.manifest import DataManifest, vocabulary_sha256
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.errors import InputError


@pytest.fixture
def copy(dynamic: DataManifest, tmp_path: Path) -> DataManifest:
    shutil.copytree(dynamic.folder, tmp_path / "data")
    return DataManifest.read(tmp_path / "data")


def _refused(action: object, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments)  # type: ignore[operator]
    assert caught.value.exit_code == 64
    return str(caught.value)


def test_a_whole_folder_passes(dynamic: DataManifest, vocabulary_path: Path) -> None:
    for number in (1, 2):
        dynamic.check_files(number)
        assert dynamic.training_sequences(number) == dynamic.phase(number).train.rows > 0
    dynamic.check_vocabulary(vocabulary_sha256(vocabulary_path))
    dynamic.check_vocabulary("")
    dynamic.check_masking("dynamic")
    assert dynamic.vocabulary_path.read_bytes() == vocabulary_path.read_bytes()


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "does not exist" in _refused(DataManifest.read, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "this is a file, not a data folder" in _refused(DataManifest.read, tmp_path / "file")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "empty" in _refused(DataManifest.read, tmp_path)


def test_a_half_written_folder(copy: DataManifest) -> None:
    (copy.folder / "MANIFEST.json").unlink()
    message = _refused(DataManifest.read, copy.folder)
    assert "half-written" in message
    assert "prepare" in message


@pytest.mark.parametrize(
    ("name", "says", "not_"),
    [
        (".prepare", "run the same `bertjobs data prepare` again: it resumes", "new folder"),
        ("phase1", "`bertjobs data prepare` again, into a new folder", "resumes"),
        ("part_0.hdf5", "--vocab FILE --output DIR", "prepare` again"),
        ("part_0.tfrecord", "TFRecord files are not read here", "prepare` again"),
        ("shard-0.parquet_0", "bertjobs data adopt --phase N=", "prepare` again"),
        ("notes.txt", "name the folder that `bertjobs data prepare --output`", "again"),
    ],
)
def test_what_to_do_with_a_folder_without_a_manifest(tmp_path: Path, name: str, says: str, not_: str) -> None:
    (tmp_path / name).mkdir()
    message = _refused(DataManifest.read, tmp_path)
    assert says in message
    assert not_ not in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "bertjobs-data", "version": 99}', "null"])
def test_a_manifest_that_is_damaged_or_of_another_version(copy: DataManifest, content: str) -> None:
    (copy.folder / "MANIFEST.json").write_text(content)
    assert "damaged or of another format" in _refused(DataManifest.read, copy.folder)


def test_a_manifest_that_lists_files_elsewhere(copy: DataManifest) -> None:
    path = copy.folder / "MANIFEST.json"
    content = json.loads(path.read_text())
    content["phases"]["1"]["train"]["files"][0]["name"] = "../../secret"
    path.write_text(hashed_text(content))
    assert "files elsewhere" in _refused(DataManifest.read, copy.folder)


def test_a_missing_shard_is_named(copy: DataManifest) -> None:
    victim = copy.phase(2).train.files[3].name
    (copy.phase(2).train.folder / victim).unlink()
    copy.check_files(1)
    assert f"{victim!r} is missing" in _refused(copy.check_files, 2)


def test_a_shard_of_another_size_is_named(copy: DataManifest) -> None:
    victim = copy.phase(1).validation.files[1]
    path = copy.phase(1).validation.folder / victim.name
    path.write_bytes(path.read_bytes()[:-7])
    message = _refused(copy.check_files, 1)
    assert victim.name in message
    assert str(victim.bytes) in message


def test_a_changed_vocabulary_file(copy: DataManifest) -> None:
    with copy.vocabulary_path.open("a") as file:
        file.write("more\n")
    assert "vocab.txt was changed" in _refused(copy.check_files, 1)


def test_another_vocabulary_than_the_recipes(dynamic: DataManifest) -> None:
    message = _refused(dynamic.check_vocabulary, "0123456789abcdef" * 4)
    assert "0123456789ab..." in message
    assert f"{dynamic.vocabulary_sha256[:12]}..." in message


def test_another_masking(dynamic: DataManifest) -> None:
    assert "MASKING=dynamic" in _refused(dynamic.check_masking, "static")


def test_a_phase_that_does_not_exist(dynamic: DataManifest) -> None:
    assert "no phase 3" in _refused(dynamic.phase, 3)


def test_the_manifest_needs_only_the_standard_library() -> None:
    code = (
        "import sys, bertjobs.data.shards.manifest, bertjobs.cli.data; "
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'tokenizers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
