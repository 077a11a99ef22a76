"""The tasks of `finetune.py`: real text from packages, written as the files that `bertjobs finetune` reads."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import speeches

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
from news_topics import articles

FILMS = "vaderSentiment==3.3.2"
PASSAGE = 250
"""Characters of an article that are ranked: with more, neither learns in the steps that a CPU has time for."""


@dataclass(frozen=True)
class Settings:
    """How much of a task is used, and how it is trained.

    Attributes:
        train, dev: examples at most (of ranking: articles); 0 for all.
        lr: the highest learning rate.
    """

    train: int
    dev: int
    lr: float


SETTINGS = {
    "movies": Settings(0, 500, 5e-5),
    "news": Settings(800, 500, 2e-4),
    "punctuation": Settings(2500, 300, 5e-4),
    "cloze": Settings(800, 300, 2e-4),
    "ranking": Settings(400, 50, 3e-4),
}


def fetched(work: Path) -> Path:
    """The source archive of the films' package, downloaded once."""
    for archive in work.glob("vaderSentiment-*.tar.gz"):
        return archive
    words = ["download", "-q", "--no-deps", "--no-binary", ":all:", FILMS, "-d", str(work)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return fetched(work)


def split_of(lines: list[Any], settings: Settings) -> dict[str, list[Any]]:
    """Train and dev, shuffled the same way every time."""
    random.Random(7).shuffle(lines)
    return {"train": lines[settings.dev :][: settings.train or None], "dev": lines[: settings.dev]}


def write_movies(data: Path, settings: Settings) -> list[str]:
    with tarfile.open(fetched(data.parent)) as outer:
        inner = next(member for member in outer.getmembers() if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            (file,) = [m for m in archive.getmembers() if m.name.endswith("movieReviewSnippets_GroundTruth.txt")]
            text = archive.extractfile(file).read().decode("utf-8", "replace")  # type: ignore[union-attr]
    lines = [parts for line in text.splitlines() if len(parts := line.split("\t")) == 3]
    made = [{"text": text, "label": "positive" if float(mean) > 0 else "negative"} for _, mean, text in lines]
    return _write_sentences(data, split_of(made, settings))


def write_news(data: Path, settings: Settings) -> list[str]:
    made = [{"text": f"{title}. {body}", "label": topic} for topic, title, body in articles()]
    return _write_sentences(data, split_of(made, settings))


def _write_sentences(data: Path, splits: dict[str, list[dict[str, str]]]) -> list[str]:
    data.mkdir(exist_ok=True)
    for split, lines in splits.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--task", "sentences"]


def sentences() -> Iterator[list[str]]:
    """The sentences of each paragraph of the speeches."""
    for speech in sorted(speeches().glob("*.txt")):
        for paragraph in speech.read_text(encoding="utf-8").split("\n"):
            split = re.split(r"(?<=[.?!]) +(?=[A-Z])", " ".join(paragraph.split()))
            if len(split) > 1:
                yield split


def write_punctuation(data: Path, settings: Settings) -> list[str]:
    """Words without punctuation and capitals, each with what follows it: O, COMMA, PERIOD or QUESTION."""
    marks = {",": "COMMA", ".": "PERIOD", ";": "PERIOD", ":": "COMMA", "?": "QUESTION", "!": "PERIOD"}
    made = []
    for paragraph in sentences():
        tokens = [
            (word.strip(".,;:?!\"'()-").lower(), marks.get(word[-1], "O")) for word in " ".join(paragraph).split()
        ]
        tokens = [(word, mark) for word, mark in tokens if word]
        made += [tokens[first : first + 60] for first in range(0, len(tokens), 60)]
    data.mkdir(exist_ok=True)
    for split, chunks in split_of([chunk for chunk in made if len(chunk) > 10], settings).items():
        blocks = ["".join(f"{word}\t{mark}\n" for word, mark in chunk) for chunk in chunks]
        (data / f"{split}.txt").write_text("\n".join(blocks))
    return ["--task", "tagging", "--train", str(data / "train.txt"), "--dev", str(data / "dev.txt")]


def write_cloze(data: Path, settings: Settings) -> list[str]:
    """A sentence with a name left out; the name stands in the sentences before it."""
    made = []
    for paragraph in sentences():
        for place in range(1, len(paragraph)):
            context = " ".join(paragraph[max(0, place - 3) : place])
            names = [m[0] for m in re.finditer(r"(?<=[a-z,] )[A-Z][a-z]{3,}(?: [A-Z][a-z]+)*", paragraph[place])]
            for name in names[:1]:
                start = context.find(name)
                if start >= 0:
                    asked = paragraph[place].replace(name, "what", 1)
                    made.append({"question": asked, "context": context, "text": name, "start": start})
    data.mkdir(exist_ok=True)
    for split, chosen in split_of(made, settings).items():
        paragraphs = [
            {"context": one["context"], "qas": [{"id": f"{split}-{number}", "question": one["question"],
             "answers": [{"text": one["text"], "answer_start": one["start"]}]}]}
            for number, one in enumerate(chosen)
        ]  # fmt: skip
        content = {"version": "1.1", "data": [{"title": "speeches", "paragraphs": paragraphs}]}
        (data / f"{split}-v1.1.json").write_text(json.dumps(content))
    return ["--task", "squad1", "--option", "stride=32", "--option", "max_query=48"]


def write_ranking(data: Path, settings: Settings) -> list[str]:
    """The article of a headline among 20, half of them of its topic."""
    splits = split_of(articles(), settings)
    chooser = random.Random(11)
    data.mkdir(exist_ok=True)
    triples = []
    for topic, title, body in splits["train"]:
        same = [one for one in splits["train"] if one[0] == topic and one[1] != title]
        triples += [f"{title}\t{body[:PASSAGE]}\t{chooser.choice(same)[2][:PASSAGE]}\n" for _ in range(2)]
    (data / "triples.train.small.tsv").write_text("".join(triples))
    numbered = list(enumerate(splits["dev"]))
    candidates, judged = [], []
    for number, (topic, title, body) in numbered:
        same = [other for other, one in numbered if one[0] == topic and other != number]
        rest = [other for other, one in numbered if one[0] != topic]
        chosen = chooser.sample(same, min(10, len(same))) + chooser.sample(rest, 9)
        texts = dict(numbered)
        pool = [(number, body), *((other, texts[other][2]) for other in chosen)]
        chooser.shuffle(pool)
        candidates += [f"{number}\t{other}\t{title}\t{text[:PASSAGE]}\n" for other, text in pool]
        judged.append(f"{number}\t0\t{number}\t1\n")
    (data / "top1000.dev").write_text("".join(candidates))
    (data / "qrels.dev.small.tsv").write_text("".join(judged))
    return ["--task", "ranking"]


WRITERS: dict[str, Callable[[Path, Settings], list[str]]] = {
    "movies": write_movies,
    "news": write_news,
    "punctuation": write_punctuation,
    "cloze": write_cloze,
    "ranking": write_ranking,
}
