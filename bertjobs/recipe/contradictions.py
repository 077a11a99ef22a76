"""Settings that contradict each other: each check raises an InputError, and says where they are from."""

from __future__ import annotations

from collections.abc import Mapping

from bertjobs.errors import InputError
from bertjobs.recipe.layers import Provenance
from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec


def check_compression(sources: Mapping[str, Provenance]) -> None:
    """Refuse gradients that fp16 would lose: it needs a loss scale."""
    compression, precision = sources["gradient_compression"], sources["precision"]
    if compression.value == "fp16" != precision.value:
        raise InputError(
            f"gradients would be sent in fp16 without a loss scale: precision {precision.value} has none",
            where=f"gradient_compression from {compression.origin}, precision from {precision.origin}",
            hint="values below 6e-8 would be lost: set gradient_compression to bf16, or to none",
        )


def check_rebalance(spec: RunSpec, given: Provenance) -> None:
    """Refuse to deal batches by speed that cannot be."""
    if spec.rebalance and (spec.task or not spec.is_unpadded):
        what = "a task's batches" if spec.task else "padded batches"
        raise InputError(
            f"{what} cannot be dealt by the speed of the ranks",
            where=f"rebalance from {given.origin}",
            hint="leave rebalance at false" if spec.task else "leave unpad, loader and loss_normalization as they are",
        )


def check_decay(spec: RunSpec, sources: Mapping[str, Provenance]) -> None:
    """Refuse what the decay would not read."""
    by = f"decay {spec.decay} from {sources['decay'].origin}"
    if spec.decay_power != 1 and spec.decay != "linear":
        raise InputError("only a linear decay has a power", where=by, hint="set decay to linear, or decay_power to 1")
    for phase in spec.phases:
        if phase.end_lr and spec.decay not in ("linear", "cosine"):
            raise InputError(
                f"the learning rate would not end at {phase.end_lr:g}",
                where=f"phase {phase.phase}, {by}",
                hint="set decay to linear or cosine, or end_lr to 0",
            )
        if phase.end_lr > phase.lr:
            raise InputError(
                f"end_lr {phase.end_lr:g} is above the peak learning rate {phase.lr:g}", where=f"phase {phase.phase}"
            )


def check_best(spec: RunSpec, sources: Mapping[str, Provenance]) -> None:
    """Refuse a best checkpoint that nothing would find."""
    for phase in spec.phases if not spec.task else ():
        path = f"phase{phase.phase}"
        if phase.keep_best and phase.steps and not phase.validate_every:
            raise InputError(
                "without validations no checkpoint is the best",
                where=f"{path}.keep_best from {sources[f'{path}.keep_best'].place}",
                hint=f"set {path}.validate_every, such as {phase.checkpoint_every}",
            )
        if phase.early_stop and not phase.keep_best:
            raise InputError(
                "only a phase that keeps its best checkpoint can end early",
                where=f"{path}.early_stop from {sources[f'{path}.early_stop'].place}",
                hint=f"set {path}.keep_best=true and {path}.validate_every",
            )


def check_length(phase: PhaseSpec, model: ModelSpec) -> None:
    """Refuse sequences that are longer than the model's positions."""
    if phase.sequence_length > model.max_position_embeddings:
        raise InputError(
            f"sequence_length {phase.sequence_length} is longer than the {model.max_position_embeddings} "
            f"positions of model {model.name}",
            where=f"phase {phase.phase}",
        )


def check_shape(phase: PhaseSpec, model: ModelSpec, bin_size: int) -> None:
    """Refuse lengths of a phase that do not fit the model, each other, or the bins."""
    where = f"phase {phase.phase}"
    check_length(phase, model)
    if phase.max_predictions >= phase.sequence_length:
        raise InputError(
            f"max_predictions {phase.max_predictions} is not below sequence_length {phase.sequence_length}",
            where=where,
        )
    if phase.sequence_length % bin_size:
        raise InputError(f"bin_size {bin_size} does not divide sequence_length {phase.sequence_length}", where=where)
