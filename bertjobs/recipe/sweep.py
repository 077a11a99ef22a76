"""The settings in which the runs of a study differ: seeds, and the values of a sweep. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from bertjobs.errors import InputError
from bertjobs.recipe import schema
from bertjobs.recipe.layers import SET
from bertjobs.recipe.resolve import Resolved
from bertjobs.recipe.schema import nearest_key

SEED = "seed"
MOST = 1000
"""Runs of one study: Slurm's arrays have at most 1,000 elements unless a cluster's owner allows more."""

Settings = Mapping[str, str]
"""Path of a setting, such as ``phase1.lr`` -> its value as text."""

_SAME_FOR_ALL = ("run", "results", "recipe", "phase", "steps_this_run", "task", "data")


def read_sweeps(texts: Sequence[str], phases: Sequence[int], fixed: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The ``--sweep KEY=VALUE,VALUE`` arguments, by the setting's path.

    Args:
        texts: as they were typed.
        phases: numbers of the run's phases; if it has one, ``lr`` means that phase's.
        fixed: the ``--set KEY=VALUE`` arguments, which name what all runs share.

    Raises:
        InputError: one is not of this form, sets what all runs share, or names a setting or a value twice.
    """
    sweeps: dict[str, tuple[str, ...]] = {}
    for text in texts:
        where = f"--sweep {text}"
        key, _, listed = text.partition("=")
        path, values = _path(key.strip(), phases, where), tuple(value.strip() for value in listed.split(","))
        if not path or not all(values):
            raise InputError(f"--sweep takes KEY=VALUE,VALUE,..., not {text!r}", where="--sweep", hint="lr=1e-5,2e-5")
        if path not in (known := _paths(phases)):
            raise InputError(
                f"unknown key {key.strip()!r}", where=where, hint=nearest_key(key.strip(), [*known, *schema.PHASE])
            )
        if path in _SAME_FOR_ALL:
            raise InputError(f"{path} is the same for all runs of a study", where=where, hint=f"--{path}, once")
        if path in sweeps or path in (one.partition("=")[0].strip() for one in fixed):
            raise InputError(f"{path} is given twice", where=where, hint="list all its values in one --sweep")
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InputError(f"the value {twice} is listed twice", where=where, hint="--seeds N repeats a setting")
        sweeps[path] = values
    return sweeps


def _paths(phases: Sequence[int]) -> list[str]:
    """Of all settings, as --set has them."""
    of_phases = [f"phase{number}.{key}" for number in phases for key in schema.PHASE]
    return [*schema.RUN, *(f"optimizer.{key}" for key in schema.OPTIMIZER), *of_phases]


def _path(key: str, phases: Sequence[int], where: str) -> str:
    if key not in schema.PHASE or key in schema.RUN:
        return key
    if len(phases) > 1:
        raise InputError(
            f"{key} is a setting of one phase, but the run has phases {' and '.join(map(str, phases))}",
            where=where,
            hint=f"--sweep phase{phases[0]}.{key}=...",
        )
    return f"phase{phases[0]}.{key}"


def read_count(text: str | None, flag: str, most: int = MOST) -> int | None:
    """A number from 1 to ``most``, such as that of ``--seeds``; None if it is not given.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise InputError(f"{text!r} is not a whole number from 1 to {most}", where=flag)
    return int(text)


def combinations(sweeps: Mapping[str, Sequence[str]], seeds: int | None, first_seed: int) -> Sequence[Settings]:
    """The settings of each run: the product of all sweeps, each with ``seeds`` seeds from ``first_seed`` on; None: the
    recipe's own seed.

    Raises:
        InputError: both give seeds, or there are too many runs.
    """
    if seeds is not None and SEED in sweeps:
        raise InputError("seeds are given twice", where="--seeds and --sweep seed", hint="give one of them")
    axes = dict(sweeps) | ({SEED: [str(first_seed + one) for one in range(seeds)]} if seeds is not None else {})
    product = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(product) > MOST:
        raise InputError(f"the study would have {len(product):,} runs", where="--sweep", hint=f"at most {MOST:,}")
    return product


def check_applied(resolved: Resolved, settings: Settings) -> None:
    """Make sure that nothing stronger than the sweep sets one of its settings.

    Raises:
        InputError: something does.
    """
    for path in settings:
        wanted = path.replace("micro_batch", "micro_batch_limit") if path.endswith(".micro_batch") else path
        source = resolved.provenance.get(wanted)
        if source is not None and source.level != SET:
            raise InputError(
                f"{path} differs between the runs of the study, but {source.origin} sets it",
                where=f"--sweep {path}",
                hint="leave out one of the two",
            )
