"""What is checked before anything is queued or written."""

from __future__ import annotations

import json
from pathlib import Path

from bertjobs.data.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.launch.slurm import Slurm
from bertjobs.recipe.lockfile import difference, read_lockfile
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory, check_writable


def check_new_run(spec: RunSpec) -> None:
    """The name must be free, or its run lack these phases, and the results folder be writable.

    Raises:
        InputError: it is not.
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
    check_writable(Path(spec.results))


def check_data(spec: RunSpec) -> DataManifest:
    """The shards must be there, whole, enough, and made with the recipe's vocabulary.

    Raises:
        InputError: they are not.
    """
    data = DataManifest.read(Path(spec.data))
    data.check(spec)
    if spec.loader == "lddl":
        from bertjobs.data.lddl_loader import check_lddl_shards  # imports torch

        check_lddl_shards(data, spec)
    return data


def check_init_checkpoint(spec: RunSpec, data: DataManifest) -> None:
    """The weights to start from must be a Hugging Face BERT of the recipe's shape and the data's vocabulary.

    Raises:
        InputError: names the first thing that differs.
    """
    if not spec.init_checkpoint:
        return
    folder = Path(spec.init_checkpoint)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
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


def preflight(spec: RunSpec, backend: str, slurm: Slurm) -> DataManifest:
    """All checks of a new run; writes nothing, queues nothing."""
    check_new_run(spec)
    check_backend(spec, backend, slurm)
    data = check_data(spec)
    check_init_checkpoint(spec, data)
    return data
