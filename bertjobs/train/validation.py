"""Held-out loss, exact over the whole held-out set whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch

from bertjobs.data.batches.batches import Batch, unigram_cross_entropy, validation_batches
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.job import Job
from bertjobs.train.phase_data import PhaseShards
from bertjobs.train.precision import autocast
from bertjobs.train.ranks import Ranks
from bertjobs.train.watchdog import Watchdog


class Validation:
    """Scores a model on all held-out sequences, with masks that are the same every time."""

    def __init__(self, job: Job, shards: PhaseShards, ranks: Ranks, device: torch.device, watchdog: Watchdog):
        self._job, self._shards, self._ranks, self._device = job, shards, ranks, device
        self._watchdog = watchdog

    def _batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        shards, size = self._shards, self._job.phase.micro_batch
        return validation_batches(shards.held_out, shards.masking, batch_size=size, rank=rank, world_size=world_size)

    @cached_property
    def unigram_line(self) -> float:
        """Cross-entropy, in nats, of the scored tokens under the training text's token frequencies: what a
        model reaches that knows word frequencies and no context. Known to rank 0 alone."""
        if not self._ranks.is_first:
            return 0.0
        return unigram_cross_entropy(self._shards.train, self._batches(0, 1))

    def run(self, model: BertForPreTraining, step: int) -> dict[str, float | int]:
        """Means over the held-out set: losses in nats, accuracies 0 to 1, and the unigram line in nats.

        ``step`` is how far the training is, for the watchdog.
        """
        sums = torch.zeros(6, dtype=torch.float64, device=self._device)
        model.eval()
        with torch.inference_mode(), autocast(self._job.spec.precision, self._device):
            for batch in self._batches(self._ranks.rank, self._ranks.size):
                self._watchdog.beat(step, "validating")
                batch = batch.to(self._device)
                out = model(*batch.tensors())
                sums += torch.stack([value.double() for value in out])
        model.train()
        mlm_loss, mlm_hits, masked, nsp_loss, nsp_hits, sequences = self._ranks.sum_on_device(sums).tolist()
        return {
            "mlm_loss_nats": mlm_loss / masked,
            "mlm_accuracy": mlm_hits / masked,
            "nsp_loss_nats": nsp_loss / sequences,
            "nsp_accuracy": nsp_hits / sequences,
            "masked_tokens": int(masked),
            "sequences": int(sequences),
            "unigram_cross_entropy_nats": self.unigram_line,
        }
