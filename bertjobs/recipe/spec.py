"""The resolved run: frozen values that the launcher writes and the worker obeys."""

from __future__ import annotations

from dataclasses import dataclass, field

from bertjobs.recipe.batch import largest_micro_batch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
OPTIMIZERS = ("lamb", "adamw", "adam")
ATTENTIONS = ("auto", "flash", "nested", "padded", "per_sequence", "triton")
RESTARTS = {"time_limit": 10_000, "preempted": 10_000, "node_failed": 10, "out_of_memory": 1, "crashed": 3}
"""How many attempts of a job may end so and be followed by another, by default; `bertjobs.run.causes.Budget` says what
counts as which."""


@dataclass(frozen=True)
class SystemSpec:
    """One kind of node.

    Attributes:
        name: its key in the catalogue.
        gpu: the GPU's name, or "none" for CPU nodes.
        gpus_per_node: 0 on CPU nodes.
        gpu_memory_gb: memory of one GPU in GB (10^9 bytes), 0 on CPU nodes.
        interconnect: what links the nodes, for people.
        tasks_per_node: processes on a node that trains without GPUs.
        scheduler: "slurm" queues where there is a Slurm; "none" always runs on this machine.
    """

    name: str
    gpu: str
    gpus_per_node: int
    gpu_memory_gb: int = 0
    interconnect: str = ""
    tasks_per_node: int = 1
    scheduler: str = "slurm"


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a BERT; the fields are Hugging Face's ``BertConfig`` names.

    ``vocab_size`` 0 means: as many as the data's vocabulary holds (filled in when the data is read).
    ``hidden_act`` is "gelu" (erf, as in the paper) or "gelu_new" (tanh approximation).
    """

    name: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer; the defaults are NVIDIA's LAMB settings (arXiv 1904.00962; lamb_amp_opt)."""

    name: str = "lamb"  # one of OPTIMIZERS
    backend: str = "auto"  # auto | apex | fused | torch
    shard_states: bool = False  # ZeRO-1 (arXiv 1910.02054)
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of pretraining, its batch arithmetic already done.

    Attributes:
        phase: 1 or 2.
        sequence_length: tokens in the longest sequence.
        max_predictions: masked tokens a sequence at most.
        steps: optimizer steps in the phase.
        lr: peak learning rate.
        warmup: share of ``steps`` spent warming up, 0 to 1.
        global_batch: sequences an optimizer step over all ranks.
        rank_batch: sequences a rank an optimizer step (the seed's BATCHSIZE).
        micro_batch: sequences in one forward/backward.
        gradient_steps: rank_batch / micro_batch (the seed's GRADIENT_STEPS).
        optimizer_state: "carry" the moments of the phase before, or "reset" them.
        micro_batch_limit: the largest micro-batch that fits the device; ``micro_batch`` is at most this
            unless GRADIENT_STEPS was given.
        checkpoint_every: optimizer steps between checkpoints.
        validate_every: optimizer steps between validations; 0: at the end of the phase only.
    """

    phase: int
    sequence_length: int
    max_predictions: int
    steps: int
    lr: float
    warmup: float
    global_batch: int
    rank_batch: int
    micro_batch: int
    gradient_steps: int
    optimizer_state: str
    micro_batch_limit: int
    checkpoint_every: int
    validate_every: int


@dataclass(frozen=True)
class RunSpec:
    """A whole run, resolved.

    Attributes:
        run: the run's name, which is also its folder below ``results``.
        recipe: the recipe's key.
        vocabulary: the vocabulary that the shards must be made with: a sha256 (64 hex digits) of
            vocab.txt, or "" where any will do.
        nodes, tasks_per_node: world size is their product; one task a GPU (or a CPU process).
        gpus: GPUs used on a node; 0 trains on the CPU over gloo.
        precision: fp32, tf32, bf16 or fp16.
        loss_scale: factor on the loss in fp16; 0: dynamic.
        loss_normalization: "global" (contract 5), or "seed": each micro-batch's mean, averaged.
        activation_checkpointing: compute activations again in the backward pass.
        gradient_compression: "none", "fp16" or "bf16", in which gradients travel between ranks.
        deterministic: use only GPU kernels that give the same bits each time.
        masking: "dynamic" (drawn anew each epoch) or "static" (as stored in the shards).
        masked_share: share of the tokens that dynamic masking predicts.
        masked_units: what dynamic masking chooses: "pieces", or "words" with all their pieces.
        num_workers: background threads a rank that build batches; 0 builds them in the step loop.
        loader: who reads the shards: "bertjobs", or "lddl" for LDDL's own loader where it is installed.
        unpad: train on packs of whole sequences, without padding.
        attention: one of ATTENTIONS, for packs.
        compile: compile what stands between matrix products, for packs, on GPUs.
        on_bad_shard: "stop", or "skip" to train without the rows of shards that are missing or altered.
        local_copy: folder on each node that the shards are copied to before training, or "".
        bin_size: tokens a length bin of the shards spans.
        keep_checkpoints: how many of a phase are kept, the newest.
        hang_timeout_s: end a run in which no step ends for so long, with exit code 70; 0: never.
        restarts_...: by cause, how many attempts of a job may be followed by another; see ``restarts``.
        previous_phase: start a phase from the one before once it is "done", or from its "latest" checkpoint.
        steps_this_run: stop, with exit code 75, after this many optimizer steps; 0: no such limit.
        data: folder made by ``bertjobs data prepare``.
        results: folder that holds the runs.
        init_checkpoint: Hugging Face BERT folder to start phase 1 from, or "".
        image, mounts: container for pyxis ("" and () for none).
    """

    run: str
    recipe: str
    system: SystemSpec
    model: ModelSpec
    vocabulary: str
    phases: tuple[PhaseSpec, ...]
    nodes: int
    tasks_per_node: int
    gpus: int
    precision: str
    loss_scale: float
    loss_normalization: str
    activation_checkpointing: bool
    gradient_compression: str
    deterministic: bool
    seed: int
    masking: str
    masked_share: float
    masked_units: str
    optimizer: OptimizerSpec
    num_workers: int
    loader: str
    unpad: bool
    attention: str
    compile: bool
    on_bad_shard: str
    local_copy: str
    bin_size: int
    keep_checkpoints: int
    hang_timeout_s: int
    restarts_time_limit: int
    restarts_preempted: int
    restarts_node_failed: int
    restarts_out_of_memory: int
    restarts_crashed: int
    previous_phase: str
    steps_this_run: int
    data: str
    results: str
    init_checkpoint: str
    image: str
    mounts: tuple[str, ...] = field(default=())

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.tasks_per_node

    @property
    def is_unpadded(self) -> bool:
        """Whether packs are trained on. LDDL's loader makes none, and the seed's loss is one of its padded
        micro-batches."""
        return self.unpad and self.loader == "bertjobs" and self.loss_normalization == "global"

    @property
    def restarts(self) -> dict[str, int]:
        """How many attempts may be followed by another, by what they are counted as: the keys of `RESTARTS`."""
        return {budget: getattr(self, f"restarts_{budget}") for budget in RESTARTS}

    def pack_tokens(self, phase: PhaseSpec) -> int:
        """The most tokens of a pack: those of the recipe's largest padded micro-batch, whatever the number of ranks, so
        that the packs do not depend on it; or of the micro-batch that GRADIENT_STEPS asks for."""
        derived = largest_micro_batch(phase.rank_batch, phase.micro_batch_limit)
        size = phase.micro_batch_limit if phase.micro_batch == derived else phase.micro_batch
        return size * phase.sequence_length

    def phase(self, number: int) -> PhaseSpec:
        """The phase with this number; KeyError where the run has none."""
        for phase in self.phases:
            if phase.phase == number:
                return phase
        raise KeyError(number)
