"""Which environment variables bertjobs reads, and which were surely meant for it."""

from __future__ import annotations

from collections.abc import Mapping

from bertjobs.errors import InputError
from bertjobs.recipe.schema import SETTINGS

NAMES = {setting.env: setting.key for setting in SETTINGS if setting.env}
"""Environment name -> key of its setting."""

_OTHER_WORDS = {
    "LEARNING_RATE": "LR",
    "TRAIN_BATCH_SIZE": "BATCHSIZE",
    "RANK_BATCH": "BATCHSIZE",
    "GRADIENT_ACCUMULATION_STEPS": "GRADIENT_STEPS",
    "ACCUMULATION_STEPS": "GRADIENT_STEPS",
    "GRAD_STEPS": "GRADIENT_STEPS",
    "PHASES": "PHASE",
    "RECIPES": "RECIPE",
}


def _bare(name: str) -> str:
    return name.replace("_", "").removesuffix("S")


# Short names (SEED, GPUS, ...) are too similar to variables that mean something else.
_BARE = {_bare(name): name for name in NAMES if len(_bare(name)) >= 6}


def near_miss(name: str) -> str | None:
    """The name of ours that ``name`` was surely meant to be, or None."""
    return None if name in NAMES else _OTHER_WORDS.get(name) or _BARE.get(_bare(name))


def read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Key of a setting -> its text, for all our names that are set and not empty.

    If PHASE or RECIPE is set, so that the environment is surely meant for bertjobs, a near miss of one of our names
    (BATCH_SIZE, GRADIENT_STEP, LEARNING_RATE) whose correct name is unset is an InputError.
    """
    if environ.get("PHASE") or environ.get("RECIPE"):
        for name in environ:
            meant = near_miss(name)
            if meant and not environ.get(meant):
                raise InputError(
                    f"the environment variable {name} is not read",
                    where=f"environment {name}={environ[name]!r}",
                    hint=f"did you mean {meant}? Set that, or unset {name}",
                )
    return {key: environ[name] for name, key in NAMES.items() if environ.get(name)}
