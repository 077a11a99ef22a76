"""bench.jsonl: what `bertjobs bench` measured of one rank, and whether it applies to a run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec, SystemSpec

BENCH_FILE = "bench.jsonl"
"""In the results folder: what `bertjobs bench` measured, one line per measurement."""

MEMORY_READS = (0.9, 1.15)
"""GPU memory that a driver reports, as a share of what the maker states: some is reserved, or it counts in GiB."""


@dataclass(frozen=True)
class WorkPerSequence:
    """What a rank computes per sequence. ``model`` leaves out its name and vocabulary size."""

    model: ModelSpec
    precision: str
    activation_checkpointing: bool
    unpadded: bool
    sequence_length: int
    max_predictions: int

    @classmethod
    def of(cls, spec: RunSpec, phase: PhaseSpec) -> WorkPerSequence:
        return cls(
            replace(spec.model, name="", vocab_size=0),
            spec.precision,
            spec.activation_checkpointing,
            spec.is_unpadded,
            phase.sequence_length,
            phase.max_predictions,
        )


@dataclass(frozen=True)
class BenchRun:
    """What `bertjobs bench` measured of one rank with one micro-batch.

    Attributes:
        device: its name, as its driver reports it.
        is_gpu: False for CPUs.
        device_memory_gb: all of its memory, in GB (10^9 bytes).
        sequences_per_s: of the rank.
        peak_memory_gb: of its tensors, in GB.
    """

    device: str
    is_gpu: bool
    device_memory_gb: float
    work: WorkPerSequence
    micro_batch: int
    sequences_per_s: float
    peak_memory_gb: float

    @classmethod
    def from_json(cls, line: Any) -> BenchRun:
        """Parse a line of `BENCH_FILE`; raises LookupError, TypeError or ValueError if it is not one."""
        if type(line["micro_batch"]) is not int or line["micro_batch"] < 1:
            raise ValueError(f"not a micro-batch: {line['micro_batch']!r}")
        device, shape = line["device"], ModelSpec(name="", **line["model"])
        work = WorkPerSequence(shape, *(line[field.name] for field in fields(WorkPerSequence)[1:]))
        measured = [float(line[name]) for name in ("sequences_per_s", "peak_memory_gb")]
        if not all(0 < value < math.inf for value in measured):
            raise ValueError(f"not measurements: {measured}")
        memory = float(device["memory_gb"])
        return cls(str(device["name"]), device["kind"] == "cuda", memory, work, line["micro_batch"], *measured)

    def applies_to(self, spec: RunSpec, phase: PhaseSpec) -> bool:
        """Whether each rank of a run does the same work on the same kind of device."""
        if self.is_gpu != bool(spec.gpus) or self.work != WorkPerSequence.of(spec, phase):
            return False
        return not self.is_gpu or is_same_gpu(self.device, self.device_memory_gb, spec.system)


def is_same_gpu(name: str, memory_gb: float, system: SystemSpec) -> bool:
    """Whether a GPU that its driver reports like this is that of a system: ``NVIDIA H200`` is ``H200-SXM5-141GB``."""
    words, named = (set(re.split(r"[^a-z0-9]+", text.lower())) for text in (name, system.gpu))
    chip = system.gpu.lower().partition("-")[0]
    if chip not in words or {"pcie", "nvl"} & words != {"pcie", "nvl"} & named:
        return False
    least, most = (share * system.gpu_memory_gb for share in MEMORY_READS)
    return not system.gpu_memory_gb or least <= memory_gb <= most
