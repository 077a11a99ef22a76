"""How far a student is from its teacher on held-out text, exact over all of it whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bertjobs.distill.general_forward import GeneralForward
from bertjobs.distill.general_measures import fields_of
from bertjobs.distill.terms import SCORES, means
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.precision import autocast
from bertjobs.train.pretraining.shards import PhaseShards
from bertjobs.train.pretraining.validation import Validation
from bertjobs.train.ranks import Ranks


class DistillationValidation(Validation):
    """As `Validation`, with a score for each term of the loss."""

    def __init__(
        self,
        shards: PhaseShards,
        ranks: Ranks,
        device: torch.device,
        *,
        batch_size: int,
        precision: str,
        forward: GeneralForward,
        terms: Sequence[str],
    ) -> None:
        super().__init__(shards, ranks, device, batch_size=batch_size, precision=precision)
        self._forward, self._terms = forward, tuple(terms)

    def run(self, model: BertForPreTraining, beat: Callable[[], None]) -> dict[str, float | int]:
        """Means over the held-out set, as `bertjobs.distill.general_measures.FIELDS` names them, and the unigram line
        in nats.

        ``beat`` is called for each batch.
        """
        line = self.unigram_line(beat)
        sums = torch.zeros(sum(2 + SCORES[name] for name in self._terms), dtype=torch.float64, device=self._device)
        model.eval()
        with torch.no_grad(), autocast(self._precision, self._device):
            for batch in self._batches():
                beat()
                values = [
                    value for term in self._forward(batch) for value in (term.count, term.loss_sum, *term.score_sums)
                ]
                sums += torch.stack([value.double() for value in values])
        model.train()
        total = self._ranks.sum_on_device(sums).tolist()
        counts: list[int] = []
        kept: list[float] = []
        for name in self._terms:
            counts.append(max(1, int(total.pop(0))))
            kept += [total.pop(0) for _ in range(1 + SCORES[name])]
        average = means(self._terms, kept, counts)
        masked = {"masked_tokens": counts[0]} if "labels" in self._terms else {}
        return {
            "distillation_loss": average.total,
            **fields_of(average),
            **masked,
            "sequences": len(self._shards.held_out.kept),
            "unigram_cross_entropy_nats": line,
        }
