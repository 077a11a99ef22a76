"""One training step over a global batch of real text, as one of several ranks; its sums and gradients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertjobs.data.batches.batches import NOT_SCORED, BatchStream, Masking
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.objective import probe
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.step import StepPlan, train_step

GLOBAL_BATCH = 8
CPU = torch.device("cpu")


def one_step(data: Path, ranks: Ranks, micro_batch: int) -> dict[str, Tensor]:
    """Gradients by parameter name, "sums" over all ranks, and "masked" tokens of each of this rank's micro-batches."""
    manifest = DataManifest.read(data)
    catalogue = load_catalogue([builtin_file()])
    spec = replace(
        catalogue.model("bert-tiny", "test"),
        vocab_size=manifest.vocabulary_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = BertForPreTraining(spec)
    # Without clipping, the gradients stay as they are.
    optimizer = Lamb(model.parameters(), 1e-3, clip_norm=float("inf"))
    stream = BatchStream(
        ShardSet.load(manifest, 1, "train"),
        Masking("dynamic", seed=3, max_predictions=20),
        global_batch=GLOBAL_BATCH,
        micro_batch=micro_batch,
        rank=ranks.rank,
        world_size=ranks.size,
    )
    micro_batches = next(stream)
    masked = [int((batch.labels != NOT_SCORED).sum()) for batch in micro_batches]
    plan = StepPlan(
        world_size=ranks.size,
        precision="fp32",
        seed=0,
        places=ranks.turns(len(micro_batches)),
        divisors=(ranks.sum_on_host(sum(masked))[0], GLOBAL_BATCH),
    )
    result = train_step(ranks.wrapped(Forward(model), probe(CPU)), optimizer, micro_batches, plan, CPU)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**gradients, "sums": ranks.sum_on_device(result.sums), "masked": torch.tensor(masked)}


def write_step(environ: Mapping[str, str], data: Path, micro_batch: int, file: Path) -> None:
    """Run `one_step` as the rank in ``environ``, and write into ``file`` plus its number; ends the process."""
    torch.set_num_threads(1)
    with joined(read_placement(environ)) as ranks:
        save_file(one_step(data, ranks, micro_batch), f"{file}-{ranks.rank}")
    os._exit(0)
