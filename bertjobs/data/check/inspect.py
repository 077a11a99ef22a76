"""Reading shards whole, to say what is in them and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from bertjobs.data.check.checks import (
    broken_form,
    same_files,
    unequal_shards,
    why_unreadable,
    without_wrong_masks,
    wrong_rows,
    wrong_shares,
)
from bertjobs.data.check.facts import NOTHING, Facts, RowKeys, measure, row_keys
from bertjobs.data.check.samples import DynamicDraw, Sample, choose_rows, read_sample
from bertjobs.data.check.target import CheckTarget, Expected, ShardToCheck, TargetPart
from bertjobs.data.shards.ids_shard import ShardRows
from bertjobs.data.shards.lddl_columns import FIXED_EPOCH
from bertjobs.data.shards.manifest import SPLITS
from bertjobs.data.shards.shard_set import ShardReader
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.atomic import sha256_of

LEAKED = 0.01  # of the held-out rows


@dataclass(frozen=True)
class Inspection:
    """What is in shards that belong together, and what is wrong with them.

    Attributes:
        bins: facts by length bin; of the files that could be read.
        repeated: share of the rows that have the A and B of an earlier one; an estimate above 16 million rows.
        keys: one number per row, equal for equal rows; a sample of them above 16 million rows.
        wrong: (file, or "", what is wrong with it).
        remarks: what is worth knowing, but not wrong.
    """

    bins: dict[int, Facts]
    repeated: float
    keys: RowKeys
    wrong: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]

    @property
    def total(self) -> Facts:
        """Of all bins."""
        return sum(self.bins.values(), start=NOTHING)


def inspect_target(target: CheckTarget, progress: Callable[[int, int], None]) -> dict[str, Inspection]:
    """Inspect all rows of all parts; returns the inspections by the parts' names.

    Args:
        progress: called with the bytes inspected so far and their total.
    """
    sizes = [shard.path.stat().st_size for part in target.parts for shard in part.shards if shard.path.is_file()]
    total, done = sum(sizes), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    progress(0, total)
    inspections = {
        part.name: inspect_shards(part.shards, part.expected, target.vocabulary, count) for part in target.parts
    }
    first = target.parts[0].name
    if wrong := _wrong_vocabulary(target):
        inspections[first] = replace(inspections[first], wrong=(("", wrong), *inspections[first].wrong))
    for name, one in inspections.items():
        train = inspections.get(name.removesuffix(SPLITS[1]) + SPLITS[0])
        if train is not None and name.endswith(SPLITS[1]) and (share := one.keys.share_in(train.keys)) > 0:
            what = f"{share:.2%} of the held-out sequences are also in training"
            if share > LEAKED and target.parts[0].expected.balanced:
                inspections[name] = replace(one, wrong=(*one.wrong, ("", what)))
            else:
                inspections[name] = replace(one, remarks=(*one.remarks, what))
    return inspections


def _wrong_vocabulary(target: CheckTarget) -> str:
    """How the vocabulary differs from the one that the shards were made with; "" if it does not."""
    made_with = target.data.vocabulary_sha256 if target.data else target.metadata.get("vocabulary_sha256", "")
    if made_with in ("", target.vocabulary.sha256):
        return ""
    return f"made with the vocabulary {made_with[:12]}..., read with {target.vocabulary.sha256[:12]}..."


def inspect_shards(
    shards: Sequence[ShardToCheck], expected: Expected, vocabulary: Vocabulary, progress: Callable[[int], None]
) -> Inspection:
    """Inspect all rows of shards that belong together, file after file.

    Args:
        progress: called with the bytes of each file.
    """
    bins = dict.fromkeys(range(expected.bins), NOTHING) if len(shards) > 1 else {}
    keys, wrong = RowKeys(), []
    for shard in shards:
        facts, problems = inspect_shard(shard, expected, vocabulary, keys)
        wrong += [(shard.path.name, what) for what in problems]
        bins[shard.bin] = bins.get(shard.bin, NOTHING) + facts
        progress(facts.bytes)
    repeated = keys.repeated()
    together = Inspection(bins, repeated, keys, tuple(wrong), ())
    suspicious = [("", what) for what in (*same_files(shards), *wrong_shares(together.total, repeated, expected))]
    unequal = list(unequal_shards(shards, expected.shard_format))
    remarks = [f"bin {number} is empty" for number, facts in sorted(bins.items()) if not facts.rows]
    if expected.balanced:
        return replace(together, wrong=(*wrong, *suspicious, *(("", what) for what in unequal)), remarks=tuple(remarks))
    return replace(together, wrong=(*wrong, *suspicious), remarks=(*unequal, *remarks))


def inspect_shard(
    shard: ShardToCheck, expected: Expected, vocabulary: Vocabulary, keys: RowKeys
) -> tuple[Facts, list[str]]:
    """The facts of a file, as far as it can be read, and what is wrong with it; its rows are added to ``keys``."""
    path, entry = shard.path, shard.entry
    if not path.is_file():
        what = f"missing: it is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "missing"
        return NOTHING, [what]
    size = path.stat().st_size
    facts = replace(NOTHING, bytes=size, files=1)
    wrong = []
    try:
        if entry and size != entry.bytes:
            wrong.append(f"cut off or changed: {size:,} bytes, the manifest says {entry.bytes:,}")
        elif entry and (sha256 := sha256_of(path)) != entry.sha256:
            wrong.append(f"changed: its sha256 is {sha256[:12]}..., the manifest says {entry.sha256[:12]}...")
        content = expected.reader(vocabulary)(path)
    except (OSError, ValueError, EOFError) as error:  # numpy's reader of positions raises EOFError
        return facts, [*wrong, *why_unreadable(path, expected, vocabulary, error)]
    if broken := broken_form(content, expected.next_sentence):
        return facts, [*wrong, broken]
    content, mask_problems = without_wrong_masks(content)
    wrong += [*mask_problems, *wrong_rows(shard, content, expected, vocabulary)]
    keys.add(row_keys(content))
    return measure(content, vocabulary, size, expected.masked_share, expected.max_predictions), wrong


def read_samples(target: CheckTarget, part: TargetPart, count: int, seed: int) -> list[Sample]:
    """Some rows of a part in words, of the shards that can be read; dynamic masks as a run of this seed draws them."""
    read = part.expected.reader(target.vocabulary)
    contents = lru_cache(maxsize=1)(partial(_readable, read, part.expected.next_sentence))
    rows = [shard.entry.rows if shard.entry else content.rows if (content := contents(shard)) else 0
            for shard in part.shards]  # fmt: skip
    epoch = FIXED_EPOCH if part.split == SPLITS[1] else 0
    samples = []
    for place, row in choose_rows(rows, count, seed):
        shard = part.shards[place]
        content = contents(shard)
        if content is not None and row < content.rows:
            expected = part.expected
            draw = DynamicDraw(seed, epoch, shard.first_row, expected.masked_share, expected.max_predictions)
            samples.append(read_sample(content, row, shard.path.name, target.vocabulary, draw))
    return samples


def _readable(read: ShardReader, next_sentence: bool | None, shard: ShardToCheck) -> ShardRows | None:
    """A shard whose rows can be shown, without masks where these are wrong; or None."""
    try:
        content = read(shard.path)
    except (OSError, ValueError, EOFError):
        return None
    return None if broken_form(content, next_sentence) else without_wrong_masks(content)[0]
