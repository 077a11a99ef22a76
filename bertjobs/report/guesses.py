"""What a trained model puts in place of a masked word, in sentences that it never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from bertjobs.data.batches.batches import token_counts
from bertjobs.data.shards.manifest import DataManifest, Split
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import load_pretrained
from bertjobs.report.masked_words import Cloze, MaskedWord, choose, readable

ROWS_COUNTED = 50_000  # training sequences that word frequencies are taken from


def guess(
    checkpoint: Path, data: DataManifest, phase: int, *, count: int = 3, top: int = 5, seed: int = 0
) -> list[MaskedWord]:
    """Mask one word in each of ``count`` held-out sentences and let a checkpoint's model guess it.

    The model sees the sentence alone, as [CLS] sentence [SEP]. The same arguments give the same sentences,
    whatever the checkpoint. The list is shorter where the held-out text has too few readable sentences.

    Args:
        checkpoint: a Hugging Face folder with the masked-LM head.
        phase: whose shards the sentences come from.

    Raises:
        InputError: the checkpoint or a shard cannot be read, or the checkpoint has no masked-LM head or the
            size of another vocabulary.
    """
    model = _load(checkpoint)
    sample = _sample(data, phase)
    held_out = ShardSet.load(sample, phase, "validation")
    if model.spec.vocab_size < held_out.vocabulary.size:
        raise InputError(
            f"the checkpoint has {model.spec.vocab_size:,} token embeddings, but the data's vocabulary has "
            f"{held_out.vocabulary.size:,} tokens",
            where=str(checkpoint),
        )
    counts = token_counts(ShardSet.load(sample, phase, "train"))
    clozes = choose(held_out, counts, count, seed)
    return [_answer(model, held_out, cloze, top) for cloze in clozes]


def _load(checkpoint: Path) -> BertForPreTraining:
    weights = load_pretrained(checkpoint)
    if any(name.startswith("cls.predictions") for name in weights.missing):
        raise InputError("the checkpoint has no masked-LM head", where=str(checkpoint))
    model = BertForPreTraining(weights.spec)
    model.load_state_dict(weights.state, strict=False)
    return model.eval()


def _sample(data: DataManifest, phase: int) -> DataManifest:
    """The data with as many shards of the phase, taken in turn from all bins, as hold ``ROWS_COUNTED`` rows."""
    entry = data.phase(phase)
    few = replace(entry, train=_few_shards(entry.train), validation=_few_shards(entry.validation))
    return replace(data, phases={**data.phases, phase: few})


def _few_shards(split: Split) -> Split:
    numbers: dict[int, int] = {}  # shards seen by bin
    order = []
    for file in split.files:
        numbers[file.bin] = numbers.get(file.bin, -1) + 1
        order.append((numbers[file.bin], file.bin, file))
    taken, rows = [], 0
    for _, _, file in sorted(order, key=lambda entry: entry[:2]):
        if rows >= ROWS_COUNTED:
            break
        taken.append(file)
        rows += file.rows
    return replace(split, files=tuple(taken))


@torch.inference_mode()
def _answer(model: BertForPreTraining, held_out: ShardSet, cloze: Cloze, top: int) -> MaskedWord:
    vocabulary = held_out.vocabulary
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    truth = ids[cloze.truth]
    sentence = [ids[token] for token in cloze.tokens]
    sentence[cloze.place] = vocabulary.mask_id
    input_ids = torch.tensor([[vocabulary.cls_id, *sentence, vocabulary.sep_id]])
    logits, _ = model.logits(input_ids, torch.zeros_like(input_ids), torch.ones_like(input_ids))
    # A model may hold more rows than the vocabulary has tokens; those are padding.
    probabilities = logits[0, cloze.place + 1, : vocabulary.size].float().softmax(-1)
    best = probabilities.topk(min(top, vocabulary.size))
    return MaskedWord(
        before=readable(cloze.tokens[: cloze.place]),
        after=readable(cloze.tokens[cloze.place + 1 :]),
        truth=cloze.truth,
        probability=float(probabilities[truth]),
        rank=int((probabilities > probabilities[truth]).sum()) + 1,
        top=tuple(
            (vocabulary.tokens[number], probability)
            for number, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ),
    )
