"""Job arrays whose elements have a node each to themselves."""

from __future__ import annotations

from dataclasses import replace

from bertjobs.data.prepare.sbatch import Slurm, SlurmOptions
from bertjobs.errors import InputError


def on_whole_nodes(options: SlurmOptions, nodes: int, cpus: int, slurm: Slurm) -> SlurmOptions:
    """``options`` for ``nodes`` jobs a stage, each on a node of its own.

    Args:
        cpus: CPUs of a node to use; 0: all that the partition's smallest node has.

    Raises:
        InputError: ``nodes`` is below 1.
    """
    if nodes < 1:
        raise InputError(f"{nodes} is too small: at least 1", where="--nodes")
    cpus = cpus or fewest_cpus(slurm, options.partition)
    memory = options.memory or "0"  # all of the node's
    return replace(options, jobs=nodes, cpus=cpus, memory=memory, sbatch=(*options.sbatch, "nodes=1", "exclusive"))


def fewest_cpus(slurm: Slurm, partition: str) -> int:
    """CPUs of the smallest node of a partition, of the cluster where it is ""; 1 where Slurm does not say."""
    said = slurm.run("sinfo", "--noheader", "--exact", "--format=%c", *([f"--partition={partition}"] * bool(partition)))
    counts = [word.rstrip("+") for word in (said or "").split()]
    return min((int(count) for count in counts if count.isdigit()), default=1)
