"""Number formats that older GPUs lack, told from their names: all that is known before a node has been seen."""

from __future__ import annotations

from bertjobs.recipe.spec import SystemSpec

_BEFORE_AMPERE = ("K80", "M40", "P4", "P40", "P100", "V100", "T4", "TITAN", "GTX", "RTX 20", "RTX20", "Quadro")
"""How the names of GPUs with a compute capability below 8.0 begin."""

INSTEAD = {"bf16": "fp16", "tf32": "fp32"}
"""Formats that came with capability 8.0 -> what stands in for them on older GPUs."""


def lacks(system: SystemSpec, precision: str) -> bool:
    """Whether the GPUs of a system cannot compute in this number format."""
    return precision in INSTEAD and system.gpu.startswith(_BEFORE_AMPERE)
