"""Writes squad.json: answers, and what functions of SQuAD's official scripts say of them.

    pip download --no-deps allennlp-models==2.10.1 jiant==2.2.0, and unpack the wheels into FOLDER
    python -m tests.tasks.metrics.official.record_squad FOLDER

allennlp-models and jiant keep the official functions of 2.0 (normalisation, scores, thresholds). They are taken out of
their files, since the packages themselves need older versions of others.
"""

from __future__ import annotations

import ast
import collections
import json
import random
import re
import string
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "squad.json"
WORDS = [
    "the",
    "a",
    "an",
    "The",
    "Harry",
    "likes",
    "sushi,",
    "pie!",
    "U.S.",
    "12%",
    "of",
    "Éa",
    "—",
    "…",
    "?",
    "on-line",
]


def main(folder: Path) -> None:
    v2 = functions(folder / "allennlp_models/rc/tools/squad.py")
    v2 |= functions(folder / "jiant/tasks/lib/templates/squad_style/utils.py", "find_best_thresh")
    generator = random.Random(0)
    pairs = [[text(generator), text(generator)] for _ in range(80)] + [["", ""], ["the", "a"], ["a", "!"], ["", "the"]]
    measured = [
        {
            "normalised": v2["normalize_answer"](predicted),
            "exact": v2["compute_exact"](predicted, gold),
            "f1": v2["compute_f1"](predicted, gold),
        }
        for predicted, gold in pairs
    ]
    files = [questions(generator, distinct=number < 3) for number in range(6)]
    for file in files:
        file["official"] = official(v2, file)
    record = {"pairs": pairs, "measured": measured, "files": files}
    FILE.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def functions(file: Path, *names: str) -> dict[str, Any]:
    """Functions of a file without what the file imports; all of them if none is named."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and (node.name in names or not names)]
    for function in tree.body:
        function.returns = None  # type: ignore[attr-defined]
        for argument in function.args.args:  # type: ignore[attr-defined]
            argument.annotation = None
    space: dict[str, Any] = {"collections": collections, "Counter": collections.Counter, "re": re, "string": string}
    exec(compile(tree, str(file), "exec"), space)
    return space


def text(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(0, 4)))


def questions(generator: random.Random, distinct: bool) -> dict[str, Any]:
    golds, predictions, odds = {}, {}, {}
    for number in range(40):
        gold = [text(generator) for _ in range(generator.choice((0, 0, 1, 3)))]
        golds[f"q{number}"] = gold
        predictions[f"q{number}"] = generator.choice([*gold, text(generator), ""])
        odds[f"q{number}"] = generator.random() if distinct else generator.randint(0, 9) / 10
    return {"golds": golds, "predictions": predictions, "null_odds": odds, "threshold": generator.choice((0.3, 1.0))}


def official(v2: dict[str, Any], file: dict[str, Any]) -> dict[str, float]:
    golds, predictions, odds = file["golds"], file["predictions"], file["null_odds"]
    answers = {key: [gold for gold in texts if v2["normalize_answer"](gold)] or [""] for key, texts in golds.items()}
    has_answer = {key: bool(texts) for key, texts in golds.items()}
    values: dict[str, float] = {}
    raws: dict[str, dict[str, float]] = {}
    for name, which in (("exact", "compute_exact"), ("f1", "compute_f1")):
        raw = {key: max(v2[which](predictions[key], gold) for gold in answers[key]) for key in golds}
        best, threshold = v2["find_best_thresh"](predictions, raw, odds, has_answer)
        values |= {f"best_{name}": best / 100, f"best_{name}_thresh": threshold}
        raws[name] = raw
        cut = {key: float(not has_answer[key]) if odds[key] > file["threshold"] else raw[key] for key in golds}
        values[name] = sum(cut.values()) / len(cut)
    for name, raw in raws.items():  # both at the threshold that is best for F1
        refused = {key: odds[key] > values["best_f1_thresh"] for key in golds}
        cut = {key: float(not has_answer[key]) if refused[key] else raw[key] for key in golds}
        file.setdefault("at_best_f1", {})[name] = sum(cut.values()) / len(cut)
    return values


if __name__ == "__main__":
    main(Path(sys.argv[1]))
