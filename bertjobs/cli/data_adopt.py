"""`bertjobs data adopt`: from its arguments to what is adopted."""

from __future__ import annotations

import argparse
from pathlib import Path

from bertjobs.data.prepare import adopt
from bertjobs.data.prepare import adopt_hdf5 as hdf5
from bertjobs.data.prepare.adopt import Progress
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary_choice import Wishes, choose_vocabulary
from bertjobs.errors import InputError
from bertjobs.wording import harmless


def _phase_folders(args: argparse.Namespace) -> dict[int, Path]:
    if bool(args.folder) == bool(args.phase):
        what = "the folder is given twice" if args.folder else "no folder is given"
        raise InputError(what, where="FOLDER or --phase",
                         hint="give FOLDER for phase 1 alone, or --phase N=DIR for each phase")  # fmt: skip
    given = [f"1={args.folder}"] if args.folder else args.phase
    return {number: Path(folder) for number, folder in _numbered(given, "--phase", "1=DIR").items()}


def _wishes(args: argparse.Namespace) -> Wishes:
    return Wishes.of_flags(args.cased, args.uncased, args.strip_accents)


def print_notes(args: argparse.Namespace) -> None:
    """Print what a person should know of the vocabulary."""
    for note in choose_vocabulary(args.vocab, _wishes(args)).notes:
        print(harmless(f"note: {note}"))


def adopt_lddl(args: argparse.Namespace, threads: int, progress: Progress) -> DataManifest:
    """Adopt LDDL's Parquet files."""
    options = adopt.AdoptOptions(
        phases=_phase_folders(args),
        vocabulary=Path(args.vocab),
        output=Path(args.output),
        held_out_shards=args.held_out_shards,
        sequence_lengths={number: _whole(text) for number, text in
                          _numbered(args.sequence_length, "--sequence-length", "1=128").items()},
        wishes=_wishes(args),
        link=args.link,
    )  # fmt: skip
    return adopt.adopt(options, threads, progress)


def adopt_hdf5(args: argparse.Namespace, progress: Progress) -> DataManifest:
    """Adopt the HDF5 files of NVIDIA's earlier scripts."""
    for flag, given in (("--sequence-length", args.sequence_length), ("--link", args.link != "symlink")):
        if given:
            raise InputError(f"{flag} is for LDDL's files; HDF5 files are converted", where=flag, hint="leave it out")
    options = hdf5.Hdf5Options(
        phases=_phase_folders(args),
        vocabulary=Path(args.vocab),
        output=Path(args.output),
        held_out_files=args.held_out_shards,
        wishes=_wishes(args),
    )
    return hdf5.adopt_hdf5(options, progress)


def _numbered(texts: list[str], flag: str, example: str) -> dict[int, str]:
    """A dictionary of ``N=VALUE`` words."""
    values: dict[int, str] = {}
    for text in texts:
        number, separator, value = text.partition("=")
        if not number.isdecimal() or not int(number) or not separator or not value:
            raise InputError(
                f"{text!r} is not a phase and its value", where=flag, hint=f"for instance {flag} {example}"
            )
        if int(number) in values:
            raise InputError(f"phase {number} is given twice", where=flag)
        values[int(number)] = value
    return values


def _whole(text: str) -> int:
    if not text.isdecimal() or not 3 < int(text) < 1 << 16:
        raise InputError(
            f"{text!r} is not a number of tokens from 4 to 65535", where="--sequence-length", hint="for instance 1=128"
        )
    return int(text)
