"""Which checkpoints exist: a folder without a valid MANIFEST.json does not exist for any reader."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError, InputError, first_line
from bertjobs.files.atomic import remove_folder, sha256_of, write_json
from bertjobs.files.reading import DamagedFileError, read_json

FORMAT_VERSION = 2
"""2: the optimizer's state may be in several files; the manifest has the world size, the settings and its own hash."""
MANIFEST = "MANIFEST.json"
KEPT = 3

FOLDER_NAME = re.compile(r"step-\d{8,}")

FileEntry = dict[str, int | str]
"""``bytes`` and ``sha256`` of a file."""


class DamagedCheckpointError(BertjobsError):
    """A checkpoint folder whose files are not those that its manifest names."""


class NewerFormatError(InputError):
    """A checkpoint that a later bertjobs wrote. It is not damaged: skipping it would lose its steps."""


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint holds; written last.

    Attributes:
        files: each file's size in bytes and its sha256, by name.
        world_size: ranks that trained; 0 in format 1, which does not record it.
        settings: those of the recipe that decide the weights, by path ("optimizer.beta1"); {} in format 1.
    """

    format_version: int
    phase: int
    step: int
    recipe_hash: str
    files: dict[str, FileEntry]
    world_size: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def folder_name(step: int) -> str:
    """``step-00000200``: sorts by step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def seal(
    folder: Path,
    *,
    phase: int,
    step: int,
    recipe_hash: str,
    world_size: int = 1,
    settings: Mapping[str, Any] | None = None,
    files: Mapping[str, FileEntry] | None = None,
) -> None:
    """Write MANIFEST.json over the files in ``folder``; those in ``files`` are not read, None reads and hashes all."""
    if files is None:
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file in folder.iterdir()
            if file.name != MANIFEST
        }
    ordered = {name: files[name] for name in sorted(files)}
    manifest = CheckpointManifest(FORMAT_VERSION, phase, step, recipe_hash, ordered, world_size, dict(settings or {}))
    content = asdict(manifest)
    write_json(folder / MANIFEST, {**content, "sha256": _sha256_of_json(content)})


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, its files' presence and sizes checked.

    Raises:
        DamagedCheckpointError: there is no readable manifest, or a file is missing or has another size.
        NewerFormatError: it is of a format that this bertjobs does not know.
    """
    try:
        manifest = read_json(folder / MANIFEST, lambda content: _manifest(content, folder))
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"no valid {MANIFEST} ({error.what})", where=str(folder)) from error
    if manifest is None:
        raise DamagedCheckpointError(f"no valid {MANIFEST} (there is none)", where=str(folder))
    for name, expected in manifest.files.items():
        size = _size(folder / name)
        if size != expected["bytes"]:
            what = "is missing" if size is None else f"has {size:,} bytes"
            raise DamagedCheckpointError(
                f"{name} {what}, expected {expected['bytes']:,} bytes: the checkpoint is truncated",
                where=str(folder),
            )
    return manifest


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError:
        return None


def _sha256_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifest(content: Any, folder: Path) -> CheckpointManifest:
    """The manifest in a value of JSON.

    Raises:
        ValueError: there is none in it.
        NewerFormatError: a later bertjobs wrote it.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    try:
        _check_hash(content)
        _check_format(content["format_version"], folder)
        return _parse(content)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_hash(content: dict[str, Any]) -> None:
    """Take the manifest's own hash out of it and compare; format 1 has none."""
    expected = content.pop("sha256", None)
    if expected is not None and expected != _sha256_of_json(content):
        raise ValueError("altered: sha256")


def _parse(content: dict[str, Any]) -> CheckpointManifest:
    manifest = CheckpointManifest(**content)
    if manifest.format_version > 1 and not {"world_size", "settings"} <= content.keys():
        raise ValueError("no world_size or no settings")
    for name in ("format_version", "phase", "step", "world_size"):
        if type(getattr(manifest, name)) is not int:
            raise ValueError(f"{name} is not a whole number")
    for name, entry in manifest.files.items():
        if (
            Path(name).name != name
            or "\0" in name
            or set(entry) != {"bytes", "sha256"}
            or type(entry["bytes"]) is not int
        ):
            raise ValueError(f"entry {name!r}")
    if not isinstance(manifest.settings, dict):
        raise TypeError("settings is not an object")
    return manifest


def _check_format(version: int, folder: Path) -> None:
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"checkpoint format {version} is newer than this bertjobs reads ({FORMAT_VERSION})",
            where=str(folder),
            hint="update bertjobs",
        )


def check_settings(manifest: CheckpointManifest, settings: Mapping[str, Any], folder: Path) -> None:
    """Make sure that a checkpoint was trained with these settings, as far as both name them.

    Raises:
        InputError: names each setting that differs, with both values.
    """
    ours = json.loads(json.dumps(dict(settings)))  # as the manifest has them: lists for tuples
    differing = [key for key, value in manifest.settings.items() if key in ours and ours[key] != value]
    if differing:
        words = ", ".join(f"{key} {manifest.settings[key]!r} (here {ours[key]!r})" for key in differing)
        raise InputError(
            f"the checkpoint was trained with other settings: {words}",
            where=str(folder),
            hint="set them back, or start another run with RUN; INIT_CHECKPOINT takes only the weights",
        )


def verify(folder: Path) -> CheckpointManifest:
    """As `read_manifest`, and the sha256 of each file; several files are read at once.

    Raises:
        DamagedCheckpointError: names the first file that differs.
        NewerFormatError: as in `read_manifest`.
    """
    manifest = read_manifest(folder)
    largest_first = sorted(manifest.files, key=lambda name: -int(manifest.files[name]["bytes"]))
    with ThreadPoolExecutor() as pool:
        hashes = {name: pool.submit(sha256_of, folder / name) for name in largest_first}
    for name, expected in manifest.files.items():
        try:
            digest = hashes[name].result()
        except OSError as error:
            raise DamagedCheckpointError(f"{name} cannot be read: {error.strerror}", where=str(folder)) from error
        if digest != expected["sha256"]:
            raise DamagedCheckpointError(
                f"{name} is altered: sha256 {digest[:12]}..., expected {str(expected['sha256'])[:12]}...",
                where=str(folder),
            )
    return manifest


def steps(checkpoints: Path) -> list[Path]:
    """All checkpoint folders, valid or not, oldest first.

    Raises:
        DamagedFileError: their folder is closed to this user.
    """
    try:
        return sorted(folder for folder in checkpoints.iterdir() if FOLDER_NAME.fullmatch(folder.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise DamagedFileError(f"the checkpoints cannot be read: {error.strerror}", where=str(checkpoints)) from error


def last_written(checkpoints: Path) -> str:
    """The name of the checkpoint that was written last, valid or not; "" for none. It is not the one of the most steps
    where an attempt has skipped damaged ones."""
    folders = steps(checkpoints)
    return max(folders, key=lambda folder: (folder.lstat().st_mtime_ns, folder.name)).name if folders else ""


def newest_valid(
    checkpoints: Path, check: Callable[[Path], CheckpointManifest] | None = None
) -> tuple[Path | None, list[DamagedCheckpointError]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one.

    Args:
        check: `verify`, by default, which reads all bytes, or `read_manifest`, which reads none.

    Raises:
        NewerFormatError: a later bertjobs wrote a newer one.
    """
    damaged = []
    for folder in reversed(steps(checkpoints)):
        try:
            (check or verify)(folder)
        except DamagedCheckpointError as error:
            damaged.append(error)
        else:
            return folder, damaged
    return None, damaged


def newest_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint whose files are all there with the right size; their bytes are not read. For readers: one
    that cannot be read, or that a later bertjobs wrote, is skipped."""
    try:
        return next((folder for folder in reversed(steps(checkpoints)) if _is_whole(folder)), None)
    except (DamagedFileError, OSError):
        return None


def result_problem(checkpoints: Path, name: str, sha256: str) -> str:
    """What is wrong with the checkpoint that a finished phase names; "" if it is whole. Its files' bytes are not read.

    Args:
        name, sha256: its folder's name, and the hash of its manifest, as DONE.json has them.
    """
    folder = checkpoints / name
    try:
        if not folder.is_dir():
            return f"{name} is missing"
        read_manifest(folder)
        return "" if sha256_of(folder / MANIFEST) == sha256 else f"{name} is not the one that DONE.json names"
    except (BertjobsError, OSError) as error:
        return f"{name} is damaged: {getattr(error, 'what', None) or first_line(error)}"


def prune(checkpoints: Path, *, keep: int = KEPT, newest: str | None = None, spare: Collection[str] = ()) -> None:
    """Delete old checkpoints. Damaged ones are left for their owner to see, and do not count.

    Args:
        keep: how many stay, at least 1.
        newest: name of the one just written, which is good. Those of later steps are not, since this attempt skipped
            them when it began. None counts all.
        spare: names of others that stay.

    Raises:
        OSError: one cannot be deleted.
    """
    candidates = [folder for folder in steps(checkpoints) if newest is None or folder.name <= newest]
    for folder in [folder for folder in candidates if _is_whole(folder)][:-keep]:
        if folder.name not in spare:
            remove_folder(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint's files are all there with the right size; their bytes are not read."""
    try:
        read_manifest(folder)
    except (BertjobsError, OSError):
        return False
    return True
