"""The share of [UNK] in each source, of its tokens and of its characters: above a limit the vocabulary does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertjobs.data.prepare.limit import OverLimitError
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.shards.source_counts import SourceCounts
from bertjobs.slurm.shell import shell_line

_MANY_TOKENS, _FAR_ABOVE = 2_000_000, 4  # of a source that is refused early: tokens, and times the limit


class UnknownCounter:
    """The counts of each source, from the results of tasks of the first stage."""

    def __init__(self, work: WorkFolder) -> None:
        self._work = work
        self.counts = [SourceCounts(corpus) for corpus in work.options.corpora]

    def add(self, number: int, result: Mapping[str, Any]) -> None:
        """Add what a task has counted; a task that an earlier version ran counted none."""
        source = self._work.pieces[number].source
        counted = {name: result.get(name, 0) for name in ("tokens", "unknown", "characters", "unknown_characters")}
        self.counts[source] += SourceCounts("", **counted)


def unknown_counts(work: WorkFolder) -> list[SourceCounts]:
    """The counts of each source, when all tasks of the first stage are done."""
    counter = UnknownCounter(work)
    for number, result in enumerate(work.results("tokenise")):
        counter.add(number, result)
    return counter.counts


def check_unknown(counts: Sequence[SourceCounts], limit: float) -> None:
    """Refuse sources of which too much is [UNK], by tokens or by characters.

    Raises:
        OverLimitError: names the one with the largest share.
    """
    worst = max(counts, key=lambda count: count.lost_share)
    if worst.lost_share > limit:
        raise OverLimitError(
            f"{worst.lost_words} of {worst.corpus!r} are [UNK], which is more than {limit:.1%}: the vocabulary does "
            "not fit the text (another language, capitals, accents), or the text has words that are longer than its "
            "tokenizer takes (scripts without spaces)",
            where="--vocab",
            hint=f"train one on this text: {shell_line(['bertjobs', 'data', 'vocab', '--corpus', worst.corpus])} "
            "--output DIR/vocab.txt; if it says that words are too long even so, put spaces between words; or accept "
            f"it: --max-unknown-share {_above(worst.lost_share)}",
        )


class EarlyCheck:
    """Refuses a source that is far above the limit while text is still being encoded, which may take hours."""

    def __init__(self, work: WorkFolder, limit: float, done: Callable[[int], None]) -> None:
        self._work, self._limit, self._counter, self._done = work, limit, UnknownCounter(work), done

    def __call__(self, number: int) -> None:
        """Call ``done`` for a task of the first stage, and count it; raises as ``check_unknown``."""
        self._done(number)
        self._counter.add(number, self._work.result("tokenise", number))
        if far_above := [count for count in self._counter.counts if self._is_far_above(count)]:
            check_unknown(far_above, self._limit)

    def _is_far_above(self, count: SourceCounts) -> bool:
        return count.tokens >= _MANY_TOKENS and count.lost_share > _FAR_ABOVE * self._limit


def _above(share: float) -> str:
    """A limit that this share does not exceed, as a person would type it."""
    return f"{min(1.0, share + 0.01):.2f}"
