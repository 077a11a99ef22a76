"""Which builds of torch have machine code for which GPUs; elsewhere the first kernel fails.

Torch lists what it was compiled for (``torch.cuda.get_arch_list``). ``sm_80`` is machine code, for GPUs of
compute capability 8.0 and those of the same major version with a higher minor one; ``sm_90a`` is for 9.0 only;
``sm_100f`` for 10.0 and its family, the same major version. ``compute_80`` is PTX, which the driver translates for 8.0
and everything newer ("Application compatibility" in NVIDIA's CUDA C++ programming guide).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bertjobs.errors import InputError

Capability = tuple[int, int]
"""Compute capability: major and minor version."""


@dataclass(frozen=True)
class Wheel:
    """A build of torch for Linux: the CUDA in its name, the capabilities that it has code for, and which versions of
    torch are built so."""

    tag: str
    oldest: Capability
    newest: Capability
    versions: str


# RELEASE.md of torch 2.11 and 2.12; the end of CUDA 12.6 is proposed in pytorch/pytorch issue 190385.
WHEELS = (
    Wheel("cu126", (5, 0), (9, 0), "torch 2.6 to 2.14"),
    Wheel("cu130", (7, 5), (12, 0), "torch 2.9 and later"),
)
OLD_CHIPS = {"P100": (6, 0), "V100": (7, 0)}
"""GPUs that recipes name and the usual wheels have no code for, and their capabilities."""

INDEX = "https://download.pytorch.org/whl/"


def runs_on(capability: Capability, architectures: Sequence[str]) -> bool:
    """Whether code for one of these ``architectures``, in torch's words, runs on a GPU of this capability."""
    return any(_runs(capability, architecture) for architecture in architectures)


def _runs(capability: Capability, architecture: str) -> bool:
    parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if parts is None:
        return False
    kind, variant = parts[1], parts[4]
    built = (int(parts[2]), int(parts[3]))
    if variant == "a":
        return capability == built
    if kind == "compute" and not variant:
        return capability >= built
    return capability[0] == built[0] and capability >= built


def check_architecture(
    name: str, capability: Capability, architectures: Sequence[str], version: str, cuda: str
) -> None:
    """Refuse a GPU that this torch has no code for.

    Args:
        name: the GPU's, as the driver has it.
        architectures: what torch was compiled for: ``torch.cuda.get_arch_list()``.
        version: torch's, such as "2.13.0+cu130".
        cuda: the CUDA that it was compiled with, such as "13.0".

    Raises:
        InputError: says what the GPU needs, what this torch has, and which wheel has it.
    """
    if not architectures or runs_on(capability, architectures):
        return
    code = f"sm_{capability[0]}{capability[1]}"
    raise InputError(
        f"{name} needs code for {code} (compute capability {capability[0]}.{capability[1]}), but this torch {version} "
        f"for CUDA {cuda} only has {', '.join(architectures)}",
        where="the Python environment of the worker",
        hint=_wheel_for(capability, version),
    )


def _wheel_for(capability: Capability, version: str) -> str:
    wheel = next((wheel for wheel in reversed(WHEELS) if wheel.oldest <= capability <= wheel.newest), None)
    if wheel is None:
        return "no current wheel of torch has it: use a container or a build of torch made for this GPU"
    release = version.partition("+")[0]
    return (
        f"install the wheel that has it, {wheel.tag} ({wheel.versions}): "
        f"pip install torch=={release} --index-url {INDEX}{wheel.tag}"
    )


def lacks_code(chip: str, version: str | None) -> str | None:
    """What to install if a wheel of torch is known to have no code for a GPU, judged without either; else None.

    Args:
        chip: the GPU's name in a recipe, such as "V100-SXM2-16GB".
        version: torch's, as its package states it; None if it is not installed.
    """
    capability = next((of_chip for name, of_chip in OLD_CHIPS.items() if chip.startswith(name)), None)
    if version is None or capability is None:
        return None
    release, _, tag = version.partition("+")
    # PyPI's wheels have no tag. What was built elsewhere, or for CPUs, is not judged.
    if tag not in ("", *(wheel.tag for wheel in WHEELS if capability < wheel.oldest)):
        return None
    return _wheel_for(capability, release)
