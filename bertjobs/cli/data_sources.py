"""What a manifest says of the sources, as text, for `bertjobs data prepare` and `bertjobs data inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertjobs.wording import columns, counted, right_aligned

if TYPE_CHECKING:
    from bertjobs.data.shards.duplicate_report import DuplicateReport
    from bertjobs.data.shards.manifest import DataManifest
    from bertjobs.data.shards.source_counts import SourceCounts


def source_lines(data: DataManifest) -> list[str]:
    """A table with a row per source, the sources' names and languages, and the duplicates; nothing for a folder of an
    older version."""
    if not data.sources:
        return []
    names = [[str(number), language_words(counts), counts.corpus] for number, counts in enumerate(data.sources, 1)]
    lines = ["sources:", *("  " + line for line in columns(names)), *_table(data.sources, data.next_sentence)]
    return [*lines, *unknown_lines(data.sources), *duplicate_lines(data.duplicates)]


def unknown_lines(sources: Sequence[SourceCounts]) -> list[str]:
    """A note on each source of which much became [UNK]."""
    from bertjobs.data.shards.source_counts import MUCH_UNKNOWN

    return [
        f"note: {counts.lost_words} of {counts.corpus!r} are [UNK]: its vocabulary does not fit it well"
        for counts in sources
        if counts.lost_share > MUCH_UNKNOWN
    ]


def language_words(counts: SourceCounts) -> str:
    """``mostly German (71% of a sample of 200 documents)``; ``-`` where nothing was guessed."""
    if (guess := counts.language) is None:
        return "-"
    name, documents, of = guess
    return f"mostly {name} ({documents / of:.0%} of a sample of {counted(of, 'document')})"


def _table(sources: Sequence[SourceCounts], next_sentence: bool) -> list[str]:
    phases = sorted({phase for counts in sources for phase in counts.phases})
    which = f"phase {', '.join(map(str, phases))}"
    head = ["", "documents", "sentences", "tokens", "[UNK]", f"used, {which}",
            *([f"random next, {which}"] if next_sentence else []), "tokens/document", "tokens/sentence"]  # fmt: skip
    rows = [head]

    def of_phases(counts: SourceCounts, part: str, whole: str) -> str:
        there = map(counts.phases.get, phases)
        return ", ".join(_share(getattr(one, part), getattr(one, whole)) if one else "-" for one in there)

    by_text = any(round(counts.unknown_text_share, 4) > round(counts.unknown_share, 4) for counts in sources)
    if by_text:
        head.insert(5, "[UNK] by character")
    has_repeated = any(counts.repeated for counts in sources)
    if has_repeated:
        head.insert(2, "dropped" if any(counts.dropped for counts in sources) else "repeated")
    for number, counts in enumerate(sources, 1):
        rows.append([
            f"  {number}", f"{counts.documents:,}", *([f"{counts.repeated:,}"] if has_repeated else []),
            f"{counts.sentences:,}", f"{counts.tokens:,}",
            _share(counts.unknown, counts.tokens, 2),
            *([_share(counts.unknown_characters, counts.characters, 2)] if by_text else []),
            of_phases(counts, "used", "tokens"),
            *([of_phases(counts, "random_next", "sequences")] if next_sentence else []),
            _spread(counts.document_quantiles), _spread(counts.sentence_quantiles),
        ])  # fmt: skip
    return [*right_aligned(rows), "  (the last two: the median, and what 5% and 95% do not exceed)"]


def _spread(quantiles: tuple[int, int, int]) -> str:
    low, median, high = quantiles
    return f"{median:,} ({low:,}-{high:,})"


def _share(part: int, whole: int, decimals: int = 1) -> str:
    return f"{part / whole:.{decimals}%}" if whole else "-"


_VERBS = {"exact": ("repeats the text of", "repeat the text of"), "near": ("is much like", "are much like")}


def duplicate_lines(report: DuplicateReport | None) -> list[str]:
    """How many documents repeat an earlier one, with examples, and what can be done; nothing where there are none."""
    if report is None or not report.documents:
        return []
    documents = counted(report.documents, "document")
    one, several = _VERBS[report.how]
    verb = one if report.documents == 1 else several
    if report.dropped:
        lines = [f"dropped: {documents} that {verb} an earlier one"]
    else:
        lines = [f"note: {documents} {verb} an earlier one; --drop-duplicates {report.how} leaves them out"]
        if across := report.across_splits:
            verb = "is" if across == 1 else "are"
            lines.append(f"note: {across:,} {verb} in another split than the earlier one: held-out losses are too low")
    return lines + [f"  {later} repeats {first}" for later, first in report.examples]
