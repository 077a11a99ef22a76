"""All settings, from the fields of the specs. YAML keys, flags and environment names are derived from these tables."""

from __future__ import annotations

from collections.abc import Iterable

from bertjobs.errors import nearest
from bertjobs.recipe.names import check_name, check_path
from bertjobs.recipe.setting import REQUIRED, Setting, settings_of
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec, PhaseSpec, RunSpec, SystemSpec, VocabularySpec

__all__ = [
    "DESCRIPTION",
    "MODEL",
    "OPTIMIZER",
    "PHASE",
    "REQUIRED",
    "RUN",
    "SETTINGS",
    "SYSTEM",
    "VOCABULARY",
    "Setting",
    "check_name",
    "check_path",
    "nearest_key",
]

RUN = settings_of(RunSpec, "run")
OPTIMIZER = settings_of(OptimizerSpec, "optimizer")
PHASE = settings_of(PhaseSpec, "phase")
SYSTEM = settings_of(SystemSpec, "system")
MODEL = settings_of(ModelSpec, "model")
VOCABULARY = settings_of(VocabularySpec, "vocabulary")
DESCRIPTION = Setting(
    "what the recipe is for, shown by `bertjobs recipes`",
    example="BERT-large on our cluster",
    kind="text",
    key="description",
    default="",
    flag="",
    section="run",
    topic=next(iter(RUN.values())).topic,
)
"""The only key of a recipe that its runs do not have."""

SETTINGS: tuple[Setting, ...] = (*RUN.values(), *OPTIMIZER.values(), *PHASE.values())
"""What flags, ``--set`` and the environment can set."""


def nearest_key(word: str, keys: Iterable[str]) -> str | None:
    """A hint for an unknown key: the setting with that environment name, else the nearest in spelling."""
    known = list(keys)
    for setting in SETTINGS:
        if setting.env and word.upper() == setting.env and setting.key in known:
            return f"did you mean {setting.key!r}?"
    return nearest(word, known)
