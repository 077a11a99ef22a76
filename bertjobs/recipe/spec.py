"""The resolved run: frozen values that the launcher writes and the worker obeys.

Each field that a user can set declares its help, unit, bounds, choices and environment name. What is written here is
written nowhere else: YAML keys, ``--set`` keys, flags, run.yml and docs/settings.md are derived from it (see `schema`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from bertjobs.recipe.batch import largest_micro_batch
from bertjobs.recipe.groups import NodeGroup, gpus_asked, place_of, ranks_of
from bertjobs.recipe.predictions import MASKED_SHARE
from bertjobs.recipe.setting import PRECISIONS, Setting

OPTIMIZERS = ("lamb", "adamw", "adam")
ATTENTIONS = ("auto", "flash", "nested", "padded", "per_sequence", "triton")


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


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a BERT, by the names of Hugging Face's ``BertConfig``; ``name`` is its key in the catalogue.

    ``vocab_size`` 0 is filled in when the data is read.
    """

    name: str
    hidden_size: Annotated[int, Setting("width of the hidden states", decisive=True, minimum=1, example="768")]
    num_hidden_layers: Annotated[int, Setting("layers", unit="layers", decisive=True, minimum=1, example="12")]
    num_attention_heads: Annotated[
        int,
        Setting(
            "attention heads per layer; their number must divide hidden_size", decisive=True, minimum=1, example="12"
        ),
    ]
    intermediate_size: Annotated[
        int, Setting("width inside the feed-forward part of a layer", decisive=True, minimum=1, example="3072")
    ]
    vocab_size: Annotated[
        int, Setting("size of the vocabulary; 0: the size of the data's vocabulary", unit="tokens", example="30522")
    ] = 0
    max_position_embeddings: Annotated[
        int, Setting("longest sequence that the model can read", unit="tokens", decisive=True, minimum=8)
    ] = 512
    type_vocab_size: Annotated[int, Setting("segment types", decisive=True, minimum=2)] = 2
    hidden_act: Annotated[
        str,
        Setting(
            "activation: gelu uses erf, as in the paper, gelu_new tanh", decisive=True, choices=("gelu", "gelu_new")
        ),
    ] = "gelu"
    hidden_dropout_prob: Annotated[
        float, Setting("dropout of embeddings and layer outputs", unit="share", decisive=True, maximum=1)
    ] = 0.1
    attention_probs_dropout_prob: Annotated[
        float, Setting("dropout of attention weights", unit="share", decisive=True, maximum=1)
    ] = 0.1
    layer_norm_eps: Annotated[float, Setting("added to the variance in layer norms", decisive=True, above=True)] = 1e-12
    initializer_range: Annotated[
        float, Setting("standard deviation of random initial weights", decisive=True, above=True)
    ] = 0.02


@dataclass(frozen=True)
class VocabularySpec:
    """A vocabulary that a recipe can name."""

    sha256: Annotated[
        str,
        Setting(
            "sha256 of vocab.txt, 64 hex digits",
            example="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ]
    size: Annotated[
        int, Setting("size of the vocabulary, lines of vocab.txt", unit="tokens", minimum=1, example="30522")
    ]


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer; the defaults are NVIDIA's LAMB settings (arXiv 1904.00962; lamb_amp_opt)."""

    name: Annotated[str, Setting("optimizer", decisive=True, choices=OPTIMIZERS)] = "lamb"
    backend: Annotated[
        str,
        Setting(
            "code that computes the update: NVIDIA's apex, our fused kernels, or plain torch; auto: the first that "
            "works on the machine",
            choices=("auto", "apex", "fused", "torch"),
        ),
    ] = "auto"
    shard_states: Annotated[
        bool, Setting("each rank keeps only its part of the moments (ZeRO-1, arXiv 1910.02054); the same weights")
    ] = False
    weight_decay: Annotated[float, Setting("decoupled weight decay", decisive=True)] = 0.01
    beta1: Annotated[float, Setting("decay of the first moment, per step", decisive=True, maximum=1)] = 0.9
    beta2: Annotated[float, Setting("decay of the second moment, per step", decisive=True, maximum=1)] = 0.999
    epsilon: Annotated[float, Setting("added to the root of the second moment", decisive=True)] = 1e-6
    clip_norm: Annotated[float, Setting("global L2 norm that gradients are clipped to", decisive=True, above=True)] = (
        1.0
    )


@dataclass(frozen=True, kw_only=True)
class PhaseSpec:
    """One phase of pretraining, with its batch arithmetic done.

    ``phase`` is its number, ``micro_batch`` the sequences in one forward/backward. ``micro_batch`` is at most
    ``micro_batch_limit`` unless GRADIENT_STEPS was given.
    """

    phase: int
    sequence_length: Annotated[
        int, Setting("longest sequence of the phase", unit="tokens", decisive=True, minimum=8, example="128")
    ]
    max_predictions: Annotated[
        int,
        Setting(
            "most masked tokens per sequence; by default masked_share of its length, rounded up (20 of 128 for 0.15)",
            unit="tokens",
            decisive=True,
            minimum=1,
            example="20",
            default=None,
            default_words="by masked_share",
        ),
    ]
    steps: Annotated[
        int,
        Setting(
            "length of the phase; by default that of `epochs`, where a task is fine-tuned",
            unit="optimizer steps",
            decisive=True,
            minimum=1,
            example="7038",
            default=None,
            default_words="by epochs",
        ),
    ]
    lr: Annotated[
        float,
        Setting("peak learning rate", env="LR", flag="--lr", decisive=True, above=True, example="0.006"),
    ]
    warmup: Annotated[
        float,
        Setting(
            "part of the steps in which the learning rate rises",
            unit="share",
            decisive=True,
            maximum=1,
            example="0.2843",
        ),
    ]
    end_lr: Annotated[
        float,
        Setting("learning rate that a linear or cosine decay falls to", decisive=True, later=True, example="1e-5"),
    ] = 0.0
    global_batch: Annotated[
        int,
        Setting(
            "batch over all ranks; it stays the same when the number of nodes changes",
            unit="sequences per optimizer step",
            decisive=True,
            minimum=1,
            example="65536",
        ),
    ]
    rank_batch: Annotated[
        int,
        Setting(
            "batch of one rank; sets the global batch to this times the number of ranks",
            unit="sequences per rank per optimizer step",
            env="BATCHSIZE",
            flag="--batchsize",
            in_recipe=False,
            minimum=1,
            example="2048",
            default=None,
            default_words="global batch / ranks",
        ),
    ]
    micro_batch: int
    gradient_steps: Annotated[
        int,
        Setting(
            "forward/backward passes per optimizer step; micro-batch = rank batch / this",
            unit="micro-batches per optimizer step",
            env="GRADIENT_STEPS",
            flag="--gradient-steps",
            minimum=1,
            example="128",
            default=None,
            default_words="as few as micro_batch allows",
        ),
    ]
    optimizer_state: Annotated[
        str,
        Setting(
            "what happens to the optimizer's moments when the phase starts from the previous one; steps are counted "
            "from 0 either way",
            decisive=True,
            choices=("carry", "reset"),
        ),
    ] = "carry"
    micro_batch_limit: Annotated[
        int,
        Setting(
            "largest micro-batch that fits on the device, for all precisions or by precision (fp16 and bf16 need the "
            "same memory, as do fp32 and tf32)",
            unit="sequences",
            key="micro_batch",
            kind="micro_batch",
            minimum=1,
            example="{fp16: 64, fp32: 32}",
        ),
    ]
    checkpoint_every: Annotated[
        int,
        Setting(
            "interval of checkpoints; the last step always has one", unit="optimizer steps", minimum=1, example="500"
        ),
    ] = 200
    validate_every: Annotated[
        int, Setting("interval of validations; 0: only at the end of the phase", unit="optimizer steps", example="500")
    ] = 0
    epochs: Annotated[
        float, Setting("how often a task's training examples are read, where steps is not set", example="3")
    ] = 0.0
    early_stop: Annotated[
        int,
        Setting(
            "end a phase of fine-tuning once so many validations in a row were not better than the best; 0: never",
            unit="validations",
            decisive=True,
            later=True,
            example="3",
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A whole run, resolved.

    ``vocabulary`` is the sha256 of the vocab.txt that the shards must be made with, "" if any will do. There is one
    task per GPU, or per CPU process. With ``groups``, ``nodes`` counts all of them, and ``tasks_per_node`` and ``gpus``
    are those of the largest.
    """

    recipe: Annotated[
        str,
        Setting(
            "recipe to run; `bertjobs recipes` lists them",
            kind="name",
            env="RECIPE",
            listed=True,
            in_recipe=False,
            example="dgx1-32g",
        ),
    ]
    run: Annotated[
        str,
        Setting(
            "name of the run and of its folder",
            kind="name",
            env="RUN",
            listed=True,
            example="my-run",
            default="",
            default_words="the recipe's name",
        ),
    ]
    phases: Annotated[
        tuple[PhaseSpec, ...],
        Setting(
            "phase to run: a number or all",
            kind="phase",
            key="phase",
            env="PHASE",
            listed=True,
            in_recipe=False,
            example="1",
            default="all",
        ),
    ]
    system: Annotated[SystemSpec, Setting("kind of node, a key of `systems`", kind="name", flag="", example="dgx1-32g")]
    model: Annotated[
        ModelSpec, Setting("shape of the BERT, a key of `models`", kind="name", env="MODEL", example="bert-large")
    ]
    vocabulary: Annotated[
        str,
        Setting(
            "vocabulary that the data must be made with: a key of `vocabularies`, the sha256 of a vocab.txt, or any",
            env="VOCABULARY",
            flag="",
            decisive=True,
            example="bert-base-uncased",
            default="any",
        ),
    ]
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
    precision: Annotated[
        str,
        Setting(
            "number format of the training arithmetic",
            env="PRECISION",
            listed=True,
            decisive=True,
            choices=PRECISIONS,
        ),
    ] = "fp16"
    loss_scale: Annotated[
        float, Setting("factor on the loss in fp16; 0: dynamic, from 2^20", decisive=True, example="65536")
    ] = 0.0
    loss_normalization: Annotated[
        str,
        Setting(
            "what the loss is divided by: the masked tokens of the global batch, or (seed) those of each micro-batch, "
            "as in NVIDIA's BERT",
            decisive=True,
            choices=("global", "seed"),
        ),
    ] = "global"
    activation_checkpointing: Annotated[
        bool, Setting("recompute activations in the backward pass: less memory, more time, the same gradients")
    ] = False
    gradient_compression: Annotated[
        str,
        Setting(
            "number format in which ranks exchange gradients; none: float32",
            decisive=True,
            choices=("none", "fp16", "bf16"),
        ),
    ] = "none"
    ddp_bucket_mb: Annotated[
        float,
        Setting(
            "gradients that ranks exchange at a time, while the rest is still computed",
            unit="MB",
            above=True,
            example="100",
        ),
    ] = 25.0
    deterministic: Annotated[bool, Setting("use only GPU kernels that give the same bits each time; slower")] = False
    seed: Annotated[
        int,
        Setting(
            "seed of weights, dropout, sample order and masks",
            env="SEED",
            decisive=True,
            maximum=2**32 - 1,
            example="7",
        ),
    ] = 42
    task: Annotated[
        str,
        Setting(
            "task to fine-tune for: a name that `bertjobs finetune --tasks` lists, or module:Class",
            kind="text",
            decisive=True,
            later=True,
            example="sentences",
            default_words="none: pretraining",
        ),
    ] = ""
    tune_layers: Annotated[
        int | None,
        Setting(
            "fine-tune only this many of the last layers, the pooler and the head; the other weights stay",
            unit="layers",
            kind="int",
            decisive=True,
            later=True,
            example="2",
            default_words="all",
        ),
    ] = None
    decay: Annotated[
        str,
        Setting(
            "how the learning rate falls after the warm-up: sqrt is NVIDIA's for pretraining, linear is usual for "
            "fine-tuning",
            decisive=True,
            later=True,
            choices=("sqrt", "linear", "cosine", "constant"),
        ),
    ] = "sqrt"
    decay_power: Annotated[
        float,
        Setting(
            "power of a linear decay: above 1 the learning rate falls faster at first",
            decisive=True,
            later=True,
            above=True,
            example="2",
        ),
    ] = 1.0
    teacher: Annotated[
        str,
        Setting(
            "Hugging Face BERT folder that the run's model, the student, is distilled from",
            kind="path",
            env="TEACHER",
            example="/models/bert-base-uncased",
            default_words="none: no distillation",
        ),
    ] = ""
    teacher_sha256: Annotated[
        str,
        Setting(
            "digest of the teacher's files; a run whose teacher has another one is refused",
            kind="text",
            flag="",
            decisive=True,
            later=True,
            example="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            default_words="filled in when the run starts",
        ),
    ] = ""
    teacher_layers: Annotated[
        str,
        Setting(
            "teacher's layer that each of the student's layers learns from, counted from 1",
            kind="text",
            decisive=True,
            later=True,
            example="2,4,6",
            default_words="evenly spaced, up to the last",
        ),
    ] = ""
    distill_labels: Annotated[
        float,
        Setting(
            "weight of the loss that the run would have without a teacher: masked words, or the task's labels",
            decisive=True,
            later=True,
            example="0.5",
        ),
    ] = 0.0
    distill_logits: Annotated[
        float,
        Setting(
            "weight of the divergence between the student's probabilities and the teacher's: of masked words, where "
            "the teacher has a head for them, or of the task's classes",
            decisive=True,
            later=True,
            example="5",
        ),
    ] = 1.0
    distill_hidden: Annotated[
        float,
        Setting(
            "weight of the squared error of hidden states: of the embeddings, and of each layer and the teacher's that "
            "it learns from",
            decisive=True,
            later=True,
            example="1",
        ),
    ] = 0.0
    distill_relations: Annotated[
        float,
        Setting(
            "weight of the divergence between relations among queries, keys and values in attention (MiniLM)",
            decisive=True,
            later=True,
            example="1",
        ),
    ] = 0.0
    distill_temperature: Annotated[
        float,
        Setting(
            "what logits are divided by before their probabilities are compared",
            decisive=True,
            later=True,
            above=True,
            example="2",
        ),
    ] = 1.0
    relation_layer: Annotated[
        int,
        Setting(
            "teacher's layer whose relations the student's last layer learns; 0: the last",
            decisive=True,
            later=True,
            example="10",
        ),
    ] = 0
    relation_heads: Annotated[
        int,
        Setting(
            "parts that queries, keys and values are cut into for relations; it must divide both widths; 0: the most "
            "up to the teacher's heads",
            decisive=True,
            later=True,
            example="48",
        ),
    ] = 0
    next_sentence: Annotated[
        bool,
        Setting(
            "predict next sentences besides masked words, as BERT does; without it the model has no head for them, and "
            "next-sentence pairs in the data are read as text",
            decisive=True,
            later=True,
        ),
    ] = True
    masking: Annotated[
        str,
        Setting(
            "masks drawn anew in each epoch, or as stored in the shards",
            env="MASKING",
            decisive=True,
            choices=("dynamic", "static"),
        ),
    ] = "dynamic"
    masked_share: Annotated[
        float,
        Setting(
            "part of the tokens that dynamic masking predicts",
            unit="share",
            decisive=True,
            maximum=0.5,
            above=True,
            example="0.3",
        ),
    ] = MASKED_SHARE
    masked_units: Annotated[
        str,
        Setting(
            "what dynamic masking chooses: single pieces, or whole words with all their pieces",
            decisive=True,
            choices=("pieces", "words"),
        ),
    ] = "pieces"
    num_workers: Annotated[
        int,
        Setting(
            "background threads that build batches; 0: batches are built between steps",
            unit="threads per rank",
            env="NUM_WORKERS",
            example="2",
        ),
    ] = 1
    loader: Annotated[
        str,
        Setting(
            "what reads the shards; lddl is LDDL's own loader, where the lddl package is installed",
            decisive=True,
            choices=("bertjobs", "lddl"),
        ),
    ] = "bertjobs"
    unpad: Annotated[bool, Setting("train on packs of whole sequences, without padding; not with loader lddl")] = True
    attention: Annotated[
        str,
        Setting(
            "code that computes attention on packs; auto: the fastest that works on the machine",
            choices=ATTENTIONS,
        ),
    ] = "auto"
    compile: Annotated[
        bool, Setting("fuse the operations between matrix products, on GPUs, where a compiler is installed")
    ] = True
    compile_mode: Annotated[
        str,
        Setting(
            "how torch.compile chooses kernels; max-autotune also measures matrix products, for minutes at run start",
            choices=("default", "max-autotune"),
        ),
    ] = "default"
    fused_layers: Annotated[
        str,
        Setting(
            "code between a layer's matrix products, on GPUs; auto: the fastest, measured at run start",
            choices=("auto", "inductor", "triton"),
        ),
    ] = "auto"
    rebalance: Annotated[
        bool,
        Setting(
            "give fast ranks more of a step's packs, by their measured speed; the update stays the same up to rounding"
        ),
    ] = False
    on_bad_shard: Annotated[
        str,
        Setting("what to do if a shard is missing or was changed: stop, or skip its samples", choices=("stop", "skip")),
    ] = "stop"
    local_copy: Annotated[
        str,
        Setting(
            "folder on each node that the shards are copied to before training",
            kind="path",
            example="/scratch/shards",
            default_words="no copy",
        ),
    ] = ""
    bin_size: Annotated[
        int,
        Setting(
            "range of lengths in a bin of the shards; it must divide each phase's sequence_length",
            unit="tokens",
            env="BIN_SIZE",
            decisive=True,
            minimum=1,
        ),
    ] = 64
    keep_checkpoints: Annotated[
        int, Setting("newest checkpoints that are kept", unit="checkpoints per phase", minimum=1, example="5")
    ] = 3
    hang_timeout_s: Annotated[
        int,
        Setting(
            "end the run with exit code 70 if no step ends for this long; 0: never", unit="seconds", example="1800"
        ),
    ] = 900
    restarts_time_limit: Annotated[
        int, Setting("restarts allowed after a job's time limit", unit="restarts per submission", flag="")
    ] = 10_000
    restarts_preempted: Annotated[
        int, Setting("restarts allowed after a preemption", unit="restarts per submission", flag="")
    ] = 10_000
    restarts_node_failed: Annotated[
        int, Setting("restarts allowed after a node failure", unit="restarts per submission", flag="")
    ] = 10
    restarts_out_of_memory: Annotated[
        int, Setting("restarts allowed after running out of memory", unit="restarts per submission", flag="")
    ] = 1
    restarts_crashed: Annotated[
        int, Setting("restarts allowed after a crash", unit="restarts per submission", flag="")
    ] = 3
    previous_phase: Annotated[
        str,
        Setting(
            "start a phase once the previous one is done, or (latest) already from its latest checkpoint",
            env="PREVIOUS_PHASE",
            choices=("done", "latest"),
        ),
    ] = "done"
    steps_this_run: Annotated[
        int,
        Setting(
            "stop with a checkpoint and exit code 75 after this many steps; 0: no limit",
            unit="optimizer steps",
            env="STEPS_THIS_RUN",
            example="100",
        ),
    ] = 0
    data: Annotated[str, Setting("folder made by `bertjobs data prepare`", kind="path", env="DATADIR", listed=True)] = (
        "data/prepared"
    )
    results: Annotated[str, Setting("folder of all runs", kind="path", env="RESULTS", listed=True)] = "results"
    init_checkpoint: Annotated[
        str,
        Setting(
            "Hugging Face BERT folder to start phase 1 from",
            kind="path",
            env="INIT_CHECKPOINT",
            listed=True,
            decisive=True,
            example="/models/bert-base-uncased",
            default_words="random weights",
        ),
    ] = ""
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
    optimizer: OptimizerSpec
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

    @property
    def is_distilled(self) -> bool:
        """Whether the model learns from a teacher: it has one, or its settings make sense with one alone."""
        return bool(self.teacher) or any((self.distill_labels, self.distill_hidden, self.distill_relations))

    @property
    def is_unpadded(self) -> bool:
        """Whether training uses packs. LDDL's loader does not make any, and NVIDIA's loss is that of its padded
        micro-batches."""
        return self.unpad and self.loader == "bertjobs" and self.loss_normalization == "global"

    @property
    def restarts(self) -> dict[str, int]:
        """How many restarts are allowed, by the budget that they are charged to: ``time_limit`` for the setting
        ``restarts_time_limit``, and so on (`bertjobs.run.causes.Budget`)."""
        prefix = "restarts_"
        return {key.removeprefix(prefix): value for key, value in vars(self).items() if key.startswith(prefix)}

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


RESTARTS = {
    field.name.removeprefix("restarts_"): field.default
    for field in fields(RunSpec)
    if field.name.startswith("restarts_")
}
"""The default number of restarts allowed, by budget."""
