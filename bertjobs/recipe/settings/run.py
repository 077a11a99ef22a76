"""What a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.setting import Setting
from bertjobs.recipe.settings.arithmetic import OptimizerSpec
from bertjobs.recipe.settings.model import ModelSpec
from bertjobs.recipe.settings.phase import PhaseSpec


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is trained.

    ``vocabulary`` is the sha256 of the vocab.txt that the shards must be made with, "" if any will do.
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
            default_words="the recipe's name, and of `finetune` the task's",
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
    optimizer: OptimizerSpec
