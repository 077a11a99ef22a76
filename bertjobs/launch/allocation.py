"""The GPUs of a job that was submitted by hand: does it have those that its recipe needs, and how does a step get them?

`share` decides and is pure. run.sub asks on the job's first node: ``python -m bertjobs.launch.allocation`` prints the
number of tasks per node and srun's options, or ends with 64 and one sentence that says what to add to sbatch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.default_recipe import ask_nvidia_smi
from bertjobs.recipe.catalogue import catalogue_files, load_catalogue
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.own_job import own_job
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import gpus_given, parse_gres
from bertjobs.slurm.environment import clean_environment

CPUS_INSTEAD = "or set GPUS=0 to train on CPUs"


@dataclass(frozen=True)
class Allocation:
    """A job's nodes and what it has of their GPUs.

    Attributes:
        nodes: how many.
        tasks_per_node: that were asked for; 0: none were.
        asked: whether the job asked Slurm for GPUs.
        gpus: that Slurm gave it, on all nodes, asked for or not: ``--exclusive`` brings them along.
        on_node: that Slurm counts on its first node; 0 where it counts none.
        visible: that nvidia-smi names there.
        exclusive: whether the nodes are the job's alone.
    """

    nodes: int = 1
    tasks_per_node: int = 0
    asked: bool = False
    gpus: int = 0
    on_node: int = 0
    visible: int = 0
    exclusive: bool = False


@dataclass(frozen=True)
class Share:
    """Tasks per node, and the options that make srun give them the job's GPUs."""

    tasks: int
    options: tuple[str, ...] = ()


def share(recipe: str, allocation: Allocation) -> Share | None:
    """What the job's one step needs to use a GPU per task; None if the job is fine as Slurm made it.

    Raises:
        InputError: the job has no GPUs, or nobody knows how many tasks a node should have: says what to add.
    """
    needs = f"recipe {recipe} trains on GPUs"
    if allocation.asked:
        return None
    if allocation.gpus:
        per_node, rest = divmod(allocation.gpus, allocation.nodes)
        if rest:
            raise InputError(
                f"{needs}, one task each, and this job's {allocation.nodes} nodes have {allocation.gpus} in all, not "
                "the same number each: add --gpus-per-node=N to sbatch"
            )
        # A step is not given by itself what the job has only because it is exclusive (srun(1), --gres).
        return Share(allocation.tasks_per_node or per_node, (f"--gres=gpu:{per_node}",))
    if allocation.on_node:
        raise InputError(
            f"{needs}, and this job has none of the {allocation.on_node} that its node has: add "
            f"--gpus-per-node={allocation.on_node} to sbatch, {CPUS_INSTEAD}"
        )
    if allocation.tasks_per_node:
        return None
    if not allocation.visible:
        raise InputError(
            f"{needs}, and neither Slurm nor nvidia-smi names any on this node: choose a partition with GPUs, name "
            f"their number with --ntasks-per-node, {CPUS_INSTEAD}"
        )
    if allocation.visible > 1 and not allocation.exclusive:
        raise InputError(
            f"{needs}, and Slurm does not count the {allocation.visible} of this node: add --exclusive to sbatch, or "
            "--ntasks-per-node=N to use N of them"
        )
    return Share(allocation.visible)


def allocation_of(environ: Mapping[str, str], slurm: Slurm) -> Allocation:
    """The allocation of the job that ``environ`` is from; raises NoAnswer if Slurm does not say."""
    job = slurm.job_record(own_job(environ) or "", details=True)
    node = slurm.node_record(environ.get("SLURMD_NODENAME") or environ["SLURM_JOB_NODELIST"])
    nodes = int(environ.get("SLURM_JOB_NUM_NODES") or 1)
    tasks = int(environ.get("SLURM_NTASKS_PER_NODE") or 0) or int(environ.get("SLURM_NTASKS") or 0) // nodes
    return Allocation(
        nodes=nodes,
        tasks_per_node=tasks,
        asked=any("gpu" in value for key, value in job.items() if key.startswith("TresPer")),
        gpus=gpus_given(job),
        on_node=sum(gpus.count for gpus in parse_gres(node.get("Gres", ""))),
        visible=len(ask_nvidia_smi(environ)),
        exclusive=job.get("OverSubscribe") == "NO",
    )


def spec_of(environ: Mapping[str, str]) -> RunSpec | None:
    """The run that the environment of run.sub describes; None if it cannot be resolved: the worker says why."""
    try:
        lockfile = Path(environ["RESULTS"]) / environ["RUN"] / "run.yml"
        if lockfile.is_file():
            return read_lockfile(lockfile)
        nodes = int(environ.get("SLURM_JOB_NUM_NODES") or 1)
        catalogue = load_catalogue(catalogue_files(environ, Path.cwd()))
        return resolve(catalogue, flags={}, environ=environ, nodes=nodes).spec
    except BertjobsError:
        return None


def main(environ: Mapping[str, str]) -> str:
    """The line for run.sub, "" if there is nothing to change; raises the errors of `share` and `allocation_of`."""
    spec = spec_of(environ)
    if spec is None or not spec.gpus:
        return ""
    own = share(spec.recipe, allocation_of(environ, Slurm(clean_environment(environ))))
    return " ".join([str(own.tasks), *own.options]) if own else ""


if __name__ == "__main__":
    try:
        print(main(os.environ))
    except BertjobsError as error:
        print(error.render(), file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
