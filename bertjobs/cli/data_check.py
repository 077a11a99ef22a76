"""`bertjobs data inspect`, `verify` and `adopt`: shards that exist already."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.data_sources import source_lines
from bertjobs.cli.interrupts import interrupts_held
from bertjobs.errors import EXIT_BAD_INPUT, InputError
from bertjobs.wording import harmless, right_aligned

if TYPE_CHECKING:
    from bertjobs.data.check.histogram import BinLengths
    from bertjobs.data.check.inspect import Inspection
    from bertjobs.data.check.samples import Sample
    from bertjobs.data.check.target import CheckTarget, TargetPart
    from bertjobs.data.shards.manifest import DataManifest, Split

_WIDTH = 110  # characters of a line of text
_SHARED = "LDDL's balancer spreads the pairs drawn from a document over several\n  shards, so held-out numbers are " \
          "optimistic: some of their documents were trained on"  # fmt: skip
_APART = "LDDL draws all of a document's pairs into one part, so their documents\n  were not trained on"
_SHOWN = 20  # problems of a part that are printed


def add_verbs(verbs: Any) -> None:
    """Add the three to `bertjobs data`."""
    _add_inspect(verbs)
    _add_verify(verbs)
    _add_adopt(verbs)


def _add_inspect(verbs: Any) -> None:
    parser = verbs.add_parser(
        "inspect",
        help="show what is in shards, and what is wrong with them",
        description="Show a data folder or one of its shards in readable form: counts, lengths, masks, some "
        "sequences in words, and what is wrong. Reads all rows. Exit code 64 if something is wrong.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("path", metavar="PATH", help="a data folder, or a shard of either format")
    option("--phase", metavar="N", type=int, help="phase of a data folder (default: all)")
    option("--split", choices=("train", "validation"), help="split of a data folder (default: both)")
    option("--vocab", metavar="FILE", help="the vocabulary of a shard that is not in a data folder")
    option("--samples", metavar="N", type=int, default=3, help="how many sequences of each phase to show (default: 3)")
    option("--seed", metavar="N", type=int, default=0,
           help="seed for choosing samples and, as a run's seed, for their dynamic masks (default: 0)")  # fmt: skip
    option("--histogram", metavar="FILE.png", help="write the lengths, and the counts of each source, to this picture")
    _add_json(parser)
    parser.set_defaults(handler=_inspect)


def _add_verify(verbs: Any) -> None:
    parser = verbs.add_parser(
        "verify",
        help="check every file of a data folder against its manifest",
        description="Read all files of a data folder and compare sizes, sha256 and vocabulary with its manifest. "
        "Exit code 64 if a file is altered, missing or unknown.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a data folder")
    _add_processes(parser)
    _add_json(parser)
    parser.set_defaults(handler=_verify)


def _add_adopt(verbs: Any) -> None:
    parser = verbs.add_parser(
        "adopt",
        help="make a data folder of LDDL's Parquet shards, or of the HDF5 files of NVIDIA's earlier scripts",
        description="Make a data folder of LDDL's Parquet files, balanced or not, with or without length bins or "
        "static masks: they are hashed and counted, and stay as they are. Or of HDF5 files of "
        "create_pretraining_data.py, which are converted to shards of token ids with the same static masks.",
        allow_abbrev=False,
    )
    needed, option = parser.add_argument_group("needed"), parser.add_argument
    option("folder", metavar="FOLDER", nargs="?", help="the folder of phase 1, where --phase is not given")
    option("--from", dest="form", choices=("lddl", "hdf5"), default="lddl", help="what is adopted (default: lddl)")
    option("--phase", metavar="N=DIR", action="append", default=[], help="the folder of a phase; once for each phase")
    needed.add_argument("--vocab", metavar="FILE", required=True, help="the vocabulary that the files were made with")
    needed.add_argument("--output", metavar="DIR", required=True, help="folder to make")
    option("--held-out-shards", metavar="K", type=int, default=1,
           help="the last K shards of each length bin (hdf5: the last K files, unless some are named as test files) "
           "become the validation split (default: 1)")  # fmt: skip
    option("--sequence-length", metavar="N=TOKENS", action="append", default=[],
           help="sequence length of a phase, if the rows of its Parquet files do not show it")  # fmt: skip
    option("--cased", action="store_true", help="text was not lowercased, if no file beside the vocabulary states it")
    option("--uncased", action="store_true", help="text was lowercased, if no file beside the vocabulary states it")
    option("--strip-accents", metavar="yes|no", default="",
           help="whether accents were stripped, if no file beside the vocabulary states it")  # fmt: skip
    option("--link", choices=("symlink", "copy"), default="symlink",
           help="leave LDDL's shards where they are, or copy them (default: symlink)")  # fmt: skip
    _add_processes(parser)
    _add_json(parser)
    parser.set_defaults(handler=_adopt)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", metavar="N", type=int, default=0,
                        help="files read at a time (default: one per core)")  # fmt: skip


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.data.check.inspect import inspect_target
        from bertjobs.data.check.target import find_target

    if args.samples < 0:
        raise InputError(f"{args.samples} is too small: at least 0", where="--samples")
    _print_any_text()
    target = find_target(Path(args.path), args.vocab and Path(args.vocab), args.phase, args.split)
    inspections = inspect_target(target, ReadingLine("inspect"))
    samples = {part.name: _samples(target, part, args) for part in target.parts}
    wrong = sum(len(one.wrong) for one in inspections.values())
    if args.json:
        print(json.dumps(_as_json(target, inspections, samples), indent=2, ensure_ascii=False))
    else:
        _print_header(args.path, target)
        for part in target.parts:
            _print_part(part, inspections[part.name], samples[part.name], args.seed)
    if args.histogram:
        _draw(args, target, {part.name: _bins(part, inspections[part.name]) for part in target.parts})
    if not args.json:
        print(f"\nwrong: {wrong} problem{'s' * (wrong != 1)}, see above" if wrong else "\nnothing is wrong")
        _print_next(args, target)
    return EXIT_BAD_INPUT if wrong else 0


def _samples(target: CheckTarget, part: TargetPart, args: argparse.Namespace) -> list[Sample]:
    from bertjobs.data.check.inspect import read_samples

    if (
        part.split == "validation" and len(target.parts) > 1 and not args.split
    ):  # of a whole folder, samples of the training data are enough
        return []
    return read_samples(target, part, args.samples, args.seed)


def _bins(part: TargetPart, inspection: Inspection) -> list[BinLengths]:
    from bertjobs.data.check.histogram import BinLengths
    from bertjobs.data.check.target import length_range

    bins = sorted(inspection.bins.items())
    if len(part.shards) == 1:
        bins = [(number, facts) for number, facts in bins if number == part.shards[0].bin]
    ranges = {number: length_range(number, part.expected) for number, _ in bins}
    if not part.expected.sequence_length:
        ranges = {number: (least, max(least, len(facts.lengths) - 1))
                  for (number, facts), (least, _) in zip(bins, ranges.values(), strict=True)}  # fmt: skip
    return [BinLengths(number, *ranges[number], facts.lengths) for number, facts in bins]


def _draw(args: argparse.Namespace, target: CheckTarget, parts: dict[str, list[BinLengths]]) -> None:
    from bertjobs.data.check.histogram import picture
    from bertjobs.files.faults import not_written

    sources = target.data.sources if target.data else ()
    title = f"{args.path}: {'sources, and ' if sources else ''}lengths of the sequences"
    content = picture(title, parts, sources)
    try:
        Path(args.histogram).write_bytes(content)
    except OSError as error:
        raise not_written(args.histogram, error, "--histogram") from error


def _print_header(path: str, target: CheckTarget) -> None:
    data, expected = target.data, target.parts[0].expected
    form = "token ids" if expected.shard_format == "ids" else "LDDL strings"
    print(f"{harmless(path)}: {form} ({expected.shard_format})")
    vocabulary = target.vocabulary
    stated = f"{vocabulary.normalisation}, " if data is not None else ""  # of a lone shard nothing states it
    print(f"vocabulary  {vocabulary.size:,} tokens, {stated}sha256 {vocabulary.sha256[:12]}...")
    if data is not None:
        print(f"manifest    sha256 {data.sha256[:12]}...")
        words = ", ".join(f"{name} {_value(value)}" for name, value in data.settings.items())
        lines = textwrap.wrap(words, _WIDTH - 12, break_on_hyphens=False, break_long_words=False)
        print("\n".join(f"{'' if place else 'settings':<12}{harmless(line)}" for place, line in enumerate(lines)))
    if target.metadata:
        pairs = ((name, f"{text[:12]}..." if "sha256" in name else text) for name, text in target.metadata.items())
        print(harmless("file        " + ", ".join(f"{name} {text}" for name, text in pairs)))
    if data is not None and (lines := source_lines(data)):
        print("\n" + "\n".join(map(harmless, lines)))


def _value(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    return " ".join(":".join(map(str, one)) if isinstance(one, list) else str(one) for one in value)


def _print_part(part: TargetPart, inspection: Inspection, samples: list[Sample], seed: int) -> None:
    from bertjobs.data.check.histogram import text_bars

    total = inspection.total
    print(f"\n{part.name}")
    rows = [["", "files", "sequences", "tokens", "MB", "mean", "padding", "random next", "[UNK]"]]
    listed = [(f"bin {number}", facts) for number, facts in sorted(inspection.bins.items()) if facts.files]
    for name, facts in [*listed, *([("all", total)] if len(listed) != 1 else [])]:
        rows.append([
            f"  {name}", f"{facts.files:,}", f"{facts.rows:,}", f"{facts.tokens:,}", f"{facts.bytes / 1e6:.1f}",
            f"{facts.mean_length:.1f}", _share(facts.padding, facts.tokens + facts.padding),
            _share(facts.random_next, facts.pairs), _share(facts.unknown, facts.tokens, 3),
        ])  # fmt: skip
    print("\n".join(right_aligned(rows)))
    if total.masked:
        as_mask, as_random, as_kept = (_share(count, total.masked) for count in
                                       (total.as_mask, total.as_random, total.as_kept))  # fmt: skip
        print(f"  masked: {_share(total.masked, total.tokens)} of the tokens, stored; of these {as_mask} [MASK], "
              f"{as_random} another token, {as_kept} kept")  # fmt: skip
    if total.rows:
        same = "the A and B" if total.pairs else "the text"
        print(f"  repeated: {inspection.repeated:.2%} of the sequences repeat {same} of an earlier one")
        print("  lengths, in tokens with [CLS] and [SEP]:")
        print("\n".join("  " + line for line in text_bars(_bins(part, inspection))))
    _print_samples(samples, _how_masked(part, stored=total.masked > 0, seed=seed))
    if samples and (inspection.wrong or inspection.remarks):
        print()
    for name, what in inspection.wrong[:_SHOWN]:
        print(harmless(f"  WRONG  {name + ': ' if name else ''}{what}"))
    if len(inspection.wrong) > _SHOWN:
        print(f"  WRONG  and {len(inspection.wrong) - _SHOWN} more; --json shows all")
    for remark in inspection.remarks:
        print(harmless(f"  note   {remark}"))


def _how_masked(part: TargetPart, *, stored: bool, seed: int) -> str:
    if stored:
        return "as stored"
    if not part.split:
        return "an example (they are drawn anew each epoch)"
    return f"as a run with seed {seed} draws them {'each time' if part.split == 'validation' else 'in epoch 0'}"


def _print_samples(samples: list[Sample], how: str) -> None:
    if not samples:
        return
    print(f"  samples; masks {how}, [original→what the model sees]:")
    for sample in samples:
        following = {None: "", True: ", random next", False: ", follows"}[sample.is_random_next]
        counts = f"{sample.num_tokens} tokens, {sample.masks} masked"
        print(f"\n  {harmless(sample.shard)} row {sample.row}: {counts}{following}")
        for name, text in [(" ", sample.a)] if sample.b is None else [("A", sample.a), ("B", sample.b)]:
            print(textwrap.fill(harmless(text), _WIDTH, initial_indent=f"    {name}  ", subsequent_indent=" " * 7,
                                break_on_hyphens=False))  # fmt: skip


def _print_next(args: argparse.Namespace, target: CheckTarget) -> None:
    from bertjobs.slurm.shell import shell_line

    folder = str(target.data.folder) if target.data else None
    if folder == args.path and not args.histogram:
        again = ["bertjobs", "data", "inspect", args.path, "--histogram", "lengths.png"]
        print("next: " + harmless(shell_line(again)))
    if folder is not None:
        print("next: " + harmless(shell_line(["bertjobs", "data", "verify", folder])))


def _as_json(
    target: CheckTarget, inspections: dict[str, Inspection], samples: dict[str, list[Sample]]
) -> dict[str, Any]:
    data, vocabulary = target.data, target.vocabulary
    content: dict[str, Any] = {
        "shard_format": target.parts[0].expected.shard_format,
        "vocabulary": vocabulary.facts(),
        "metadata": target.metadata,
    }
    if data is not None:
        content |= {"folder": str(data.folder), "manifest_sha256": data.sha256, "settings": data.settings}
        content["sources"] = [counts.as_json() for counts in data.sources]
        content["duplicates"] = data.duplicates.as_json() if data.duplicates else {}
    content["parts"] = {
        name: {
            "total": one.total.as_json(),
            "bins": {str(number): facts.as_json() for number, facts in sorted(one.bins.items())},
            "repeated_share": one.repeated,
            "samples": [vars(sample) for sample in samples[name]],
            "wrong": [{"file": file, "what": what} for file, what in one.wrong],
            "remarks": list(one.remarks),
        }
        for name, one in inspections.items()
    }
    return content


def _verify(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.data.check.verify import verify
        from bertjobs.data.shards.manifest import SPLITS, DataManifest
        from bertjobs.slurm.shell import shell_line

    data = DataManifest.read(args.folder)
    files = [file for phase in data.phases.values() for split in SPLITS for file in phase.split(split).files]
    started = time.monotonic()
    bad = verify(data, chosen_processes(args), ReadingLine("verify"))
    seconds = time.monotonic() - started
    size = sum(file.bytes for file in files)
    if args.json:
        content = {"folder": args.folder, "manifest_sha256": data.sha256, "manifest_has_hash": data.has_hash,
                   "files": len(files), "bytes": size, "wall_time_s": seconds,
                   "wrong": [vars(one) for one in bad]}  # fmt: skip
        print(json.dumps(content, indent=2))
        return EXIT_BAD_INPUT if bad else 0
    for one in bad:
        print(harmless(f"{one.path}: expected {one.expected}, found {one.found}"))
    print(f"{len(files)} shards, {size / 1e6:,.1f} MB in {seconds:.1f} s; manifest sha256 {data.sha256}")
    if bad:
        print(f"wrong: {len(bad)} file{'s' * (len(bad) != 1)}")
        return EXIT_BAD_INPUT
    print("all files match the manifest")
    if not data.has_hash:
        print("note: an older version wrote the manifest, without a hash of itself: damage to it is not always noticed")
    print("next: " + harmless(shell_line(["bertjobs", "data", "inspect", args.folder])))
    return 0


def _adopt(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.cli.data_adopt import adopt_hdf5, adopt_lddl, print_notes
        from bertjobs.cli.data_prepare import run_sets
        from bertjobs.slurm.shell import shell_line

    progress = ReadingLine("adopt")
    data = adopt_hdf5(args, progress) if args.form == "hdf5" else adopt_lddl(args, chosen_processes(args), progress)
    if args.json:
        print(json.dumps(_adopted(data, args), indent=2))
        return 0
    print_notes(args)
    for number, phase in sorted(data.phases.items()):
        for name in ("train", "validation"):
            split = phase.split(name)
            mean = split.tokens / max(1, split.rows)
            print(f"phase {number} {name + ':':<11} {split.rows:>11,} sequences, mean {mean:.0f} of "
                  f"{phase.sequence_length} tokens, {len(split.files)} files")  # fmt: skip
    share, how = data.settings["masked_share"], "stored" if data.masking == "static" else "drawn anew each epoch"
    print(f"masked: {share:.1%} of the tokens, {how}")
    if args.form == "hdf5":
        names = sorted({Path(path).name for path in data.settings["held_out_files"]})
        print(harmless(f"held out: {', '.join(names[:5])}{' and more' * (len(names) > 5)}"))
    else:
        print(f"held out: the last {args.held_out_shards} of each bin's files; "
              + (_SHARED if data.settings["balanced"] else _APART))  # fmt: skip
    print(f"-> {harmless(args.output)}")
    print("next: " + harmless(shell_line(["bertjobs", "data", "inspect", args.output])))
    run = ["--recipe", "NAME", "--data", args.output, *run_sets(data.settings)]
    print("next: " + harmless(shell_line(["bertjobs", "submit", *run])))
    return 0


def _adopted(data: DataManifest, args: argparse.Namespace) -> dict[str, Any]:
    def counts(split: Split) -> dict[str, int]:
        size = sum(file.bytes for file in split.files)
        return {"files": len(split.files), "bytes": size, "rows": split.rows, "tokens": split.tokens}

    return {
        "folder": args.output,
        "manifest_sha256": data.sha256,
        "masking": data.masking,
        "masked_share": data.settings["masked_share"],
        "held_out_shards": args.held_out_shards,
        "held_out_files": data.settings.get("held_out_files", []),
        "balanced": data.settings.get("balanced", False),
        "phases": [
            {"phase": number, "sequence_length": phase.sequence_length, "train": counts(phase.train),
             "validation": counts(phase.validation)}
            for number, phase in sorted(data.phases.items())
        ],
    }  # fmt: skip


def chosen_processes(args: argparse.Namespace) -> int:
    """What ``--processes`` asks for; one per core by default."""
    if args.processes < 0:
        raise InputError(f"{args.processes} is too small: at least 1, or 0 for one per core", where="--processes")
    return args.processes or len(os.sched_getaffinity(0))


def _share(part: int, whole: int, decimals: int = 1) -> str:
    return f"{part / whole:.{decimals}%}" if whole else "-"


def _print_any_text() -> None:
    """Let words of any language be printed on a terminal of another encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class ReadingLine:
    """One line on stderr with the bytes read so far and the rate; on a terminal it rewrites itself."""

    def __init__(self, what: str) -> None:
        self._what, self._began, self._shown = what, time.monotonic(), 0.0

    def __call__(self, done: int, total: int) -> None:
        now, finished = time.monotonic(), done >= total
        if not (finished or (sys.stderr.isatty() and now - self._shown > 0.1)):
            return
        self._shown = now
        rate = f"  {done / 1e6 / (now - self._began):,.0f} MB/s" if now > self._began else ""
        start, end = ("\r\033[K", "\n" if finished else "") if sys.stderr.isatty() else ("", "\n")
        print(f"{start}{self._what}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB{rate}", end=end, file=sys.stderr,
              flush=True)  # fmt: skip
