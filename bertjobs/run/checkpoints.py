"""Which checkpoints exist: a folder without a valid MANIFEST.json does not exist for any reader."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError, InputError
from bertjobs.run.atomic import sha256_of, write_json

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
KEPT = 3


FOLDER_NAME = re.compile(r"step-\d{8,}")


class DamagedCheckpointError(BertjobsError):
    """A checkpoint folder whose files are not those that its manifest names."""


class NewerFormatError(InputError):
    """A checkpoint of a later bertjobs. It is not damaged: passing it over would lose its steps."""


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint holds; written last.

    ``files`` maps each file's name to its size in bytes and its sha256.
    """

    format_version: int
    phase: int
    step: int
    recipe_hash: str
    files: dict[str, dict[str, int | str]]


def folder_name(step: int) -> str:
    """``step-00000200``: sorts by step."""
    return f"step-{step:08d}"


def seal(folder: Path, *, phase: int, step: int, recipe_hash: str) -> None:
    """Write MANIFEST.json over the files that lie in ``folder``."""
    files: dict[str, dict[str, int | str]] = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    manifest = CheckpointManifest(FORMAT_VERSION, phase, step, recipe_hash, files)
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, its files' presence and sizes checked.

    Raises:
        DamagedCheckpointError: there is no readable manifest, or a file is missing or has another size.
        NewerFormatError: it is of a format that this bertjobs does not know.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _check_format(content["format_version"], folder)
        manifest = _parse(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(
            f"no valid {MANIFEST} ({type(error).__name__}: {error})", where=str(folder)
        ) from error
    for name, expected in manifest.files.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != expected["bytes"]:
            size = "is missing" if found is None else f"has {found:,} bytes"
            raise DamagedCheckpointError(
                f"{name} {size}, expected {expected['bytes']:,} bytes: the checkpoint is truncated",
                where=str(folder),
            )
    return manifest


def _parse(content: dict[str, Any]) -> CheckpointManifest:
    manifest = CheckpointManifest(**content)
    for name, entry in manifest.files.items():
        if Path(name).name != name or set(entry) != {"bytes", "sha256"}:
            raise ValueError(f"entry {name!r}")
    return manifest


def _check_format(version: int, folder: Path) -> None:
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"checkpoint format {version} is newer than this bertjobs reads ({FORMAT_VERSION})",
            where=str(folder),
            hint="update bertjobs",
        )


def verify(folder: Path) -> CheckpointManifest:
    """As `read_manifest`, and the sha256 of each file.

    Raises:
        DamagedCheckpointError: names the first file that differs.
        NewerFormatError: as in `read_manifest`.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise DamagedCheckpointError(f"{name} cannot be read: {error.strerror}", where=str(folder)) from error
        if found != expected["sha256"]:
            raise DamagedCheckpointError(
                f"{name} is altered: sha256 {found[:12]}..., expected {str(expected['sha256'])[:12]}...",
                where=str(folder),
            )
    return manifest


def steps(checkpoints: Path) -> list[Path]:
    """All checkpoint folders, valid or not, oldest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(folder for folder in checkpoints.iterdir() if FOLDER_NAME.fullmatch(folder.name))


def newest_valid(checkpoints: Path) -> tuple[Path | None, list[DamagedCheckpointError]]:
    """The newest checkpoint whose bytes are whole, and what is wrong with each newer one.

    Raises:
        NewerFormatError: a later bertjobs wrote a newer one.
    """
    damaged = []
    for folder in reversed(steps(checkpoints)):
        try:
            verify(folder)
        except DamagedCheckpointError as error:
            damaged.append(error)
        else:
            return folder, damaged
    return None, damaged


def prune(checkpoints: Path, *, keep: int = KEPT) -> None:
    """Delete all but the newest ``keep`` sealed checkpoints. Damaged ones are left for their owner to see."""
    sealed = [folder for folder in steps(checkpoints) if (folder / MANIFEST).is_file()]
    for folder in sealed[:-keep]:
        (folder / MANIFEST).unlink()  # first: from here on no reader sees it
        shutil.rmtree(folder)
