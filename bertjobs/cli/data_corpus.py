"""The options of `bertjobs data` that say which documents are read."""

from __future__ import annotations

import argparse
from typing import Any

from bertjobs.data.corpus import named_on_disk
from bertjobs.data.corpus.encodings import canonical
from bertjobs.data.corpus.source import HELP, WITH_ENCODING, Source


def add_corpus(group: Any) -> None:
    """Add the options that say what is read."""
    group.add_argument(
        "--corpus",
        metavar="KIND:PATH",
        action="append",
        required=True,
        default=argparse.SUPPRESS,
        help=f"where the documents are; can be given several times: {HELP}",
    )
    group.add_argument(
        "--encoding",
        metavar="NAME",
        default="utf-8",
        help=f"character encoding of the files of corpora of kind {', '.join(WITH_ENCODING)}, such as cp1252, utf-16, "
        "gb18030; a file that is not UTF-8 is read as a whole, by one process",
    )


def chosen_corpora(args: argparse.Namespace) -> tuple[str, ...]:
    """The corpora as they are given, each with its encoding if that is not UTF-8."""
    if not (encoding := canonical(args.encoding)):
        return tuple(args.corpus)
    return tuple(str(Source.parse(named_on_disk(text)).in_encoding(encoding)) for text in args.corpus)
