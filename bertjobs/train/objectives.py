"""Which objective a run has. Those of upper floors are known by name only."""

from __future__ import annotations

import importlib

from bertjobs.recipe.spec import RunSpec
from bertjobs.train.objective import Objective

PRETRAINING = "bertjobs.train.pretraining.objective:Pretraining"
FINE_TUNING = "bertjobs.finetune.objective:FineTuning"


def objective_of(spec: RunSpec) -> Objective:
    """Pretraining, or where the run has a task fine-tuning.

    Raises:
        InputError: the data are not valid for it.
    """
    module, _, name = (FINE_TUNING if spec.task else PRETRAINING).partition(":")
    return getattr(importlib.import_module(module), name).of(spec)
