"""`bertjobs data`: make shards, or a vocabulary, from text. The verbs for existing shards are in `data_check`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.data_check import add_verbs, chosen_processes
from bertjobs.cli.data_corpus import add_corpus, chosen_corpora
from bertjobs.cli.data_duplicates import add_duplicates, add_near_options
from bertjobs.cli.data_prepare import (
    add_place_arguments,
    array_options,
    queue_prepare,
    refuse_unused_placement,
    run_sets,
)
from bertjobs.cli.data_sources import source_lines
from bertjobs.cli.help_text import DefaultsShown
from bertjobs.cli.interrupts import interrupts_held
from bertjobs.cli.memory import keep_freed_memory
from bertjobs.cli.progress import ProgressLine
from bertjobs.wording import counted, harmless

if TYPE_CHECKING:
    from bertjobs.data.prepare.on_slurm import SlurmArrays
    from bertjobs.data.shards.manifest import DataManifest


def register(subparsers: Any) -> None:
    """Add `data` to the command line."""
    data = subparsers.add_parser(
        "data",
        help="prepare, inspect, verify or adopt training data; train a vocabulary",
        description="Make the shards that training reads and the vocabulary that they are made with; check them.",
    )
    verbs = data.add_subparsers(metavar="VERB", required=True)
    _add_prepare(verbs)
    _add_vocab(verbs)
    add_duplicates(verbs)
    add_verbs(verbs)


def _add_prepare(verbs: Any) -> None:
    parser = verbs.add_parser(
        "prepare",
        help="text to balanced, binned shards",
        description="Split documents into sentences, encode them, draw next-sentence pairs (or cut contiguous text), "
        "and write balanced, binned shards for each phase, with held-out documents for validation. A prepare that was "
        "stopped resumes where it was when the same command is run again; a complete one is left as it is.",
        formatter_class=DefaultsShown,
        allow_abbrev=False,
    )
    needed = parser.add_argument_group("needed")
    add_corpus(needed)
    needed.add_argument(
        "--vocab",
        metavar="FILE",
        required=True,
        default=argparse.SUPPRESS,
        help="vocab.txt or WordPiece tokenizer.json of the BERT to train",
    )
    needed.add_argument("--output", metavar="DIR", required=True, default=argparse.SUPPRESS, help="folder to make")
    _add_what(parser.add_argument_group("what is made"))
    add_place_arguments(parser)
    parser.set_defaults(handler=lambda args: _prepare(parser, args))


def _add_what(group: Any) -> None:
    option = group.add_argument
    option("--phases", metavar="LIST", default="1,2",
           help="1 (128 tokens, 20 masked), 2 (512, 80), or NUMBER:TOKENS[:MASKED], separated by commas")  # fmt: skip
    option("--no-next-sentence", dest="next_sentence", action="store_false",
           help="for masked words alone: contiguous text instead of pairs, cut where a sequence is full")  # fmt: skip
    option("--across-documents", action="store_true",
           help="with --no-next-sentence: continue a sequence with another document, behind a [SEP]")  # fmt: skip
    option("--duplicates", metavar="N", type=int, default=argparse.SUPPRESS,
           help="how often each training document is used (default: 5 times, each in other pairs; 1 with "
           "--no-next-sentence)")  # fmt: skip
    option("--short-sequence-share", metavar="SHARE", type=float, default=argparse.SUPPRESS,
           help="share of the documents whose target length is drawn at random (default: 0.1; 0 with "
           "--no-next-sentence)")  # fmt: skip
    option("--sample-ratio", metavar="SHARE", type=float, default=1.0, help="share of the documents that are used")
    option("--held-out", metavar="SHARE", type=float, default=0.05,
           help="share of the documents kept for validation, at least one document")  # fmt: skip
    option("--masking", metavar="HOW", default="dynamic",
           help="dynamic (drawn anew each epoch in training) or static (stored in the shards)")  # fmt: skip
    option("--masked-share", metavar="SHARE", type=float, default=0.15,
           help="with static masking: share of the tokens that are masked; with dynamic masking the recipe's "
           "masked_share decides")  # fmt: skip
    option("--masked-units", metavar="WHAT", default="pieces",
           help="with static masking: pieces, or words with all their pieces")  # fmt: skip
    option("--cased", action="store_true", help="text is not lowercased, if no file beside the vocabulary states it")
    option("--uncased", action="store_true", help="text is lowercased, if no file beside the vocabulary states it")
    option("--strip-accents", metavar="yes|no", default="",
           help="whether accents, and vowel signs and tone marks, are stripped, if no file beside the vocabulary "
           "states it")  # fmt: skip
    option("--max-unknown-share", metavar="SHARE", type=float, default=0.05,
           help="share of a corpus's tokens, and of its characters, that may be [UNK]; above it the text is "
           "refused")  # fmt: skip
    option("--language", metavar="NAME", default="english",
           help="language of the text, by its English name or code (german, de); see --sentences")  # fmt: skip
    option("--sentences", metavar="HOW", default="auto",
           help="how sentences are split: punkt (NLTK's), unicode (at the sentence ends of all scripts), lines (each "
           "line is one), none (each paragraph is one), or auto: punkt for the languages that it was trained for, "
           "else unicode")  # fmt: skip
    option("--most-unpaired", metavar="SHARE", type=float, default=0.9,
           help="refuse a corpus if more of its pairs cannot have a true next sentence, since their documents are one "
           "short sentence")  # fmt: skip
    option("--least-used", metavar="SHARE", type=float, default=0.5,
           help="refuse a corpus if fewer of its tokens would be in the sequences")  # fmt: skip
    option("--drop-duplicates", metavar="WHICH", default="none",
           help="documents to leave out: exact (the text of an earlier one, but for white space), near (also those "
           "much like an earlier one) or none")  # fmt: skip
    add_near_options(option)
    option("--bin-size", metavar="TOKENS", type=int, default=64, help="width of a length bin in tokens")
    option("--shards", metavar="N", type=int, default=0,
           help="files per bin; 0: 8, or as many as keep a file near 64 MB")  # fmt: skip
    option("--format", metavar="NAME", default="ids",
           help="shard format: ids (token ids) or lddl (strings in Parquet, for LDDL's own loader)")  # fmt: skip
    option("--seed", metavar="N", type=int, default=42, help="the same input and seed give the same bytes")


def _add_vocab(verbs: Any) -> None:
    parser = verbs.add_parser(
        "vocab",
        help="train a WordPiece vocabulary on text",
        description="Train a WordPiece vocabulary and write it as vocab.txt, with tokenizer.json and "
        "tokenizer_config.json beside it, which state how text is normalised.",
        formatter_class=DefaultsShown,
        allow_abbrev=False,
    )
    add_corpus(parser)
    parser.add_argument("--size", metavar="TOKENS", type=int, default=30_522, help="most tokens in the vocabulary")
    parser.add_argument(
        "--output", metavar="FILE", required=True, default=argparse.SUPPRESS, help="the file to write, DIR/vocab.txt"
    )
    parser.add_argument("--cased", action="store_true", help="keep upper case and accents")
    parser.add_argument(
        "--strip-accents",
        metavar="yes|no",
        default="",
        help="strip accents (default: yes without --cased, unless the text would lose vowel signs and tone marks)",
    )
    parser.add_argument(
        "--language", metavar="NAME", default="english", help="language of the text, for the command to type next"
    )
    parser.set_defaults(handler=_vocab)


def _prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    keep_freed_memory()
    with interrupts_held():
        from bertjobs.data.prepare import DEFAULTS, PrepareOptions, ThisMachine, parse_phases, prepare
        from bertjobs.data.shards.manifest import MANIFEST_NAME, WORK_FOLDER, DataManifest

    refuse_unused_placement(args)
    names = {field.name for field in fields(PrepareOptions)}
    given = {**DEFAULTS[args.next_sentence], **{name: value for name, value in vars(args).items() if name in names}}
    phases = parse_phases(args.phases, args.masked_share)
    options = PrepareOptions(**{**given, "corpora": chosen_corpora(args), "vocabulary": args.vocab, "phases": phases})
    if args.queue and not (Path(args.output) / MANIFEST_NAME).exists():  # else nothing is left to do
        return queue_prepare(parser, args, options)
    if "SLURM_RESTART_COUNT" in os.environ:  # in a job that began before
        from bertjobs.data.prepare.queue_job import release_own_lock

        release_own_lock(Path(args.output), os.environ)
    started, progress = time.monotonic(), ProgressLine()
    try:
        with _arrays(args, progress.say) if args.slurm else ThisMachine(chosen_processes(args)) as runner:
            for note in options.chosen_vocabulary.notes:
                print(harmless(f"note: {note}"))
            made = prepare(options, progress, runner)
    except KeyboardInterrupt:
        if (Path(args.output) / WORK_FOLDER).exists():
            progress.say("interrupted: finished tasks are kept, and the same command resumes")
        raise
    if not made:
        print(harmless(f"{args.output} is already complete, with these settings, this corpus and this vocabulary"))
    _print_summary(DataManifest.read(args.output), time.monotonic() - started if made else None)
    return 0


def _arrays(args: argparse.Namespace, say: Callable[[str], None]) -> SlurmArrays:
    with interrupts_held():
        from bertjobs.data.prepare.on_slurm import SlurmArrays

    return SlurmArrays(array_options(args), os.environ, say)


def _vocab(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.data.corpus import kinds  # noqa: F401 - what reads them, which is loaded when it is used
        from bertjobs.data.text.languages import language_name
        from bertjobs.data.text.vocabulary_choice import Wishes, choose_vocabulary
        from bertjobs.data.text.vocabulary_training import train_vocabulary
        from bertjobs.slurm.shell import shell_line

    started, corpora = time.monotonic(), chosen_corpora(args)
    wishes = Wishes.of_flags(args.cased, not args.cased, args.strip_accents)
    language_name(args.language)
    notes = train_vocabulary(corpora, args.size, not args.cased, args.output, wishes.strip_accents)
    vocabulary = choose_vocabulary(args.output, wishes).vocabulary
    seconds = time.monotonic() - started
    print(harmless(f"{vocabulary.size:,} tokens, {vocabulary.normalisation}, in {seconds:.0f} s -> {args.output} "
                   f"(sha256 {vocabulary.sha256[:12]}...)"))  # fmt: skip
    for note in notes:
        print(harmless(f"note: {note}"))
    words = [word for source in corpora for word in ("--corpus", source)]
    words += ["--vocab", args.output, *(["--cased"] if args.cased else [])]
    words += ["--strip-accents", args.strip_accents] if args.strip_accents else []
    words += ["--language", args.language] if args.language != "english" else []
    print("next: " + harmless(shell_line(["bertjobs", "data", "prepare", *words])) + " --output DIR")
    return 0


def _print_oddities(data: DataManifest) -> None:
    """Print what in the corpus was not clean text or was not read, and how it was handled."""
    from bertjobs.data.corpus.unread import unread_words

    if words := unread_words(data.corpus.get("unread_files", 0), data.unread_files):
        print(harmless(f"note: {words}"))
    for name, before, noun, after in (
        ("left_out", "left out by --sample-ratio: ", "document", ""),
        ("skipped_pages", "skipped: ", "page", " of a MediaWiki dump, not wikitext"),
        ("short_paragraphs", "left out: ", "paragraph", " of a MediaWiki dump, short as titles and captions are"),
        ("with_equal_ids", "different documents share an id in ", "source", ": their text tells them apart"),
        ("empty", "skipped: ", "document", " without text"),
        ("without_id", "skipped: ", "line", ", for want of white space without an id"),
        ("replaced", "replaced by U+FFFD: ", "invalid UTF-8 sequence", ""),
        ("halves", "replaced by U+FFFD: ", "half character", " among JSON's escapes"),
        ("nul", "removed: ", "NUL byte", ""),
    ):
        count = data.corpus.get(name, 0)
        if name == "replaced":
            count -= data.corpus.get("halves", 0)
        if count:
            print(f"note: {before}{counted(count, noun)}{after}")
        files = {"nul": data.odd_files, "without_id": data.files_without_id}.get(name, {})
        if odd := list(files.items()):
            more = f", and {len(odd) - _NAMED} more files" if len(odd) > _NAMED else ""
            print(harmless("      in " + ", ".join(f"{name} ({count:,})" for name, count in odd[:_NAMED]) + more))


_NAMED = 5  # files with bytes that are not text, or with lines that are skipped


def _print_summary(data: DataManifest, seconds: float | None) -> None:
    from bertjobs.data.prepare.held_out import remark_on_share
    from bertjobs.data.prepare.pair_counts import PairCounts, remark_on
    from bertjobs.slurm.shell import shell_line

    documents = data.documents
    print(f"{counted(documents['train'], 'document')} for training, {documents['validation']:,} held out")
    print(f"sentences: {data.settings.get('sentences', 'punkt')}, language {data.settings['language']}")
    size = count = 0
    for number, phase in sorted(data.phases.items()):
        for name in ("train", "validation"):
            split = phase.split(name)
            size += sum(file.bytes for file in split.files)
            count += len(split.files)
            mean = split.tokens / max(1, split.rows)
            used = f", {PairCounts(**split.pairs).used_share:.1%} of the text's tokens used" if split.pairs else ""
            print(f"phase {number} {name + ':':<11} {split.rows:>11,} sequences, mean {mean:.0f} of "
                  f"{phase.sequence_length} tokens{used}")  # fmt: skip
    if not data.next_sentence:
        across = "across documents" if data.settings.get("across_documents") else "each within a document"
        print(f"sequences of contiguous text, {across}, for masked words alone")
    if data.masking == "static":
        print(f"masked: {data.settings['masked_share']:.0%} of the tokens, stored in the shards")
    else:
        print("masked: in training, drawn anew each epoch")
    _print_oddities(data)
    if remark := remark_on_share(data):
        print(f"note: {remark}")
    for number, phase in sorted(data.phases.items()):
        if remark := remark_on(number, PairCounts(**phase.train.pairs)):
            print(f"note: {remark}")
    for line in source_lines(data):
        print(harmless(line))
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    print(f"{count} files, {size / 1e6:.1f} MB{took} -> {harmless(str(data.folder))}")
    run = ["--recipe", "NAME", "--data", str(data.folder), *run_sets(data.settings)]
    print("next: " + harmless(shell_line(["bertjobs", "submit", *run])))
