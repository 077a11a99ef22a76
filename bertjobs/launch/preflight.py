"""What is checked before anything is queued or written: every problem at once, not only the first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from bertjobs.data.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.launch import memory
from bertjobs.launch.memory import Peak
from bertjobs.launch.problem import Problem, RefusedError, caught
from bertjobs.launch.queue import NOT_ASKED, Queue, queue_problems
from bertjobs.launch.slurm import Slurm
from bertjobs.recipe.lockfile import difference, read_lockfile
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory, check_writable

MANY_EPOCHS = 40
"""BERT itself was trained for about 40 epochs (Devlin et al., arXiv 1810.04805, A.2)."""

SQUASHFS_MAGIC = b"hsqs"


def preflight(
    spec: RunSpec, backend: str, slurm: Slurm, queue: Queue = NOT_ASKED, peaks: Mapping[int, Peak] | None = None
) -> tuple[DataManifest, list[Problem]]:
    """All checks of a new run; writes nothing, queues nothing.

    Returns:
        Its data, and what is odd but does not stop it.

    Raises:
        InputError: all that stops it.
    """
    data, found = _inspect(spec, backend, slurm, queue, peaks)
    errors = [problem for problem in found if not problem.is_warning]
    if len(errors) == 1:
        raise InputError(errors[0].what, where=errors[0].where, hint=errors[0].hint)
    if errors or data is None:
        raise RefusedError(errors)
    return data, found


def problems(
    spec: RunSpec, backend: str, slurm: Slurm, queue: Queue = NOT_ASKED, peaks: Mapping[int, Peak] | None = None
) -> list[Problem]:
    """Everything that is wrong with a new run, and what is odd about it; [] where all is well.

    Args:
        spec: with absolute paths.
        backend: "slurm" or "local".
        slurm: the cluster.
        queue: what is asked of it.
        peaks: memory that an earlier run measured, by phase.
    """
    return _inspect(spec, backend, slurm, queue, peaks)[1]


def _inspect(
    spec: RunSpec, backend: str, slurm: Slurm, queue: Queue, peaks: Mapping[int, Peak] | None
) -> tuple[DataManifest | None, list[Problem]]:
    """The data, None where there are none, and all `problems`."""
    data, found = data_problems(spec)
    sized = data.sized(spec) if data else spec
    found = [
        *caught(check_name, spec),
        *caught(check_backend, spec, backend, slurm),
        *found,
        *caught(check_init_checkpoint, spec, data),
        *(container_problems(spec) if backend == "slurm" else []),
        *results_problems(sized),
        *memory_problems(sized, peaks),
        *(queue_problems(spec, queue) if backend == "slurm" else []),
    ]
    return data, list(dict.fromkeys(found))


def check_new_run(spec: RunSpec) -> None:
    """`check_name`, and the results folder must be writable.

    Raises:
        InputError: it is not.
    """
    check_name(spec)
    check_writable(Path(spec.results))


def check_name(spec: RunSpec) -> None:
    """The name must be free, or its run lack these phases.

    Raises:
        InputError: it is taken.
    """
    directory = RunDirectory(Path(spec.results) / spec.run)
    # Of a job that was refused there are logs alone, made by run.sub.
    started = {phase.number for phase in directory.phases() if phase.checkpoints.is_dir()}
    # A later phase may join a run whose earlier phases were started alone.
    joins = bool(started) and all(max(started) < phase.phase for phase in spec.phases)
    if directory.root.exists() and not joins:
        is_run = directory.lockfile.is_file()
        way_on = f"continue it: bertjobs resume {spec.run}" if is_run else "remove it: no run was begun in it"
        raise InputError(
            f"a run named {spec.run!r} exists" if is_run else f"the run's folder exists: {spec.run}",
            where=str(directory.root),
            hint=f"choose another name with --run, or {way_on}",
        )
    if joins and (changed := difference(read_lockfile(directory.lockfile), spec)):
        raise InputError(
            f"run {spec.run!r} was begun with other settings: {', '.join(changed)}",
            where=str(directory.lockfile),
            hint="give them again as they were, or choose another name with --run",
        )


def check_data(spec: RunSpec) -> DataManifest:
    """The shards must be there, whole, enough, and made with the recipe's vocabulary.

    Raises:
        InputError: they are not; the first thing that is wrong.
    """
    data = DataManifest.read(Path(spec.data))
    data.check(spec)
    if spec.loader == "lddl":
        from bertjobs.data.lddl_loader import check_lddl_shards  # imports torch

        check_lddl_shards(data, spec)
    return data


def data_problems(spec: RunSpec) -> tuple[DataManifest | None, list[Problem]]:
    """The data's manifest, None where there is none, and all that is wrong with the data."""
    try:
        data = DataManifest.read(Path(spec.data))
    except InputError as error:
        return None, [Problem(error.what, error.where, error.hint)]
    found = [
        *caught(data.check_vocabulary, spec.vocabulary),
        *caught(data.check_masking, spec.masking),
        *caught(data.check_vocabulary_file),
    ]
    for phase in spec.phases:
        whole = data.check_files if spec.on_bad_shard == "stop" else data.phase
        found += caught(whole, phase.phase)
    # Each of its checks stops it, so it would name only the first of the above.
    found = found or caught(check_data, spec)
    return data, found or epoch_problems(spec, data)


def epoch_problems(spec: RunSpec, data: DataManifest) -> list[Problem]:
    """A warning for each phase that reads its data more than `MANY_EPOCHS` times."""
    found = []
    for phase in spec.phases:
        epochs = phase.steps * phase.global_batch / data.training_sequences(phase.phase)
        if epochs > MANY_EPOCHS:
            found.append(
                Problem(
                    f"phase {phase.phase} reads its data {epochs:,.0f} times; BERT itself read its own {MANY_EPOCHS}",
                    where=spec.data,
                    hint="prepare more text, or more duplicates of it: bertjobs data prepare --duplicates",
                    is_warning=True,
                )
            )
    return found


def check_init_checkpoint(spec: RunSpec, data: DataManifest | None) -> None:
    """The weights to start from must be a Hugging Face BERT of the recipe's shape and the data's vocabulary.

    Raises:
        InputError: names the first thing that differs.
    """
    if not spec.init_checkpoint:
        return
    folder = Path(spec.init_checkpoint)
    try:
        config = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"config.json of the initial checkpoint cannot be read: {error}",
            where=str(folder),
            hint="INIT_CHECKPOINT is a folder with config.json and model.safetensors",
        ) from error
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        wanted = getattr(spec.model, name)
        if config.get(name) != wanted:
            raise InputError(
                f"the initial checkpoint has {name} {config.get(name)}, model {spec.model.name} has {wanted}",
                where=str(folder / "config.json"),
            )
    if data is not None:
        data.check_weights(folder)
    if (folder / "model.safetensors").is_file():
        check_safetensors(folder / "model.safetensors")


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's size with what its header announces; reads the header alone.

    The format: the header's length as 8 bytes, little-endian; the header, JSON with each tensor's
    ``data_offsets``; the tensors' bytes.

    Raises:
        InputError: the file is truncated or is none.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, size)))
        expected = (
            8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the weights cannot be read: {error}", where=str(path)) from error
    if size != expected:
        raise InputError(
            f"the weights cannot be read: {size:,} bytes, the file's header says {expected:,}",
            where=str(path),
            hint="truncated? copy it again",
        )


def check_backend(spec: RunSpec, backend: str, slurm: Slurm) -> None:
    """The place to run must be there.

    Raises:
        InputError: it is not.
    """
    if backend == "slurm":
        slurm.check(spec.image)
    elif spec.gpus and spec.nodes > 1:
        raise InputError(f"this machine is one node, {spec.nodes} are asked for", where="nodes", hint="set --nodes 1")
    elif spec.image:
        raise InputError("a container image needs Slurm with pyxis", where="image", hint="leave IMAGE out")


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


def results_problems(spec: RunSpec) -> list[Problem]:
    """Whether the results folder can be written, and has space for the checkpoints."""
    results = Path(spec.results)
    if found := caught(check_writable, results):
        return found
    folder = next(parent for parent in (results, *results.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    needed = checkpoints_bytes(spec)
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
