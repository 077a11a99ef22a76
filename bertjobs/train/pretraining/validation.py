"""Held-out loss, exact over the whole held-out set whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from bertjobs.data.batches.batches import (
    Batch,
    target_counts,
    token_counts,
    unigram_cross_entropy,
    validation_batches,
)
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.precision import autocast
from bertjobs.train.pretraining.forward import on_device
from bertjobs.train.pretraining.shards import PhaseShards
from bertjobs.train.ranks import Ranks


class Validation:
    """Scores a model on all held-out sequences, with masks that are the same every time.

    Args:
        batch_size: sequences in one forward pass.
        precision: one of ``spec.PRECISIONS``.
    """

    def __init__(self, shards: PhaseShards, ranks: Ranks, device: torch.device, *, batch_size: int, precision: str):
        self._shards, self._ranks, self._device = shards, ranks, device
        self._batch_size, self._precision = batch_size, precision
        self._unigram_line: float | None = None

    def _batches(self) -> Iterator[Batch]:
        shards, ranks = self._shards, self._ranks
        return validation_batches(
            shards.held_out, shards.masking, batch_size=self._batch_size, rank=ranks.rank, world_size=ranks.size
        )

    def unigram_line(self, beat: Callable[[], None]) -> float:
        """Cross-entropy, in nats, of the scored tokens under the training text's token frequencies: what a model
        reaches that knows word frequencies but no context.

        The ranks share the work, which reads all of the training text once per attempt; all call this. ``beat`` is
        called for each shard and batch, so that the watchdog sees that the work moves.
        """
        if self._unigram_line is None:
            shards, ranks = self._shards, self._ranks
            size = shards.train.vocabulary.size
            train = token_counts(shards.train, rank=ranks.rank, world_size=ranks.size, progress=beat)
            targets = np.zeros(size, dtype=np.int64)
            for batch in self._batches():
                targets += target_counts(batch, size)
                beat()
            both = np.array(ranks.sum_on_host(*train.tolist(), *targets.tolist()))
            self._unigram_line = unigram_cross_entropy(both[:size], both[size:])
        return self._unigram_line

    def run(self, model: BertForPreTraining, beat: Callable[[], None]) -> dict[str, float | int]:
        """Means over the held-out set: losses in nats, accuracies 0 to 1, and the unigram line in nats.

        ``beat`` is called for each batch. Nothing waits for the device before the last one.
        """
        unigram_line = self.unigram_line(beat)
        is_gpu = self._device.type == "cuda"
        sums = torch.zeros(6, dtype=torch.float64, device=self._device)
        model.eval()
        with torch.inference_mode(), autocast(self._precision, self._device):
            for batch in self._batches():
                beat()
                out = model(*on_device(batch.pin_memory() if is_gpu else batch, self._device).tensors())
                sums += torch.stack([value.double() for value in out])
        model.train()
        mlm_loss, mlm_hits, masked, nsp_loss, nsp_hits, pairs = self._ranks.sum_on_device(sums).tolist()
        scores = {"mlm_loss_nats": mlm_loss / masked, "mlm_accuracy": mlm_hits / masked}
        if model.next_sentence:
            scores |= {"nsp_loss_nats": nsp_loss / pairs, "nsp_accuracy": nsp_hits / pairs}
        counts = {"masked_tokens": int(masked), "sequences": len(self._shards.held_out.kept)}
        return {**scores, **counts, "unigram_cross_entropy_nats": unigram_line}
