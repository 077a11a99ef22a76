"""run.yml: a resolved run as a recipe file, and what two runs must share for one to continue the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from bertjobs.errors import InputError
from bertjobs.files.reading import read_bytes
from bertjobs.recipe import schema
from bertjobs.recipe.batch import divide
from bertjobs.recipe.catalogue import ANY_VOCABULARY, load_catalogue
from bertjobs.recipe.groups import NodeGroup
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.schema import Setting
from bertjobs.recipe.spec import PhaseSpec, RunSpec

_RUN_KEYS = tuple(key for key, s in schema.RUN.items() if s.in_recipe and key not in ("system", "model", "vocabulary"))
_PHASE_KEYS = tuple(key for key in schema.PHASE if key not in ("micro_batch", "rank_batch", "gradient_steps"))


def lockfile(spec: RunSpec) -> str:
    """The text of run.yml: a recipe file with one model, one recipe and its systems, with every value written out.

    Resolving that recipe from this file alone gives a RunSpec equal to ``spec``.
    """
    model = asdict(spec.model)
    recipe = {
        "system": spec.system.name,
        "model": model.pop("name"),
        "vocabulary": spec.vocabulary or ANY_VOCABULARY,
        **{key: _plain(getattr(spec, key)) for key in _RUN_KEYS if getattr(spec, key) is not None},
        "optimizer": asdict(spec.optimizer),
        "phases": {phase.phase: _locked_phase(phase, spec.world_size) for phase in spec.phases},
    }
    content = {
        "systems": _systems(spec),
        "models": {spec.model.name: model},
        "recipes": {spec.recipe: recipe},
    }
    head = (
        "# A run, fully resolved by bertjobs; itself a recipe file. To run the same again under a new name:\n"
        f"# bertjobs submit --recipes run.yml --recipe {spec.recipe} --run NAME\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def _systems(spec: RunSpec) -> dict[str, Any]:
    """The run's and its groups', by name."""
    systems = map(asdict, (spec.system, *spec.group_systems))
    return {system.pop("name"): system for system in systems}


def read_lockfile(path: str | Path) -> RunSpec:
    """The run that a run.yml describes; InputError if it cannot be read or does not contain exactly one recipe."""
    read_bytes(Path(path))  # what lies there in its place may be no file, and keep a reader waiting forever
    catalogue = load_catalogue([path])
    recipes = catalogue.keys("recipes")
    if len(recipes) != 1:
        raise InputError(f"a run.yml has one recipe, but this file has {len(recipes)}", where=str(path))
    return resolve(catalogue, flags={"recipe": recipes[0]}, environ={}).spec


def with_phases_of(spec: RunSpec, earlier: RunSpec) -> RunSpec:
    """``spec`` with the phases that only ``earlier`` has: for a run whose phases are started one by one."""
    phases = {phase.phase: phase for phase in (*earlier.phases, *spec.phases)}
    return replace(spec, phases=tuple(phases[number] for number in sorted(phases)))


def difference(a: RunSpec, b: RunSpec) -> list[str]:
    """Paths ("precision", "model.hidden_size", "phase1.lr") of decisive settings in which two runs differ.

    Phases that only one of them has are not compared. Empty if one run may continue the other.
    """
    shared = {phase.phase for phase in a.phases} & {phase.phase for phase in b.phases}
    first, second = _decisive(a, shared), _decisive(b, shared)
    return [path for path in first if first[path] != second[path]]


def recipe_hash(spec: RunSpec, phase: int) -> str:
    """sha256 (64 hex digits) over all settings that decide what a phase trains.

    Left out: nodes, ranks and micro-batches (the result does not depend on how the batch was cut), paths of files,
    images, intervals of checkpoints and validation, and vocab_size (it follows from the vocabulary).
    KeyError if the run does not have the phase.
    """
    spec.phase(phase)
    decisive = _decisive(spec, {phase})
    later = {key: setting for key, setting in schema.RUN.items() if setting.later}
    later |= {f"phase{phase}.{key}": setting for key, setting in schema.PHASE.items() if setting.later}
    for key, setting in later.items():
        if decisive[key] == setting.default:
            del decisive[key]
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [item.plain() if isinstance(item, NodeGroup) else item for item in value]
    return value


def _locked_phase(phase: PhaseSpec, world_size: int) -> dict[str, Any]:
    locked = {key: getattr(phase, key) for key in _PHASE_KEYS}
    locked["micro_batch"] = phase.micro_batch_limit
    derived = divide(phase.global_batch, world_size, phase.micro_batch_limit)
    if derived.gradient_steps != phase.gradient_steps:
        locked["gradient_steps"] = phase.gradient_steps
    return locked


def decisive_settings(spec: RunSpec, phase: int) -> dict[str, Any]:
    """All settings that decide what a phase trains, by path: what `recipe_hash` hashes."""
    return _decisive(spec, {phase})


def _decisive(spec: RunSpec, phases: set[int]) -> dict[str, Any]:
    """The settings that decide the weights, by path: not how the batch is cut up, nor where files are."""
    decisive = _of("", schema.RUN, spec) | _of("model.", schema.MODEL, spec.model)
    decisive |= _of("optimizer.", schema.OPTIMIZER, spec.optimizer)
    for phase in spec.phases:
        if phase.phase in phases:
            decisive |= _of(f"phase{phase.phase}.", schema.PHASE, phase)
    return decisive


def _of(prefix: str, settings: Mapping[str, Setting], spec: Any) -> dict[str, Any]:
    return {f"{prefix}{key}": getattr(spec, key) for key, setting in settings.items() if setting.decisive}
