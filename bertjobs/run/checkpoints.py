"""Which checkpoints exist: a folder without a valid MANIFEST.json does not exist for any reader."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from bertjobs.errors import BertjobsError
from bertjobs.run.atomic import sha256_of, write_json

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
KEPT = 3


class DamagedCheckpointError(BertjobsError):
    """A checkpoint folder whose files are not those that its manifest names."""


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
        DamagedCheckpointError: there is no readable manifest, it is of a newer format, or a file is missing or
            has another size.
    """
    try:
        manifest = CheckpointManifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise DamagedCheckpointError(f"no valid {MANIFEST}: {error}", where=str(folder)) from error
    if manifest.format_version > FORMAT_VERSION:
        raise DamagedCheckpointError(
            f"checkpoint format {manifest.format_version} is newer than this bertjobs reads ({FORMAT_VERSION})",
            where=str(folder),
            hint="update bertjobs",
        )
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


def verify(folder: Path) -> CheckpointManifest:
    """As `read_manifest`, and the sha256 of each file.

    Raises:
        DamagedCheckpointError: names the first file that differs.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        found = sha256_of(folder / name)
        if found != expected["sha256"]:
            raise DamagedCheckpointError(
                f"{name} is altered: sha256 {found[:12]}..., expected {str(expected['sha256'])[:12]}...",
                where=str(folder),
            )
    return manifest


def steps(checkpoints: Path) -> list[Path]:
    """All checkpoint folders, valid or not, oldest first."""
    return sorted(checkpoints.glob("step-*")) if checkpoints.is_dir() else []


def newest_valid(checkpoints: Path) -> tuple[Path | None, list[DamagedCheckpointError]]:
    """The newest checkpoint whose bytes are whole, and what is wrong with each newer one."""
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
