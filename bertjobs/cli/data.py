"""`bertjobs data`: make shards, or a vocabulary, from text."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.data.manifest import DataManifest

_CORPUS_HELP = (
    "where the documents are, once or more often: text:PATH (a *.txt file, or a folder of them, one document "
    "a file) or lddl:PATH (LDDL's source, one document a line: <id> <text>)"
)


def register(subparsers: Any) -> None:
    """Add `data` to the command line."""
    data = subparsers.add_parser(
        "data",
        help="prepare training data, or train a vocabulary",
        description="Make the shards that training reads, or the vocabulary that they are made with.",
    )
    verbs = data.add_subparsers(metavar="VERB", required=True)
    _add_prepare(verbs)
    _add_vocab(verbs)


def _add_prepare(verbs: Any) -> None:
    parser = verbs.add_parser(
        "prepare",
        help="text to balanced, binned Parquet shards in LDDL's schema",
        description="Split documents into sentences, encode them, draw next-sentence pairs, and write "
        "balanced, binned Parquet shards in LDDL's schema for each phase, with held-out documents for "
        "validation. The output folder appears when it is complete.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    required = parser.add_argument_group("needed")
    required.add_argument(
        "--corpus", metavar="KIND:PATH", action="append", required=True, default=argparse.SUPPRESS, help=_CORPUS_HELP
    )
    required.add_argument(
        "--vocab", metavar="FILE", required=True, default=argparse.SUPPRESS, help="vocab.txt of the BERT to train"
    )
    required.add_argument("--output", metavar="DIR", required=True, default=argparse.SUPPRESS, help="folder to make")
    option = parser.add_argument
    option("--phases", metavar="LIST", default="1,2", help="1 (128 tokens), 2 (512 tokens) or both")
    option(
        "--duplicates",
        metavar="N",
        type=int,
        default=5,
        help="times that pairs are drawn from each training document",
    )
    option("--bin-size", metavar="TOKENS", type=int, default=64, help="tokens a length bin spans")
    option(
        "--shards",
        metavar="N",
        type=int,
        default=8,
        help="files a bin; at least ranks x loader workers",
    )
    option(
        "--masking",
        metavar="HOW",
        default="dynamic",
        help="dynamic (drawn anew each epoch in training) or static (stored in the shards)",
    )
    option(
        "--masked-share",
        metavar="SHARE",
        type=float,
        default=0.15,
        help="share of the tokens masked where masking is static",
    )
    option(
        "--short-sequence-share",
        metavar="SHARE",
        type=float,
        default=0.1,
        help="share of the documents whose target length is drawn at random",
    )
    option(
        "--held-out",
        metavar="SHARE",
        type=float,
        default=0.05,
        help="share of the documents kept for validation, at least one document",
    )
    option("--seed", metavar="N", type=int, default=42, help="equal input and seed give equal bytes")
    parser.set_defaults(handler=_prepare)


def _add_vocab(verbs: Any) -> None:
    parser = verbs.add_parser(
        "vocab",
        help="train a WordPiece vocabulary on text",
        description="Train a WordPiece vocabulary and write it as vocab.txt.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--corpus", metavar="KIND:PATH", action="append", required=True, default=argparse.SUPPRESS, help=_CORPUS_HELP
    )
    parser.add_argument("--size", metavar="TOKENS", type=int, default=30_522, help="tokens at most")
    parser.add_argument(
        "--output", metavar="FILE", required=True, default=argparse.SUPPRESS, help="the file to write, DIR/vocab.txt"
    )
    parser.add_argument("--cased", action="store_true", help="keep upper case and accents")
    parser.set_defaults(handler=_vocab)


def _prepare(args: argparse.Namespace) -> int:
    from bertjobs.data.manifest import DataManifest
    from bertjobs.data.prepare import PrepareOptions, prepare

    options = PrepareOptions(
        corpora=tuple(args.corpus),
        vocabulary=args.vocab,
        output=args.output,
        phases=_phases(args.phases),
        duplicates=args.duplicates,
        bin_size=args.bin_size,
        shards=args.shards,
        masking=args.masking,
        masked_share=args.masked_share,
        short_sequence_share=args.short_sequence_share,
        held_out=args.held_out,
        seed=args.seed,
    )
    started = time.monotonic()
    prepare(options, _ProgressLine())
    _print_summary(DataManifest.read(args.output), time.monotonic() - started)
    return 0


def _vocab(args: argparse.Namespace) -> int:
    from bertjobs.data.vocabulary import Vocabulary, train_vocabulary
    from bertjobs.launch.script import shell_line

    started = time.monotonic()
    train_vocabulary(args.corpus, args.size, not args.cased, args.output)
    vocabulary = Vocabulary.read(args.output)
    seconds = time.monotonic() - started
    print(f"{vocabulary.size:,} tokens in {seconds:.0f} s -> {args.output} (sha256 {vocabulary.sha256[:12]}...)")
    sources = [word for source in args.corpus for word in ("--corpus", source)]
    print("next: " + shell_line(["bertjobs", "data", "prepare", *sources, "--vocab", args.output]) + " --output DIR")
    return 0


def _phases(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} is no list of phases", where="--phases", hint="1, 2 or 1,2") from error


class _ProgressLine:
    """One line on stderr that shows the stage, its share and its rate; on a terminal it rewrites itself."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0

    def __call__(self, stage: str, done: float, total: float, unit: str) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        finished = done >= total
        if sys.stderr.isatty() or finished:
            rate = f"  {done / (now - self._began):.1f} {unit}/s" if done and now > self._began else ""
            start, end = ("\r\033[K", "\n" if finished else "") if sys.stderr.isatty() else ("", "\n")
            print(
                f"{start}{stage}: {done:.3g} of {total:.3g} {unit}{rate}",
                end=end,
                file=sys.stderr,
                flush=True,
            )


def _print_summary(data: DataManifest, seconds: float) -> None:
    from bertjobs.launch.script import shell_line

    documents = data.documents
    print(f"{documents['train']:,} documents for training, {documents['validation']:,} held out")
    size = count = 0
    for number, phase in sorted(data.phases.items()):
        for name in ("train", "validation"):
            split = phase.split(name)
            size += sum(file.bytes for file in split.files)
            count += len(split.files)
            mean = split.tokens / max(1, split.rows)
            print(f"phase {number} {name + ':':<11} {split.rows:>11,} sequences, mean {mean:.0f} of "
                  f"{phase.sequence_length} tokens")  # fmt: skip
    when = "stored in the shards" if data.masking == "static" else "drawn anew each epoch"
    print(f"masked: {data.settings['masked_share']:.0%} of the tokens, {when}")
    print(f"{count} files, {size / 1e6:.1f} MB in {seconds:.1f} s -> {data.folder}")
    print("next: " + shell_line(["bertjobs", "submit", "--recipe", "NAME", "--data", str(data.folder)]))
