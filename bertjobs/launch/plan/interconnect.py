"""How fast a system's GPUs and nodes send to each other, as their makers state it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bertjobs.recipe.spec import SystemSpec

ONE_MACHINE = "one machine"
"""The interconnect of a system that has no second node."""

GB_PER_S = {
    "V100-SXM2-16GB": (150, 900),
    "V100-SXM2-32GB": (150, 900),
    "V100-SXM3-32GB": (150, 900),
    "A100-SXM4-40GB": (300, 1555),
    "A100-SXM4-80GB": (300, 2039),
    "H100-SXM5-80GB": (450, 3350),
    "H200-SXM5-141GB": (450, 4800),
}
"""GB/s of a GPU: over NVLink in one direction, and of its memory; NVIDIA's data sheets."""

INFINIBAND_GBIT = {"QDR": 32, "FDR": 54.5, "EDR": 100, "HDR": 200, "NDR": 400, "XDR": 800}
"""Gbit/s of a port of four lanes in one direction, without the encoding's share; InfiniBand Trade Association."""

_PORTS = re.compile(r"(?:(\d+)\s*x\s*)?(?:(QDR|FDR|EDR|HDR|NDR|XDR)\b|(\d+(?:\.\d+)?)\s*(?:Gb/s|Gbit/s|GbE)\b)")


@dataclass(frozen=True)
class Interconnect:
    """What gradients travel over; bytes per second and direction, None where it is not known.

    Attributes:
        inside: from one GPU of a node to the others.
        between: from one node to the others, over all its ports.
        memory: between a GPU and its own memory.
    """

    inside: float | None = None
    between: float | None = None
    memory: float | None = None

    def is_known(self, nodes: int, ranks_per_node: float) -> bool:
        """Whether a sum over these ranks has a known speed. Where nodes are left, the slower of both ways decides, and
        that is the network where only it is known."""
        if nodes == 1:
            return ranks_per_node == 1 or self.inside is not None
        return self.between is not None


def interconnect_of(system: SystemSpec) -> Interconnect:
    """From the name of the GPU and the words for the network: ``8 x HDR InfiniBand``, ``2 x 25 Gb/s Ethernet``."""
    inside, memory = GB_PER_S.get(system.gpu, (None, None))
    return Interconnect(
        None if inside is None else inside * 1e9,
        network_rate(system.interconnect),
        None if memory is None else memory * 1e9,
    )


def network_rate(words: str) -> float | None:
    """Bytes per second that a node sends over all its ports; None where the words do not tell."""
    if (match := _PORTS.search(words)) is None:
        return None
    ports, family, gbit = match.groups()
    rate = INFINIBAND_GBIT[family] if family else float(gbit)
    return int(ports or 1) * rate * 1e9 / 8 or None
