"""Held-out loss, exact over the whole held-out set whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch

from bertjobs.data.batches.batches import Batch, unigram_cross_entropy, validation_batches
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.precision import autocast
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

    def _batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        shards, size = self._shards, self._batch_size
        return validation_batches(shards.held_out, shards.masking, batch_size=size, rank=rank, world_size=world_size)

    @cached_property
    def unigram_line(self) -> float:
        """Cross-entropy, in nats, of the scored tokens under the training text's token frequencies: what a model
        reaches that knows word frequencies but no context. Known only to rank 0."""
        if not self._ranks.is_first:
            return 0.0
        return unigram_cross_entropy(self._shards.train, self._batches(0, 1))

    def run(self, model: BertForPreTraining, beat: Callable[[], None]) -> dict[str, float | int]:
        """Means over the held-out set: losses in nats, accuracies 0 to 1, and the unigram line in nats.

        ``beat`` is called for each batch.
        """
        sums = torch.zeros(6, dtype=torch.float64, device=self._device)
        model.eval()
        with torch.inference_mode(), autocast(self._precision, self._device):
            for batch in self._batches(self._ranks.rank, self._ranks.size):
                beat()
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
