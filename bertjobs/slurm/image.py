"""What an image and its mounts must be, for pyxis and for Apptainer: checked before anything is queued."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bertjobs.errors import InputError, raise_all
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.container import APPTAINER, PYXIS, Container, starter_of

SQUASHFS_MAGIC = b"hsqs"
SIF_MAGIC, SIF_OFFSET = b"SIF_MAGIC", 32
"""In a SIF file, after the line that starts it when it is executed."""

_MAKE_SQUASHFS = "enroot import --output IMAGE.sqsh docker://..."


def check_container(container: Container, slurm: Slurm) -> str:
    """A cluster must have what starts the container, and its image and mounts must fit that. A machine that cannot
    queue at all has no starter either: this is for others to say.

    Returns:
        What will start it, "pyxis" or "apptainer".

    Raises:
        InputError: all that is wrong, at once.
    """
    errors, starter = [], PYXIS
    if slurm.present:
        try:
            starter = starter_of(container.starter, slurm)
        except InputError as error:
            errors.append(error)
    checks = [partial(check_image, container.image, starter)]
    checks += [partial(check_mount, mount, starter) for mount in container.mounts]
    for check in checks:
        try:
            check()
        except InputError as error:
            errors.append(error)
    raise_all(errors)
    return starter


def check_image(image: str, starter: str) -> None:
    """The image must be of a kind that ``starter`` starts, and a file must be one; a registry is not asked.

    Raises:
        InputError: it is not.
    """
    if starter == APPTAINER:
        _check_for_apptainer(image)
    else:
        _check_for_pyxis(image)


def check_mount(mount: str, starter: str) -> None:
    """A mount's source must exist here and its target be a path. One with enroot's flag ``nofail``, such as that of a
    folder that only the nodes have, is not checked.

    Args:
        mount: SRC:DST or SRC:DST:FLAGS.

    Raises:
        InputError: names the first thing that is wrong.
    """
    source, target, flags = [*mount.split(":"), ""][:3]
    where = f"mounts: {mount}"
    if starter == APPTAINER and flags not in ("", "ro", "rw"):
        raise InputError(f"Apptainer has no mount flags {flags!r}", where=where, hint="it has ro and rw")
    if "/" in source and "nofail" not in flags.split("+") and not Path(source).exists():
        lenient = ":".join([source, target, "+".join(filter(None, [flags, "nofail"]))])
        more = f"; if only the nodes have it, add the flag nofail: {lenient}" if starter == PYXIS else ""
        raise InputError(f"there is nothing to mount at {source}", where=where, hint=f"create it{more}")
    if not target.startswith("/"):
        raise InputError(f"a mount's target must be an absolute path, not {target!r}", where=where)


def _check_for_pyxis(image: str) -> None:
    """What starts with ``/`` or ``./`` is a file, anything else a URI."""
    if image.endswith(".sif"):
        hint = "make a .sqsh file with enroot import, or set --container apptainer"
        raise InputError("pyxis cannot start a .sif file, which is Apptainer's", where=image, hint=hint)
    if image.startswith(("/", "./")) or image.endswith(".sqsh"):
        _check_file(Path(image), SQUASHFS_MAGIC, 0, "a squashfs file", _MAKE_SQUASHFS)


def _check_for_apptainer(image: str) -> None:
    """What has ``://`` is a URI; a folder is a root file system."""
    path = Path(image)
    if "://" in image:
        return
    if path.is_dir():
        if not (path / "bin" / "sh").exists():
            raise InputError("the folder is not an image: it has no bin/sh", where=image)
    elif image.endswith(".sqsh"):
        _check_file(path, SQUASHFS_MAGIC, 0, "a squashfs file", _MAKE_SQUASHFS)
    elif "#" in image and not path.exists():
        hint = f"docker://{image.replace('#', '/', 1)}"
        raise InputError(
            f"{image!r} is a URI as enroot writes it, which Apptainer cannot read", where="image", hint=hint
        )
    else:
        _check_file(path, SIF_MAGIC, SIF_OFFSET, "a SIF file", "apptainer build IMAGE.sif docker://...")


def _check_file(path: Path, magic: bytes, offset: int, kind: str, command: str) -> None:
    try:
        with open(path, "rb") as handle:
            start = handle.read(offset + len(magic))
    except OSError as error:
        hint = f"make one with: {command}; or give the image's URI"
        raise InputError(f"the image cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    if start[offset:] != magic:
        raise InputError(f"the image is not {kind}", where=str(path), hint="truncated? make or copy it again")
