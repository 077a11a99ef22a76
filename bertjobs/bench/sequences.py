"""The sequences that a benchmark trains on: a recipe's own shards, or synthetic ones of the usual lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertjobs.data.batches.masked_text import Masking
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS, ShardRows, ids_type
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.data.text.normalisation import Normalisation
from bertjobs.data.text.vocabulary import SPECIAL_TOKENS, Vocabulary
from bertjobs.recipe.spec import PhaseSpec, RunSpec

SYNTHETIC_ROWS = 1 << 14
VOCABULARY_SIZE = 30522
"""Where neither the recipe nor the data gives one: bert-base-uncased's."""

LENGTHS = {
    128: (8, 43, 58, 72, 87, 102, 118, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128),
    512: (8, 53, 71, 88, 107, 128, 152, 179, 211, 246, 291, 350, 414, 490, 512, 512, 512),
}
"""Lengths of sequences with [CLS] and [SEP], by the phase's: the 17 quantiles 0/16 to 16/16 of articles' shards. Their
means are 106 and 254 tokens, those of Wikipedia."""


@dataclass(frozen=True)
class BenchData:
    """Sequences of one phase.

    Attributes:
        shards, masking: as a run reads them.
        source: where they come from, in words.
    """

    shards: ShardSet
    masking: Masking
    source: str

    @property
    def vocabulary_size(self) -> int:
        return self.shards.vocabulary.size


def open_data(spec: RunSpec, phase: PhaseSpec) -> BenchData:
    """The training sequences of the recipe's data folder; where that does not exist, synthetic ones.

    Raises:
        InputError: the folder is damaged, or not made for this recipe.
    """
    if not Path(spec.data).is_dir():
        return synthetic_data(spec, phase)
    data = DataManifest.read(spec.data)
    data.check(replace(spec, phases=(phase,)))
    shards = ShardSet.load(data, phase.phase, "train")
    return BenchData(shards, _masking(spec, phase, spec.masking), f"{spec.data}: {_lengths(shards)}")


def synthetic_data(spec: RunSpec, phase: PhaseSpec, rows: int = SYNTHETIC_ROWS) -> BenchData:
    """Sequences as long as those of articles, of random tokens, the frequent ones with low ids."""
    draw = np.random.default_rng(spec.seed)
    longest = phase.sequence_length
    nearest = min(LENGTHS, key=lambda known: abs(known - longest))
    quantiles = LENGTHS[nearest]
    drawn = np.interp(draw.random(rows), np.linspace(0, 1, len(quantiles)), quantiles) * longest / nearest
    lengths = np.clip(np.rint(drawn).astype(np.int64), SPECIALS + 2, longest) - SPECIALS
    size = spec.model.vocab_size or VOCABULARY_SIZE
    offsets = offsets_of(lengths)
    specials = len(SPECIAL_TOKENS)
    ids = specials + (size - specials) ** draw.random(offsets[-1]) - 1  # as often as their ranks' inverse: Zipf's law
    shard = ShardRows(
        ids=ids.astype(ids_type(size)),
        offsets=offsets,
        a_lengths=np.clip((lengths * draw.random(rows)).astype(np.int64), 1, lengths - 1).astype(np.uint16),
        is_random_next=draw.random(rows) < 0.5,
        masks=None,
    )
    shards = ShardSet([(Path("synthetic"), rows, shard)], _vocabulary(size), static=False, sequence_length=longest)
    words = f"synthetic sequences ({spec.data} does not exist yet): {_lengths(shards)}"
    return BenchData(shards, _masking(spec, phase, "dynamic"), words)


def _masking(spec: RunSpec, phase: PhaseSpec, kind: str) -> Masking:
    return Masking(kind, spec.seed, phase.max_predictions, spec.masked_share, spec.masked_units == "words")


def _vocabulary(size: int) -> Vocabulary:
    tokens = (*SPECIAL_TOKENS, *(f"token{number}" for number in range(size - len(SPECIAL_TOKENS))))
    places = {token: tokens.index(token) for token in SPECIAL_TOKENS}
    return Vocabulary(
        tokens=tokens,
        sha256="",
        normalisation=Normalisation.berts(True),
        tokens_file=b"",
        tokenizer_file=None,
        pad_id=places["[PAD]"],
        unk_id=places["[UNK]"],
        cls_id=places["[CLS]"],
        sep_id=places["[SEP]"],
        mask_id=places["[MASK]"],
    )


def _lengths(shards: ShardSet) -> str:
    rows = shards.kept
    lengths = shards.num_tokens(rows)
    return f"{len(rows):,} sequences, mean length {lengths.mean():.0f} tokens, longest {lengths.max()}"
