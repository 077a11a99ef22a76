"""Flips single bits in the files of data folders, and counts what `bertjobs data verify` and `inspect` make of it.

    .venv/bin/python benchmarks/flipped_bits.py [--flips 2500] [--seed 1] [FOLDER ...]

Without a FOLDER, four small ones are made: token ids and LDDL's strings, with a vocab.txt and with a tokenizer.json.
The flips are spread evenly over the files of a folder, small or large, each at a random place, one at a time; the bit
is flipped back. The exit status is 1 if one went unnoticed, or ended in an error other than the typed one.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjobs.data.check.inspect import inspect_target
from bertjobs.data.check.target import find_target
from bertjobs.data.check.verify import verify
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="data folders; they are copied first")
    parser.add_argument("--flips", type=int, default=2500, help="per folder")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.folders or made(Path(scratch)):
            counts = flip(folder, args.flips, args.seed)
            shown = ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()))
            print(f"{folder.name}: {args.flips:,} flips: {shown}", flush=True)
            wrong += args.flips - counts["verify noticed"] + counts["inspect failed"]
    sys.exit(wrong > 0)


def made(scratch: Path) -> Iterator[Path]:
    """Small data folders of each kind."""
    draw = random.Random(5)
    words = ["".join(draw.choices("aeioustrnlm", k=draw.randint(2, 9))) for _ in range(300)]
    (scratch / "corpus").mkdir()
    for number in range(12):
        sentences = (" ".join(draw.choices(words, k=draw.randint(4, 20))) for _ in range(40))
        (scratch / "corpus" / f"{number}.txt").write_text("\n".join(f"The {sentence}." for sentence in sentences))
    tokens = scratch / "vocab.txt"
    train_vocabulary([f"text:{scratch / 'corpus'}"], 300, True, tokens)
    tokenizer = scratch / "tokenizer.json"
    tokenizer.write_text(Vocabulary.read(tokens).tokenizer().to_str())
    for form in ("ids", "lddl"):
        for vocabulary in (tokens, tokenizer):
            output = scratch / f"{form}, {vocabulary.name}"
            options = PrepareOptions((f"text:{scratch / 'corpus'}",), str(vocabulary), str(output), (PHASES[1],),
                                     duplicates=1, shards=2, held_out=0.2, masking="static", format=form)  # fmt: skip
            prepare(options, lambda *_: None)
            yield output


def flip(folder: Path, flips: int, seed: int) -> Counter[str]:
    """How many flips were noticed, went unnoticed or ended in an untyped error, in a copy of a folder."""
    draw, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "data", symlinks=False))
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
        for number in range(flips):
            path = files[number % len(files)]
            place, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
            with flipped(path, place, bit):
                outcome = after_verify(copy)
                counts[f"verify {outcome}"] += 1
                counts[f"inspect {after_inspect(copy)}"] += 1
            if outcome != "noticed":
                print(f"bit {bit} of byte {place} of {path.relative_to(copy)}: {outcome}", file=sys.stderr)
    return counts


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """A file with one bit flipped, within the block."""
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    try:
        yield
    finally:
        path.write_bytes(content)


def after_verify(folder: Path) -> str:
    """What `data verify` makes of a folder: "noticed", "missed", or "failed" without a typed error."""
    try:
        return "noticed" if verify(DataManifest.read(folder), 1, lambda *_: None) else "missed"
    except InputError:
        return "noticed"
    except Exception as error:  # any other error is what is counted
        print(f"verify: {type(error).__name__}: {error}", file=sys.stderr)
        return "failed"


def after_inspect(folder: Path) -> str:
    """What `data inspect` makes of a folder; it does not hash small files, so it may miss a flip."""
    try:
        inspections = inspect_target(find_target(folder), lambda *_: None)
        return "noticed" if any(one.wrong for one in inspections.values()) else "missed"
    except InputError:
        return "noticed"
    except Exception as error:
        print(f"inspect: {type(error).__name__}: {error}", file=sys.stderr)
        return "failed"


if __name__ == "__main__":
    main()
