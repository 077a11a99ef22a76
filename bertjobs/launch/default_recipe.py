"""The recipe of a job that names none: by the GPUs of the node that it got. run.sub asks, on the job's first node.

`choose` decides and is pure. ``python -m bertjobs.launch.default_recipe`` asks nvidia-smi, prints the recipe's name,
and says on stderr, which is the job's log, what was assumed and why. It needs no torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue
from bertjobs.recipe.old_gpus import lacks
from bertjobs.recipe.spec import SystemSpec
from bertjobs.run.bench_file import is_same_gpu

FALLBACK = "dgxa100-40g"
"""Where the GPUs are not known: a recipe whose micro-batches fit all GPUs with 40 GB and more, in bf16, which all
GPUs since the A100 have. run.sub has it too, for where no Python answers."""

BF16 = (8, 0)
"""Compute capability of the first GPUs with bf16."""

QUERY = "name,memory.total,compute_cap"
ASK_S = 20.0
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi reports it; ``memory_gb`` in units of 10^9 bytes, ``capability`` major and minor."""

    name: str
    memory_gb: float
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} ({self.memory_gb:.0f} GB)"


@dataclass(frozen=True)
class Choice:
    """A recipe, and why it is the one, to follow "RECIPE is not set, and "."""

    recipe: str
    why: str

    def words(self) -> str:
        return f"recipe {self.recipe} is assumed: RECIPE is not set, and {self.why}"


def parse_gpus(answer: str) -> list[Gpu]:
    """The GPUs in nvidia-smi's answer to `QUERY`, in CSV without header and units; other lines are left out."""
    gpus = []
    for line in answer.splitlines():
        with suppress(ValueError):
            name, memory, capability = (part.strip() for part in line.split(","))
            major, minor = (int(number) for number in capability.split("."))
            gpus.append(Gpu(name, float(memory) * MIB / 1e9, (major, minor)))
    return gpus


def choose(catalogue: Catalogue, gpus: Sequence[Gpu], *, on_cpus: bool = False) -> Choice:
    """The recipe of ``catalogue`` for a node: of its GPU's own system; else, of those with the GPU's number formats,
    the one with the most memory that the GPU has too. Of several GPUs the smallest counts.

    Args:
        on_cpus: the run uses no GPU (GPUS=0).
    """
    if on_cpus:
        return Choice(FALLBACK, "the run uses no GPU (GPUS=0)")
    if not gpus:
        return Choice(
            FALLBACK, "nvidia-smi names no GPU on this node; it suits GPUs of 40 GB or more, from the A100 on"
        )
    gpu = min(gpus, key=lambda gpu: gpu.memory_gb)
    names = [name for name in catalogue.keys("recipes") if catalogue.find("recipes", name, "task") is None]
    systems = {name: _system(catalogue, name) for name in names}
    systems = {name: system for name, system in systems.items() if system.gpus_per_node}
    for name, system in systems.items():
        if is_same_gpu(gpu.name, gpu.memory_gb, system):
            return Choice(name, f"this node has {gpu}")
    alike = {name: system for name, system in systems.items() if lacks(system, "bf16") == (gpu.capability < BF16)}
    fitting = {name: system.gpu_memory_gb for name, system in alike.items() if system.gpu_memory_gb <= gpu.memory_gb}
    if not fitting:
        return Choice(
            min(alike, key=lambda name: alike[name].gpu_memory_gb),
            f"this node has {gpu}, for which there is no recipe: raise GRADIENT_STEPS if its memory runs out",
        )
    return Choice(max(fitting, key=fitting.__getitem__), f"this node has {gpu}: the nearest that fits")


def _system(catalogue: Catalogue, recipe: str) -> SystemSpec:
    named = catalogue.find("recipes", recipe, "system")
    assert named is not None  # `load_catalogue` has checked it
    return catalogue.system(named.value, named.place)


def ask_nvidia_smi(environ: Mapping[str, str]) -> list[Gpu]:
    """The GPUs of this node; [] where nvidia-smi gives no answer."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ASK_S, env=dict(environ), check=False
        )
        return parse_gpus(done.stdout)
    return []


def main(environ: Mapping[str, str]) -> str:
    """Say what is assumed, and return the recipe's name."""
    on_cpus = environ.get("GPUS") == "0"
    gpus = [] if on_cpus else ask_nvidia_smi(environ)
    choice = choose(load_catalogue([builtin_file()]), gpus, on_cpus=on_cpus)
    print(choice.words(), file=sys.stderr, flush=True)
    return choice.recipe


if __name__ == "__main__":
    print(main(os.environ))
