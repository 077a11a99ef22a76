"""What a run needs to be there: its image and mounts, space for its checkpoints, GPU memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.launch.plan import memory
from bertjobs.launch.plan.memory import Peak
from bertjobs.launch.plan.problem import Problem, caught
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory, check_writable

SQUASHFS_MAGIC = b"hsqs"


def container_problems(spec: RunSpec) -> list[Problem]:
    """Whether the image and the mounts' sources exist; an image in a registry is not asked for.

    What starts with ``/`` or ``./`` is a file to pyxis, all else a URI. Of mounts with enroot's flag ``nofail``, such
    as those of folders that only the nodes have, nothing is asked.
    """
    if not spec.image:
        return []
    found = []
    if spec.image.startswith(("/", "./")) or spec.image.endswith(".sqsh"):
        found += caught(check_image, Path(spec.image))
    for mount in spec.mounts:
        source, target, flags = [*mount.split(":"), ""][:3]
        if "/" in source and "nofail" not in flags.split("+") and not Path(source).exists():
            lenient = ":".join([source, target, "+".join(filter(None, [flags, "nofail"]))])
            hint = f"make it; where only the nodes have it, add the flag nofail: {lenient}"
            found.append(Problem(f"nothing is at {source} to mount", where=f"mounts: {mount}", hint=hint))
        if not target.startswith("/"):
            found.append(Problem(f"the place of a mount must be an absolute path, not {target!r}", f"mounts: {mount}"))
    return found


def check_image(path: Path) -> None:
    """An image file must be a squashfs that can be read.

    Raises:
        InputError: it is not.
    """
    try:
        with open(path, "rb") as handle:
            magic = handle.read(len(SQUASHFS_MAGIC))
    except OSError as error:
        hint = "make one with: enroot import docker://..., or give the image's URI"
        raise InputError(f"the image cannot be read: {error.strerror}", where=str(path), hint=hint) from error
    if magic != SQUASHFS_MAGIC:
        raise InputError("the image is no squashfs file", where=str(path), hint="truncated? make or copy it again")


def results_problems(spec: RunSpec, held: int = 0) -> list[Problem]:
    """Whether the results folder can be written, and has space for the checkpoints; ``held`` bytes of them are there
    already."""
    results = Path(spec.results)
    if found := caught(check_writable, results):
        return found
    folder = next(parent for parent in (results, *results.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    needed = checkpoints_bytes(spec) - held
    if needed <= free:
        return []
    kept = f"{spec.keep_checkpoints} of each phase, and one being written"
    return [
        Problem(
            f"the checkpoints need {needed / 1e9:.3g} GB ({kept}), {free / 1e9:.3g} GB are free",
            where=str(folder),
            hint="free some, keep fewer with --keep-checkpoints, or choose another folder with --results",
        )
    ]


def held_bytes(directory: RunDirectory) -> int:
    """Bytes that the checkpoints of a run's unfinished phases take now, which newer ones take the place of."""
    folders = [phase.checkpoints for phase in directory.phases() if not phase.done_file.exists()]
    return sum(file.stat().st_size for folder in folders for file in folder.glob("step-*/*") if file.is_file())


def checkpoints_bytes(spec: RunSpec) -> int:
    """Bytes that a run's checkpoints take at most: as many as are kept, and one more while it is written. Without a
    vocabulary yet, less than that."""
    one = checkpoint_bytes(spec.model, spec.model.vocab_size)
    return one * (spec.keep_checkpoints * len(spec.phases) + 1)


def memory_problems(spec: RunSpec, peaks: Mapping[int, Peak] | None = None) -> list[Problem]:
    """For each phase whose micro-batch does not fit the GPU, or may not (a warning), which one would."""
    found = []
    for phase in spec.phases:
        fit = memory.fit(spec, phase, spec.model.vocab_size, peaks)
        if fit is None or fit.verdict == memory.FITS:
            continue
        hint = (
            f"--set phase{phase.phase}.micro_batch={fit.micro_batch}, which makes GRADIENT_STEPS={fit.gradient_steps}"
            if fit.micro_batch
            else "--set activation_checkpointing=true, or --set optimizer.shard_states=true, or take a smaller model"
        )
        found.append(
            Problem(
                f"phase {phase.phase}: a micro-batch of {phase.micro_batch} takes about {fit.words()} ({fit.source})",
                where=f"{spec.system.gpu}, {spec.precision}",
                hint=hint,
                is_warning=fit.verdict == memory.TIGHT,
            )
        )
    return found
