"""`bertjobs data duplicates`: which documents of a corpus repeat an earlier one, before anything is prepared."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertjobs.cli.data_check import ReadingLine, chosen_processes
from bertjobs.cli.data_corpus import add_corpus, chosen_corpora
from bertjobs.cli.data_sources import duplicate_lines
from bertjobs.cli.help_text import DefaultsShown
from bertjobs.cli.interrupts import interrupts_held
from bertjobs.files.faults import not_written
from bertjobs.wording import harmless, right_aligned


def add_duplicates(verbs: Any) -> None:
    """Add the verb to `bertjobs data`."""
    parser = verbs.add_parser(
        "duplicates",
        help="find documents of a corpus that repeat an earlier one",
        description="Read a corpus and count the documents that repeat an earlier one, word for word and, with --near, "
        "nearly. Changes nothing; `bertjobs data prepare --drop-duplicates` leaves them out.",
        formatter_class=DefaultsShown,
        allow_abbrev=False,
    )
    add_corpus(parser)
    option = parser.add_argument
    option("--near", action="store_true", help="also those that are much like an earlier one")
    add_near_options(option)
    option("--processes", metavar="N", type=int, default=0, help="processes on this machine; 0: one per core")
    option("--list", metavar="FILE", help="write all of them to this file: a line each, the name, a tab, and the name "
           "of the earlier one; of several corpora, with the corpus before each name")  # fmt: skip
    option("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=_duplicates)


def add_near_options(option: Any) -> None:
    """Add what decides whether two documents are near duplicates."""
    option("--near-threshold", metavar="SHARE", type=float, default=0.8,
           help="with near: the share of their word runs that two documents must have in common")  # fmt: skip
    option("--shingle-words", metavar="N", type=int, default=5, help="with near: words in a run")


def _duplicates(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.data.check.duplicates import check_near
        from bertjobs.data.prepare.corpus_duplicates import find_in_corpus

    check_near(args.near_threshold, args.shingle_words)
    started = time.monotonic()
    with _temporary_folder() as folder:
        words = args.shingle_words if args.near else 0
        repeats = find_in_corpus(chosen_corpora(args), words, args.near_threshold, chosen_processes(args), folder,
                               ReadingLine("duplicates"))  # fmt: skip
        if args.list:
            _write_list(Path(args.list), repeats.pairs())
    report, seconds = repeats.report, time.monotonic() - started
    if args.json:
        print(json.dumps({"corpora": args.corpus, "documents_by_source": repeats.documents, "wall_time_s": seconds}
                         | {name: getattr(report, name) for name in ("how", "documents", "by_source", "examples")},
                         indent=2))  # fmt: skip
        return 0
    rows = [["corpus", "documents", "repeat an earlier one", "share"]]
    for corpus, documents, repeated in zip(args.corpus, repeats.documents, report.by_source, strict=True):
        rows.append([corpus, f"{documents:,}", f"{repeated:,}", f"{repeated / documents:.2%}"])
    unread = [f"note: {words}"] if (words := repeats.unread.words()) else []
    for line in [*right_aligned(rows), *unread, *duplicate_lines(report)]:
        print(harmless(line))
    print(f"{sum(repeats.documents):,} documents in {seconds:.1f} s")
    return 0


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for the block alone; a BertjobsError that names where it is if it cannot be written."""
    place = os.environ.get("TMPDIR", "/tmp")
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="bertjobs-duplicates-") as folder:
            yield Path(folder)
    except BrokenPipeError:  # who reads the output has gone
        raise
    except OSError as error:
        raise not_written(
            place, error, "TMPDIR", "set TMPDIR to a folder with space: 100 bytes per document, with --near 1300"
        ) from error


def _write_list(path: Path, pairs: Iterator[tuple[str, str]]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{later}\t{first}\n" for later, first in pairs)
    except OSError as error:
        raise not_written(str(path), error, "--list") from error
