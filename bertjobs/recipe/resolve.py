"""From a recipe's name to one frozen RunSpec, with the origin of each value.

Order of precedence: the job's allocation (nodes and tasks), command-line flag, ``--set``, environment, the
user's recipe files, the catalogue, the site file, the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.errors import InputError, raise_all
from bertjobs.recipe import schema
from bertjobs.recipe.batch import divide
from bertjobs.recipe.catalogue import Catalogue
from bertjobs.recipe.contradictions import (
    check_best,
    check_compression,
    check_decay,
    check_length,
    check_rebalance,
    check_shape,
)
from bertjobs.recipe.groups import groups_of, groups_text, nodes_words, ranks_of
from bertjobs.recipe.layers import DEFAULT, FILE, Layers, Provenance
from bertjobs.recipe.old_gpus import INSTEAD, lacks
from bertjobs.recipe.predictions import most_predictions
from bertjobs.recipe.schema import check_name
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec, PhaseSpec, RunSpec, SystemSpec
from bertjobs.recipe.variables import read_environment

__all__ = ["Provenance", "Resolved", "resolve"]


EpochRows = int | Callable[[int], int]
"""Sequences that are trained on in one epoch, or of each phase by its number."""


@dataclass(frozen=True)
class Resolved:
    """A run, ready to be planned.

    Attributes:
        spec: what to run; ``spec.phases`` holds the phases asked for.
        provenance: a setting's path ("precision", "optimizer.beta1", "phase1.lr") -> its source.
        recipe_phases: numbers of all phases that the recipe has, in order.
        recipe_batches: phase -> the global batch before BATCHSIZE, if that is given, made another of it.
    """

    spec: RunSpec
    provenance: Mapping[str, Provenance]
    recipe_phases: tuple[int, ...]
    recipe_batches: Mapping[int, int]


def resolve(
    catalogue: Catalogue,
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    sets: Sequence[str] = (),
    swept: Mapping[str, str] | None = None,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    ranks_of_nodes: Sequence[int] | None = None,
    site: Mapping[str, str] | None = None,
    site_origin: str = "",
    training_rows: EpochRows | None = None,
) -> Resolved:
    """Resolve one recipe.

    Args:
        catalogue: what the recipe files hold.
        flags: key of a setting -> value from the command line; None is unset.
        environ: the environment; only the schema's names are read.
        sets: the ``--set`` arguments, such as "phase1.lr=1e-3", "optimizer.beta2=0.98", "precision=tf32".
        swept: path of a setting -> its value in this run of a study, as text; as strong as ``sets``.
        nodes, tasks_per_node: the job's allocation, if there is one; it overrides everything.
        ranks_of_nodes: of the job's allocation the ranks on each node, in place of the two.
        site: key of a setting -> text from the site file; ignored for systems without a scheduler, which do not belong
            to a cluster.
        site_origin: where ``site`` comes from, in words.
        training_rows: sequences in an epoch, which make steps of epochs; None if they are not known yet: phases that
            have epochs instead of steps then have 0.

    Raises:
        InputError: an unknown recipe or key (names the nearest), a value of the wrong type, a phase that the
            recipe does not have, a batch that cannot be divided, BATCHSIZE, LR or GRADIENT_STEPS without a phase.
    """
    if ranks_of_nodes:
        nodes, tasks_per_node = len(ranks_of_nodes), max(ranks_of_nodes)
    allocation = {"nodes": nodes, "tasks_per_node": tasks_per_node}
    environment = _split_gpus(read_environment(environ))
    given = {**_assignments(sets), **(swept or {})}
    layers = Layers(catalogue, allocation, _split_gpus(flags), _split_gpus(given), environment, swept=swept or {})
    recipe = layers.run("recipe")
    catalogue.check("recipes", recipe.value, recipe.place)
    layers = replace(layers, recipe=recipe.value)
    layers.check_given()

    system = catalogue.system(layers.run("system").value, layers.run("system").place)
    if system.scheduler != "none":
        layers = replace(layers, site=site or {}, site_origin=site_origin)
    sources = {key: layers.run(key) for key in schema.RUN if key != "phase"}
    if not sources["run"].value:
        sources["run"] = Provenance(check_name(recipe.value, "run"), "the recipe's name")
    sources |= _groups(sources, ranks_of_nodes)
    sources |= _ranks(sources, system)
    group_systems = _group_systems(catalogue, sources["groups"], system, sources["gpus"].value)
    sources |= _common_precision(sources, group_systems)
    model, vocabulary = _model_and_vocabulary(catalogue, sources)
    optimizer = {key: layers.optimizer(key) for key in schema.OPTIMIZER}
    sources |= {f"optimizer.{key}": source for key, source in optimizer.items()}

    check_compression(sources)
    phases = []
    for number in layers.chosen_phases():
        of_phase = _phase(layers, number, sources, training_rows)
        phases.append(PhaseSpec(phase=number, **{key: source.value for key, source in of_phase.items()}))
        if not sources["task"].value:  # `with_model` checks the others, whose model comes with their weights
            check_shape(phases[-1], model, sources["bin_size"].value)
        sources |= {f"phase{number}.{key}": source for key, source in of_phase.items()}

    built: dict[str, Any] = {key: source.value for key, source in sources.items() if key in _PLAIN}
    spec = RunSpec(
        system=system,
        model=model,
        vocabulary=vocabulary,
        phases=tuple(phases),
        optimizer=OptimizerSpec(**{key: source.value for key, source in optimizer.items()}),
        group_systems=group_systems,
        **built,
    )
    if len(spec.groups) > 1 and spec.is_unpadded and not spec.task and sources["rebalance"].level == DEFAULT:
        sources["rebalance"] = Provenance(True, "groups of nodes may differ in speed")
        spec = replace(spec, rebalance=True)
    check_rebalance(spec, sources["rebalance"])
    check_decay(spec, sources)
    check_best(spec, sources)
    batches = {phase.phase: layers.phase(phase.phase, "global_batch").value for phase in phases}
    return Resolved(spec, sources, layers.recipe_phases(), batches)


def with_model(resolved: Resolved, model: ModelSpec, origin: str) -> Resolved:
    """The run with another model than its recipe's: that of the weights which it starts from.

    Args:
        origin: where the model comes from, in words.

    Raises:
        InputError: it cannot read sequences as long as the run's.
    """
    for phase in resolved.spec.phases:
        check_length(phase, model)
    provenance = {**resolved.provenance, "model": Provenance(model.name, origin)}
    return replace(resolved, spec=replace(resolved.spec, model=model), provenance=provenance)


_PLAIN = set(schema.RUN) - {"phase", "system", "model", "vocabulary"}
_BATCH = ("global_batch", "rank_batch", "micro_batch", "gradient_steps")  # settled by the batch arithmetic
_SIMPLE = tuple(key for key in schema.PHASE if key not in _BATCH)


def _assignments(sets: Sequence[str]) -> dict[str, str]:
    """The ``--set KEY=VALUE`` arguments; the last of several for one key counts."""
    pairs, errors = {}, []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            errors.append(InputError(f"--set takes KEY=VALUE, not {text!r}", where="flag --set", hint="phase1.lr=1e-3"))
        pairs[key.strip()] = value.strip()
    raise_all(errors)
    return pairs


def _split_gpus(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """``gpus`` as Slurm writes GPUs of a type, ``a100:8``, as the two settings that it is."""
    kind, colon, count = str(values.get("gpus") or "").rpartition(":")
    if not colon:
        return values
    if values.get("gpu_type") not in (None, "", kind):
        raise InputError(
            f"GPUs of type {kind} contradict gpu_type {values['gpu_type']}",
            where=f"gpus {values['gpus']}",
            hint="give one of them",
        )
    return {**values, "gpus": count, "gpu_type": kind}


def _groups(sources: Mapping[str, Provenance], ranks_of_nodes: Sequence[int] | None) -> dict[str, Provenance]:
    """The groups of nodes, and what follows from them; those of the job's allocation, if it has others. What a stronger
    place says of all nodes wins over groups."""
    groups = sources["groups"]
    if ranks_of_nodes and ranks_of(groups.value) != tuple(ranks_of_nodes):
        groups = Provenance(groups_of(ranks_of_nodes), sources["nodes"].origin, sources["nodes"].level)
    if not groups.value:
        return {"groups": groups}
    of_nodes = ranks_of(groups.value)
    own = {"nodes": len(of_nodes), "tasks_per_node": max(of_nodes)}
    for key, value in {**own, "gpus": max(of_nodes)}.items():
        given = sources[key]
        if given.value in (None, value) or given.level > groups.level or given.level == DEFAULT:
            continue
        if key == "gpus" and not given.value:  # the groups' nodes train on CPUs
            continue
        if given.level < groups.level:
            return {"groups": Provenance((), given.origin, given.level)}
        raise InputError(
            f"{key} {given.value} contradicts groups {groups_text(groups.value)}",
            where=f"{key} from {given.place}, groups from {groups.place}",
            hint=f"leave out {key}: it follows from the groups",
        )
    return {"groups": groups, **{key: Provenance(value, "groups", groups.level) for key, value in own.items()}}


def _group_systems(catalogue: Catalogue, groups: Provenance, system: SystemSpec, gpus: int) -> tuple[SystemSpec, ...]:
    """Each group's; () where no group names one.

    Raises:
        InputError: there is none of that name; says the nearest. Or it has no GPUs, and the run trains on ``gpus``.
    """
    if not any(group.system for group in groups.value):
        return ()
    systems = tuple(catalogue.system(one.system, groups.place) if one.system else system for one in groups.value)
    for group, own in zip(groups.value, systems, strict=True):
        if gpus and not own.gpus_per_node:
            raise InputError(f"group {group} trains on GPUs, but system {own.name} has none", where=groups.place,
                             hint="name a system with GPUs, or set GPUS=0 to train on CPUs everywhere")  # fmt: skip
    return systems


def _common_precision(sources: Mapping[str, Provenance], systems: Sequence[SystemSpec]) -> dict[str, Provenance]:
    """One number format for all ranks: where a group's GPUs lack the recipe's, what stands in for it."""
    precision, gpus = sources["precision"], sources["gpus"]
    old = next((system.gpu for system in systems if gpus.value and lacks(system, precision.value)), None)
    if old is None:
        return {}
    common = INSTEAD[precision.value]
    if precision.level < FILE:
        raise InputError(
            f"{old}, which a group of nodes has, cannot compute in {precision.value}, and all ranks compute alike",
            where=f"precision from {precision.place}",
            hint=f"leave it out, or use {common}",
        )
    return {"precision": Provenance(common, f"{old}, which a group of nodes has, lacks {precision.value}", FILE)}


def _ranks(sources: Mapping[str, Provenance], system: SystemSpec) -> dict[str, Provenance]:
    """GPUs, tasks and world size: one task per GPU, or without GPUs the number that the system or the job sets."""
    gpus, tasks, nodes = sources["gpus"], sources["tasks_per_node"], sources["nodes"]
    if gpus.value is None:
        gpus = Provenance(system.gpus_per_node, f"system {system.name}")
    if of_nodes := ranks_of(sources["groups"].value):
        gpus = Provenance(tasks.value, "groups") if gpus.value else gpus
        return {"gpus": gpus, "world_size": Provenance(sum(of_nodes), nodes_words(of_nodes))}
    if gpus.value == 0:
        if tasks.value is None:
            tasks = Provenance(system.tasks_per_node, f"system {system.name}")
    elif tasks.value is None or tasks.level >= FILE > gpus.level:
        tasks = Provenance(gpus.value, "one task per GPU")
    elif tasks.value != gpus.value:
        if gpus.level < FILE or gpus.level == tasks.level or tasks.value > system.gpus_per_node:
            raise InputError(
                f"{tasks.value} tasks per node do not match {gpus.value} GPUs per node: each task uses one GPU",
                where=f"tasks_per_node from {tasks.origin}, gpus from {gpus.origin}",
                hint=f"use {gpus.value} tasks per node, or set GPUS={tasks.value}, or GPUS=0 to train on CPUs",
            )
        gpus = Provenance(tasks.value, "one GPU per task")
    words = nodes_words([tasks.value] * nodes.value)
    world = Provenance(nodes.value * tasks.value, words)
    return {"gpus": gpus, "tasks_per_node": tasks, "world_size": world}


def _model_and_vocabulary(catalogue: Catalogue, sources: Mapping[str, Provenance]) -> tuple[ModelSpec, str]:
    """The model, its vocab_size filled in from the vocabulary, and the vocabulary's sha256 ("" for any)."""
    model = catalogue.model(sources["model"].value, sources["model"].place)
    digest, size = catalogue.vocabulary(sources["vocabulary"].value, sources["vocabulary"].place)
    return (model if model.vocab_size else replace(model, vocab_size=size)), digest


def _phase(
    layers: Layers, number: int, sources: Mapping[str, Provenance], training_rows: EpochRows | None
) -> dict[str, Provenance]:
    """All fields of one PhaseSpec, with the batch arithmetic done and explained in the origins."""
    simple = {key: layers.phase(number, key) for key in _SIMPLE}
    if simple["max_predictions"].value is None:
        length, share = simple["sequence_length"].value, sources["masked_share"].value
        words = f"a share of {share:g} of {length} tokens, rounded up"
        simple["max_predictions"] = Provenance(most_predictions(length, share), words)
    limit = layers.micro_batch(number, sources["precision"].value)
    glob, rank, steps = (layers.phase(number, key) for key in ("global_batch", "rank_batch", "gradient_steps"))
    world, ranks = sources["world_size"].value, f"({sources['world_size'].origin})"
    if rank.value is not None and glob.level <= rank.level:
        if glob.level == rank.level and glob.value != rank.value * world:
            raise InputError(
                f"a global batch of {glob.value} contradicts {rank.value} per rank on {world} ranks",
                where=f"{glob.origin}, {rank.origin}",
                hint="give one of them",
            )
        rank = Provenance(None, "")
    sizes = divide(
        glob.value,
        world,
        limit.value,
        rank.value,
        steps.value,
        tasks_per_node=0 if sources["groups"].value else sources["tasks_per_node"].value,
        where=f"recipe {layers.recipe}, phase {number}",
    )
    if rank.value is None:
        rank = Provenance(sizes.rank_batch, f"{glob.value} / {ranks}")
    else:
        glob = Provenance(sizes.global_batch, f"{rank.value} x {ranks}")
    if steps.value is None:
        micro = Provenance(sizes.micro_batch, f"largest divisor of {sizes.rank_batch} up to the limit {limit.value}")
        steps = Provenance(sizes.gradient_steps, f"{sizes.global_batch} / {ranks} / micro-batch {sizes.micro_batch}")
    else:
        micro = Provenance(sizes.micro_batch, f"{sizes.rank_batch} / {steps.value} gradient steps")
    simple |= _epochs(layers, number, simple, sizes.global_batch, training_rows)
    return simple | {
        "global_batch": glob,
        "rank_batch": rank,
        "micro_batch": micro,
        "gradient_steps": steps,
        "micro_batch_limit": limit,
    }


def _epochs(
    layers: Layers, number: int, simple: Mapping[str, Provenance], global_batch: int, rows: EpochRows | None
) -> dict[str, Provenance]:
    """Steps from epochs, where these were given instead, or by something stronger; then a validation after each epoch,
    and of a task a checkpoint, unless the recipe says otherwise. Neither depends on the number of ranks."""
    steps, epochs = simple["steps"], simple["epochs"]
    if steps.value is not None and not _is_stronger(epochs, steps, layers.is_own(number, "epochs", "steps")):
        return {}
    if not epochs.value:
        raise InputError(
            f"recipe {layers.recipe} sets neither steps nor epochs for phase {number}",
            where=f"recipes.{layers.recipe}.phases.{number}",
            hint=f"--set phase{number}.steps=N, or phase{number}.epochs=N",
        )
    if rows is None:
        return {"steps": Provenance(0, "by the training data")}
    read = rows if isinstance(rows, int) else rows(number)
    words = f"{epochs.value:g} epochs of {read:,} sequences / {global_batch}"
    every = Provenance(max(1, math.ceil(read / global_batch)), "an epoch")
    counted = {"steps": Provenance(max(1, math.ceil(epochs.value * read / global_batch)), words)}
    by_epoch = ("validate_every", "checkpoint_every") if layers.run("task").value else ("validate_every",)
    return counted | {key: every for key in by_epoch if simple[key].level == DEFAULT}


def _is_stronger(epochs: Provenance, steps: Provenance, only_epochs_are_own: bool) -> bool:
    """Whether epochs decide the length of a phase that also has steps."""
    if not epochs.value:
        return False
    return epochs.level < steps.level or (epochs.level == steps.level == FILE and only_epochs_are_own)
