"""What is read of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bertjobs.recipe.predictions import MASKED_SHARE
from bertjobs.recipe.setting import Setting


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data, and what is predicted of them."""

    data: Annotated[str, Setting("folder made by `bertjobs data prepare`", kind="path", env="DATADIR", listed=True)] = (
        "data/prepared"
    )
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
    loader: Annotated[
        str,
        Setting(
            "what reads the shards; lddl is LDDL's own loader, where the lddl package is installed",
            decisive=True,
            choices=("bertjobs", "lddl"),
        ),
    ] = "bertjobs"
    num_workers: Annotated[
        int,
        Setting(
            "background threads that build batches; 0: batches are built between steps",
            unit="threads per rank",
            env="NUM_WORKERS",
            example="2",
        ),
    ] = 1
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
    next_sentence: Annotated[
        bool,
        Setting(
            "predict next sentences besides masked words, as BERT does; without it the model has no head for them, and "
            "next-sentence pairs in the data are read as text",
            decisive=True,
            later=True,
        ),
    ] = True
