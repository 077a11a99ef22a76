"""A recipe cut down to run on this machine in seconds: a tiny model, few steps, a few of the shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.manifest_form import write_manifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.recipe.batch import divide
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.tasks.prepared import PreparedTask

NAME = "rehearsal"
RANKS = 2
LAYERS, HIDDEN, HEADS, INTERMEDIATE = 2, 32, 2, 64
STEPS = (15, 9)  # of the first phase, and of each later one
CHECKPOINT_EVERY = 3
MICRO_BATCH, GRADIENT_STEPS = 2, 2  # at most
ROWS = {"train": 512, "validation": 16}  # of the data, at least
EXAMPLES = {"train": 512, "dev": 64}  # of a task, at most
HANG_TIMEOUT_S = 300


def made_small(spec: RunSpec, data: DataManifest | PreparedTask) -> RunSpec:
    """The run that is rehearsed: two CPU ranks, a tiny model, few steps, small batches.

    Optimizer, learning rate, warm-up, masking, loss scale, loader, seed, budgets of restarts and everything else that
    decides how a run is trained and continued are the recipe's, as far as a CPU supports them. Phases that the data
    lack are left out. A task is validated, so that its best checkpoint is chosen, and never ends early.

    Raises:
        InputError: the data have none of its phases.
    """
    if isinstance(data, PreparedTask):
        phases, size = list(spec.phases), Vocabulary.of_folder(data.folder).size
    else:
        phases, size = [phase for phase in spec.phases if phase.phase in data.phases], data.sized(spec).model.vocab_size
        if not phases:
            data.phase(spec.phases[0].phase)
    model = replace(
        spec.model,
        name=NAME,
        vocab_size=size,
        num_hidden_layers=min(LAYERS, spec.model.num_hidden_layers),
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        intermediate_size=INTERMEDIATE,
    )
    return replace(
        spec,
        run=NAME,
        model=model,
        phases=tuple(
            _small_phase(phase, STEPS[min(index, 1)], is_validated=bool(spec.task or phase.validate_every))
            for index, phase in enumerate(phases)
        ),
        teacher_layers="",
        relation_heads=0,
        tune_layers=None if spec.tune_layers is None else min(spec.tune_layers, model.num_hidden_layers),
        nodes=1,
        tasks_per_node=RANKS,
        groups=(),
        group_systems=(),
        gpus=0,
        precision="fp32" if spec.precision == "tf32" else spec.precision,
        optimizer=replace(spec.optimizer, backend="auto"),
        num_workers=min(1, spec.num_workers),
        keep_checkpoints=min(3, spec.keep_checkpoints),
        hang_timeout_s=min(HANG_TIMEOUT_S, spec.hang_timeout_s or HANG_TIMEOUT_S),
        steps_this_run=0,
        init_checkpoint="",
        local_copy="",
        image="",
        mounts=(),
    )


def _small_phase(phase: PhaseSpec, count: int, *, is_validated: bool) -> PhaseSpec:
    gradient_steps = min(GRADIENT_STEPS, phase.gradient_steps)
    batch = divide(RANKS * MICRO_BATCH * gradient_steps, RANKS, MICRO_BATCH)
    return replace(
        phase,
        steps=count,
        global_batch=batch.global_batch,
        rank_batch=batch.rank_batch,
        micro_batch=batch.micro_batch,
        gradient_steps=batch.gradient_steps,
        micro_batch_limit=MICRO_BATCH,
        checkpoint_every=CHECKPOINT_EVERY,
        validate_every=count // 2 if is_validated else 0,
        early_stop=0,
    )


def sample_data(data: DataManifest, folder: Path, phases: Sequence[int]) -> None:
    """Make ``folder`` a data folder with links to a few of the shards of ``data``: at least one of each length bin."""
    content = json.loads((data.folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    content["phases"] = {number: content["phases"][str(number)] for number in map(str, phases)}
    for number, entry in content["phases"].items():
        for split, rows in ROWS.items():
            source = data.phase(int(number)).split(split).folder
            target = folder / f"phase{number}" / split
            target.mkdir(parents=True)
            entry[split]["files"] = _some(entry[split]["files"], rows)
            for file in entry[split]["files"]:
                (target / file["name"]).symlink_to((source / file["name"]).absolute())
    for name in (data.vocabulary_path.name, *(data.files_beside or ())):
        (folder / name).symlink_to((data.folder / name).absolute())
    write_manifest(folder, content)


def _some(files: Sequence[Mapping[str, Any]], rows: int) -> list[Mapping[str, Any]]:
    """One file of each bin in turn, until every bin has one and they hold this many rows; in their old order."""
    rank_in_bin: dict[int, int] = {}
    order = []
    for place, file in enumerate(files):
        turn = rank_in_bin[file["bin"]] = rank_in_bin.get(file["bin"], -1) + 1
        order.append((turn, place))
    taken: list[int] = []
    for turn, place in sorted(order):
        if turn and sum(files[other]["rows"] for other in taken) >= rows:
            break
        taken.append(place)
    return [files[place] for place in sorted(taken)]
