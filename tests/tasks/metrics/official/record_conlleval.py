"""Writes conlleval.json: tags, and what the original conlleval.pl prints about them.

    pip download --no-deps --no-binary seqeval seqeval==1.2.2 && tar xzf seqeval-1.2.2.tar.gz
    python -m tests.tasks.metrics.official.record_conlleval seqeval-1.2.2/tests

The first entry is the tags of the fixture beside the script there (MIT licence), the others are random.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).parent / "conlleval.json"
TAGS = {
    "random tags": [f"{kind}-{entity}" for kind in "BI" for entity in ("PER", "LOC", "A-B")] + ["O"] * 3,
    "random tags of one type": ["B-X", "I-X", "O"],
    "random tags without types": ["B", "I", "O"],
}

Sentences = list[tuple[list[str], list[str]]]


def main(folder: Path) -> None:
    entries = []
    for name, sentences in inputs(folder):
        lines = ["".join(f"word {gold} {guess}\n" for gold, guess in zip(*both, strict=True)) for both in sentences]
        command = ["perl", str(folder / "conlleval.pl")]
        printed = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True).stdout
        tags = [[" ".join(gold), " ".join(guess)] for gold, guess in sentences]
        entries.append({"name": name, "printed": printed.splitlines(), "sentences": tags})
    FILE.write_text(json.dumps(entries, indent=0) + "\n", encoding="utf-8")


def inputs(folder: Path) -> Iterator[tuple[str, Sentences]]:
    text = (folder / "data" / "ground_truth.txt").read_text(encoding="utf-8")
    rows = [[line.split()[-2:] for line in block.splitlines()] for block in text.split("\n\n") if block.strip()]
    yield "the fixture", [([row[0] for row in block], [row[1] for row in block]) for block in rows]
    generator = random.Random(0)
    for name, tags in TAGS.items():
        for part in range(3):
            yield f"{name}, {part}", [_sentence(generator, tags) for _ in range(12)]


def _sentence(generator: random.Random, tags: list[str]) -> tuple[list[str], list[str]]:
    gold = generator.choices(tags, k=generator.randint(1, 12))
    return gold, [tag if generator.random() < 0.6 else generator.choice(tags) for tag in gold]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
