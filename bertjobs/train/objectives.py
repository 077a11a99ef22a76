"""Which objective a run has. Those of upper floors are known by name only."""

from __future__ import annotations

import importlib

from bertjobs.recipe.distillation import check_taught
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.objective import Objective

PRETRAINING = "bertjobs.train.pretraining.objective:Pretraining"
FINE_TUNING = "bertjobs.finetune.objective:FineTuning"
GENERAL_DISTILLATION = "bertjobs.distill.general:GeneralDistillation"
TASK_DISTILLATION = "bertjobs.distill.task:TaskDistillation"


def objective_of(spec: RunSpec) -> Objective:
    """Pretraining, or where the run has a task fine-tuning; where it has a teacher, the distillation of either.

    Raises:
        InputError: the data, or the teacher, are not valid for it.
    """
    check_taught(spec)
    if spec.teacher:
        place = TASK_DISTILLATION if spec.task else GENERAL_DISTILLATION
    else:
        place = FINE_TUNING if spec.task else PRETRAINING
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name).of(spec)
