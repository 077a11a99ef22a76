"""What is checked before anything is queued or written."""

from __future__ import annotations

import json
from pathlib import Path

from bertjobs.data.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.launch.slurm import Slurm
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory, check_writable


def check_new_run(spec: RunSpec) -> None:
    """The name must be free and the results folder writable.

    Raises:
        InputError: it is not.
    """
    directory = RunDirectory(Path(spec.results) / spec.run)
    started = {phase.number for phase in directory.phases()}
    # A later phase may join a run whose earlier phases were started alone.
    joins = bool(started) and all(max(started) < phase.phase for phase in spec.phases)
    if directory.root.exists() and not joins:
        raise InputError(
            f"a run named {spec.run!r} exists",
            where=str(directory.root),
            hint=f"choose another name with --run, or continue it: bertjobs resume {spec.run}",
        )
    check_writable(Path(spec.results))


def check_data(spec: RunSpec) -> DataManifest:
    """The shards must be there, whole, enough, and made with the recipe's vocabulary.

    Raises:
        InputError: they are not.
    """
    data = DataManifest.read(Path(spec.data))
    data.check_vocabulary(spec.vocabulary)
    data.check_masking(spec.masking)
    for phase in spec.phases:
        data.check_files(phase.phase)
        data.check_shard_count(phase.phase, spec.world_size, spec.num_workers)
    if spec.model.vocab_size and spec.model.vocab_size < data.vocabulary_size:
        raise InputError(
            f"model {spec.model.name} has {spec.model.vocab_size:,} token embeddings, the data's vocabulary has "
            f"{data.vocabulary_size:,} tokens",
            where=spec.data,
        )
    return data


def check_init_checkpoint(spec: RunSpec) -> None:
    """The weights to start from must be a Hugging Face BERT of the recipe's shape.

    Raises:
        InputError: names the first field that differs.
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
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    ):
        wanted = getattr(spec.model, name)
        if wanted and config.get(name) != wanted:
            raise InputError(
                f"the initial checkpoint has {name} {config.get(name)}, model {spec.model.name} has {wanted}",
                where=str(folder / "config.json"),
            )


def check_backend(spec: RunSpec, backend: str, slurm: Slurm) -> None:
    """The place to run must be there.

    Raises:
        InputError: it is not.
    """
    if backend == "slurm":
        slurm.check(spec.image)
    elif spec.image:
        raise InputError("a container image needs Slurm with pyxis", where="image", hint="leave IMAGE out")


def preflight(spec: RunSpec, backend: str, slurm: Slurm) -> DataManifest:
    """All checks of a new run; writes nothing, queues nothing."""
    check_new_run(spec)
    check_backend(spec, backend, slurm)
    data = check_data(spec)
    check_init_checkpoint(spec)
    return data
