"""One phase of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import Setting


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
            "length of the phase, or else `epochs`",
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
        float,
        Setting(
            "how often the training data are read, with a validation after each time: the phase's length if no steps "
            "are given in the same place or a stronger one",
            example="3",
        ),
    ] = 0.0
    keep_best: Annotated[
        bool,
        Setting(
            "whether the phase's result is the checkpoint with the lowest held-out loss, and not the last; needs "
            "validate_every. Fine-tuning always keeps the best by its task's measure",
            decisive=True,
            later=True,
        ),
    ] = False
    early_stop: Annotated[
        int,
        Setting(
            "end the phase once so many validations in a row were not better than the best, of fine-tuning or with "
            "keep_best; 0: never",
            unit="validations",
            decisive=True,
            later=True,
            example="3",
        ),
    ] = 0
