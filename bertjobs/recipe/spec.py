"""The resolved run: frozen values that the launcher writes and the worker obeys.

Each field that a user can set declares its help, unit, bounds, choices and environment name, in `settings`. What is
written there is written nowhere else: YAML keys, ``--set`` keys, flags, run.yml and docs/settings.md are derived from
it (see `schema`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bertjobs.recipe.batch import largest_micro_batch
from bertjobs.recipe.settings.arithmetic import ArithmeticSettings, OptimizerSpec
from bertjobs.recipe.settings.data import DataSettings
from bertjobs.recipe.settings.model import ModelSpec, VocabularySpec
from bertjobs.recipe.settings.nodes import NodeSettings, SystemSpec
from bertjobs.recipe.settings.phase import PhaseSpec
from bertjobs.recipe.settings.run import RunSettings
from bertjobs.recipe.settings.stops import StopSettings
from bertjobs.recipe.settings.teacher import TeacherSettings

__all__ = [
    "ModelSpec",
    "OptimizerSpec",
    "PhaseSpec",
    "RunSpec",
    "SystemSpec",
    "VocabularySpec",
]


# A dataclass has the fields of its last base first.
@dataclass(frozen=True, kw_only=True)
class RunSpec(TeacherSettings, StopSettings, DataSettings, ArithmeticSettings, NodeSettings, RunSettings):
    """A whole run, resolved."""

    @property
    def is_unpadded(self) -> bool:
        """Whether training uses packs. LDDL's loader does not make any, and NVIDIA's loss is that of its padded
        micro-batches."""
        return self.unpad and self.loader == "bertjobs" and self.loss_normalization == "global"

    def pack_tokens(self, phase: PhaseSpec) -> int:
        """The most tokens in a pack: those of the recipe's largest padded micro-batch, so that the packs do not depend
        on the number of ranks; or those of the micro-batch that GRADIENT_STEPS asks for. Never more than a global
        batch can have."""
        derived = largest_micro_batch(phase.rank_batch, phase.micro_batch_limit)
        size = phase.micro_batch_limit if phase.micro_batch == derived else phase.micro_batch
        return min(size, phase.global_batch) * phase.sequence_length

    def phase(self, number: int) -> PhaseSpec:
        """The phase with this number; KeyError if the run does not have it."""
        for phase in self.phases:
            if phase.phase == number:
                return phase
        raise KeyError(number)
