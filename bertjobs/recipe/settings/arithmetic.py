"""How a step is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import PRECISIONS, Setting

OPTIMIZERS = ("lamb", "adamw", "adam")
ATTENTIONS = ("auto", "flash", "nested", "padded", "per_sequence", "triton")


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
class ArithmeticSettings:
    """How a step is computed."""

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
