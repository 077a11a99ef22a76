"""Whether each split of each phase gets sequences: a manifest without them could not be read."""

from __future__ import annotations

from bertjobs.data.corpus import Source
from bertjobs.data.prepare.settings import PrepareOptions
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.shards.manifest import SPLITS
from bertjobs.errors import InputError


def refuse_splits_without_rows(work: WorkFolder) -> None:
    """InputError that says why a split of a phase has no sequence, once all pairs are drawn."""
    drawn = [(bucket.split, result) for bucket, result in zip(work.buckets, work.results("pairs"), strict=True)]
    for shape in work.options.phases:
        for split in SPLITS:
            if any(sum(result["rows"][str(shape.phase)]) for name, result in drawn if name == split):
                continue
            documents = sum(result["documents"] for name, result in drawn if name == split)
            if split == "train" and (rarely := _rarely_drawn(work.options)):
                raise InputError(
                    f"none of the {documents:,} training documents is used: {rarely}",
                    where="--corpus",
                    hint="a weight multiplies --duplicates: 1 draws each document that often, 0.5 half as often",
                )
            raise InputError(
                f"phase {shape.phase}'s {split} data would hold no sequence, despite its {documents:,} documents",
                where="--corpus",
                hint="give more or longer documents",
            )


def _rarely_drawn(options: PrepareOptions) -> str:
    """How often documents are drawn, in words, where that is less than once for all of them; else ""."""
    weights = [Source.parse(text).weight for text in options.corpora]
    times = max(weights) * options.duplicates
    if times >= 1:
        return ""
    return f"the weight {max(weights):g} times --duplicates {options.duplicates} draws each {times:g} times"
