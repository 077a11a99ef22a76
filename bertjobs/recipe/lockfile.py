"""run.yml: a resolved run as a recipe file, and what two runs must share for one to continue the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from bertjobs.errors import InputError
from bertjobs.recipe.batch import divide
from bertjobs.recipe.catalogue import ANY_VOCABULARY, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RESTARTS, PhaseSpec, RunSpec

_RUN_KEYS = (
    "run", "nodes", "tasks_per_node", "gpus", "precision", "loss_scale", "loss_normalization",
    "activation_checkpointing", "gradient_compression", "deterministic", "seed", "masking", "masked_share",
    "masked_units", "num_workers", "loader", "unpad", "attention", "compile", "on_bad_shard", "local_copy",
    "bin_size", "keep_checkpoints", "hang_timeout_s", *(f"restarts_{cause}" for cause in RESTARTS), "previous_phase",
    "steps_this_run", "data", "results", "init_checkpoint", "image",
)  # fmt: skip
_PHASE_KEYS = (
    "sequence_length", "max_predictions", "steps", "lr", "warmup", "global_batch", "optimizer_state",
    "checkpoint_every", "validate_every",
)  # fmt: skip
# What decides the trained weights. How the batch is cut up does not, nor where files lie.
_DECISIVE_RUN = (
    "vocabulary", "precision", "loss_scale", "loss_normalization", "gradient_compression", "seed", "masking",
    "masked_share", "masked_units", "loader", "bin_size", "init_checkpoint",
)  # fmt: skip
_DECISIVE_PHASE = ("sequence_length", "max_predictions", "steps", "lr", "warmup", "global_batch", "optimizer_state")
_FREE_OPTIMIZER = ("backend", "shard_states")  # give the same numbers


def lockfile(spec: RunSpec) -> str:
    """The text of run.yml: a recipe file with one system, one model and one recipe, every value in it.

    Resolving that recipe from this file alone gives a RunSpec equal to ``spec``.
    """
    system, model = asdict(spec.system), asdict(spec.model)
    recipe = {
        "system": system.pop("name"),
        "model": model.pop("name"),
        "vocabulary": spec.vocabulary or ANY_VOCABULARY,
        **{key: getattr(spec, key) for key in _RUN_KEYS},
        "mounts": list(spec.mounts),
        "optimizer": asdict(spec.optimizer),
        "phases": {phase.phase: _locked_phase(phase, spec.world_size) for phase in spec.phases},
    }
    content = {
        "systems": {spec.system.name: system},
        "models": {spec.model.name: model},
        "recipes": {spec.recipe: recipe},
    }
    head = (
        "# A run, fully resolved by bertjobs; itself a recipe file. To run the same again under a new name:\n"
        f"# bertjobs submit --recipes run.yml --recipe {spec.recipe} --run NAME\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def read_lockfile(path: str | Path) -> RunSpec:
    """The run that a run.yml describes; InputError where it cannot be read or does not hold just one recipe."""
    catalogue = load_catalogue([path])
    recipes = catalogue.keys("recipes")
    if len(recipes) != 1:
        raise InputError(f"a run.yml holds one recipe, this file {len(recipes)}", where=str(path))
    return resolve(catalogue, flags={"recipe": recipes[0]}, environ={}).spec


def with_phases_of(spec: RunSpec, earlier: RunSpec) -> RunSpec:
    """``spec`` with the phases that only ``earlier`` has: for a run whose phases are started one by one."""
    phases = {phase.phase: phase for phase in (*earlier.phases, *spec.phases)}
    return replace(spec, phases=tuple(phases[number] for number in sorted(phases)))


def difference(a: RunSpec, b: RunSpec) -> list[str]:
    """Paths ("precision", "model.hidden_size", "phase1.lr") of decisive settings in which two runs differ.

    Phases that only one of them has are not compared. Empty where one run may continue the other.
    """
    shared = {phase.phase for phase in a.phases} & {phase.phase for phase in b.phases}
    first, second = _decisive(a, shared), _decisive(b, shared)
    return [path for path in first if first[path] != second[path]]


def recipe_hash(spec: RunSpec, phase: int) -> str:
    """sha256 (64 hex digits) over all settings that decide what a phase trains.

    Left out: nodes, ranks and micro-batches (the result does not depend on how the batch was cut), places of
    files, images, intervals of checkpoints and validation, and vocab_size (the vocabulary decides it).
    KeyError where the run has no such phase.
    """
    spec.phase(phase)
    text = json.dumps(_decisive(spec, {phase}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _locked_phase(phase: PhaseSpec, world_size: int) -> dict[str, Any]:
    locked = {key: getattr(phase, key) for key in _PHASE_KEYS}
    locked["micro_batch"] = phase.micro_batch_limit
    derived = divide(phase.global_batch, world_size, phase.micro_batch_limit)
    if derived.gradient_steps != phase.gradient_steps:
        locked["gradient_steps"] = phase.gradient_steps
    return locked


def decisive_settings(spec: RunSpec, phase: int) -> dict[str, Any]:
    """By path, all settings that decide what a phase trains: what `recipe_hash` hashes."""
    return _decisive(spec, {phase})


def _decisive(spec: RunSpec, phases: set[int]) -> dict[str, Any]:
    decisive: dict[str, Any] = {key: getattr(spec, key) for key in _DECISIVE_RUN}
    shape = {k: v for k, v in asdict(spec.model).items() if k not in ("name", "vocab_size")}
    decisive |= {f"model.{key}": value for key, value in shape.items()}
    decisive |= {
        f"optimizer.{key}": value for key, value in asdict(spec.optimizer).items() if key not in _FREE_OPTIMIZER
    }
    for phase in spec.phases:
        if phase.phase in phases:
            decisive |= {f"phase{phase.phase}.{key}": getattr(phase, key) for key in _DECISIVE_PHASE}
    return decisive
