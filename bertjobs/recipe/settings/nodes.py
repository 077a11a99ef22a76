"""What a run is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.groups import NodeGroup, gpus_asked, place_of, ranks_of
from bertjobs.recipe.setting import Setting


@dataclass(frozen=True)
class SystemSpec:
    """One kind of node; ``name`` is its key in the catalogue."""

    name: str
    gpu: Annotated[str, Setting("the GPU's name, or none for nodes without GPUs", example="A100-SXM4-80GB")] = "none"
    gpus_per_node: Annotated[int, Setting("GPUs per node", unit="GPUs", example="8")] = 0
    gpu_memory_gb: Annotated[int, Setting("memory of one GPU (1 GB is 10^9 bytes)", unit="GB", example="80")] = 0
    interconnect: Annotated[
        str,
        Setting(
            "network between the nodes, for predictions of time: ports x kind of InfiniBand, or ports x Gb/s",
            example="8 x HDR InfiniBand",
        ),
    ] = ""
    tasks_per_node: Annotated[int, Setting("worker processes per node without GPUs", unit="tasks", minimum=1)] = 1
    scheduler: Annotated[
        str,
        Setting(
            "what starts jobs: slurm, if it is installed; with none jobs always run on this machine",
            choices=("slurm", "none"),
        ),
    ] = "slurm"


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Nodes and containers.

    There is one task per GPU, or per CPU process. With ``groups``, ``nodes`` counts all of them, and ``tasks_per_node``
    and ``gpus`` are those of the largest.
    """

    system: Annotated[SystemSpec, Setting("kind of node, a key of `systems`", kind="name", flag="", example="dgx1-32g")]
    nodes: Annotated[int, Setting("nodes to run on", unit="nodes", listed=True, minimum=1, example="4")] = 1
    tasks_per_node: Annotated[
        int,
        Setting(
            "worker processes per node",
            unit="tasks",
            minimum=1,
            example="8",
            default=None,
            default_words="one per GPU, else the system's",
        ),
    ]
    gpus: Annotated[
        int,
        Setting(
            "GPUs to use per node; 0 trains on CPUs; TYPE:N sets gpu_type as well",
            unit="GPUs",
            env="GPUS",
            listed=True,
            example="8",
            default=None,
            default_words="the system's",
        ),
    ]
    gpu_type: Annotated[
        str,
        Setting(
            "type of GPU to ask Slurm for, where a cluster has several: a100 of gpu:a100:8 in sinfo",
            kind="name",
            example="a100",
            default_words="any",
        ),
    ] = ""
    groups: Annotated[
        tuple[NodeGroup, ...],
        Setting(
            "groups of nodes that differ, in place of `nodes` and `gpus`: nodes, GPUs per node and, if wanted, a type "
            "of GPU, a constraint, a system, a partition and a speed of each, as a multiple of the run's own system",
            kind="groups",
            example="2x4@v100/dgx1-32g,1x8@a100",
            default_words="all nodes alike",
        ),
    ] = ()
    image: Annotated[
        str,
        Setting(
            "container image: a .sqsh or .sif file, a folder or a URI",
            kind="path",
            env="IMAGE",
            listed=True,
            example="/images/bertjobs.sqsh",
            default_words="no container",
        ),
    ] = ""
    mounts: Annotated[
        tuple[str, ...],
        Setting(
            "container mounts, SRC:DST[:FLAGS], separated by commas",
            kind="mounts",
            env="MOUNTS",
            example="/data:/data:ro,/scratch:/scratch",
            default_words="none",
        ),
    ] = ()
    container: Annotated[
        str,
        Setting(
            "what starts the image; auto: pyxis if srun has it, else Apptainer or Singularity",
            env="CONTAINER",
            choices=("auto", "pyxis", "apptainer"),
        ),
    ] = "auto"
    group_systems: tuple[SystemSpec, ...] = ()
    """The system of each group; () where no group names one."""

    @property
    def node_systems(self) -> tuple[SystemSpec, ...]:
        """Each group's; where they are all alike, the run's alone."""
        return self.group_systems or (self.system,)

    @property
    def smallest_system(self) -> SystemSpec:
        """Of the systems of its nodes, the one whose GPUs have the least memory: what is computed must fit it."""
        return min(self.node_systems, key=lambda system: system.gpu_memory_gb)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return sum(self.ranks_of_nodes)

    @property
    def ranks_of_nodes(self) -> tuple[int, ...]:
        """The ranks on each node, in the order of the ranks."""
        return ranks_of(self.groups) or (self.tasks_per_node,) * self.nodes

    @property
    def node_groups(self) -> tuple[NodeGroup, ...]:
        """Its nodes as groups: one, if they are alike."""
        return self.groups or (NodeGroup(self.nodes, self.tasks_per_node),)

    def system_of(self, group: NodeGroup) -> SystemSpec:
        """What a group's nodes are."""
        return next((system for system in self.group_systems if system.name == group.system), self.system)

    def node_of(self, rank: int) -> int:
        """The number of the node that a rank runs on; IndexError if the run has no such rank."""
        return place_of(rank, self.ranks_of_nodes)[0]

    @property
    def gpus_per_node(self) -> str:
        """The GPUs of a node as ``sbatch --gpus-per-node`` takes them: ``8``, or ``a100:8`` of one type."""
        return gpus_asked(self.gpu_type, self.gpus)
