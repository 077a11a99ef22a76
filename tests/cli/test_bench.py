"""`bertjobs bench` as a user types it: what it prints and keeps, what it refuses, and that `plan` reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Bertjobs

RECIPE = """\
recipes:
  tiny:
    system: laptop
    model: bert-nano
    vocabulary: bert-base-uncased
    precision: fp32
    phases:
      1: {global_batch: 16, steps: 10, lr: 0.001, warmup: 0.1, micro_batch: 4}
"""
ENVIRON = {"OMP_NUM_THREADS": "1"}
QUICK = ("--seconds", "0.1", "--repeats", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "bertjobs.yml").write_text(RECIPE)
    return "--recipe", "tiny", "--phase", "1"


def test_a_sweep_is_shown_and_kept_and_used_by_plan(
    tmp_path: Path, bertjobs: Bertjobs, inside: Bertjobs, recipe: tuple[str, ...]
) -> None:
    files = ("--output", "out/result.json", "--lines", "out/lines.jsonl")
    done = bertjobs("bench", *recipe, *QUICK, *files, environ=ENVIRON)
    assert done.returncode == 0, done.stderr
    assert "<- best" in done.stdout
    assert "synthetic sequences" in done.stdout
    (result,) = json.loads((tmp_path / "out" / "result.json").read_text())
    rows = result["measurements"]
    assert [row["micro_batch"] for row in rows] == [1, 2, 4, 8, 16][: len(rows)]
    assert len(rows) >= 3
    kept = [json.loads(line) for line in (tmp_path / "results" / "bench.jsonl").read_text().splitlines()]
    assert [line["sequences_per_s"] for line in kept] == [row["sequences_per_s"] for row in rows]
    own = next(row for row in rows if row["micro_batch"] == 4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "lines.jsonl").read_text().splitlines()]
    assert [(line["what"], line["sequences_per_s"]) for line in lines] == [
        ("sweep", row["sequences_per_s"]) for row in rows
    ]

    planned = inside("plan", *recipe, "--json")
    (phase,) = json.loads(planned.stdout)["phases"]
    assert phase["micro_batch"] == 4
    assert phase["sequences_per_s"] == pytest.approx(own["sequences_per_s"] * phase["world_size"])
    assert phase["expected_from"].startswith("bertjobs bench, this recipe's model on ")


@pytest.mark.slow
def test_a_comparison_prints_nothing_but_json(tmp_path: Path, bertjobs: Bertjobs, recipe: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    arguments = ("--compare", "--sequences", 8, "--micro-batches", "recipe", "--repeats", 1, "--json",
                 "--set", "seed=7", "--lines", "lines.jsonl")  # fmt: skip
    done = bertjobs("bench", *recipe, *arguments, environ={**ENVIRON, "TORCHDYNAMO_DISABLE": "1"})
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["sequences"] == 8
    names = [row["name"] for row in result["results"]]
    assert names[0] == "ours, unpadded"
    assert result["results"][0]["micro_batch"] == 4
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [(line["what"], line["name"], line["settings"]) for line in lines] == [
        ("comparison", name, ["seed=7"]) for name in names
    ]
    assert {"Hugging Face, eager", "Hugging Face, SDPA", "NVIDIA's way"} <= set(names)
    losses = [row["loss"] for row in result["results"] if not row["failed"]]
    assert max(losses) - min(losses) < 1e-3
    assert result["ours_is_times_as_fast"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seconds", "soon"), "'soon' is not a number above 0"),
        (("--repeats", "0"), "'0' is not a whole number above 0"),
        (("--micro-batches", "4,x"), "'x' is not a whole number above 0"),
        (("--compare", "--ways", "sdpa,egaer"), "'egaer' is not an implementation that can be timed"),
        (("--compare", "--profile"), "not allowed with argument"),
        (("--gpus", "1"), "GPU"),
    ],
    ids=["seconds", "repeats", "micro-batches", "ways", "kinds", "no-gpu"],
)
def test_bad_input_is_refused(
    inside: Bertjobs, recipe: tuple[str, ...], arguments: tuple[str, ...], words: str
) -> None:
    done = inside("bench", *recipe, *arguments, environ={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 64
    assert words in done.stderr
    assert "Traceback" not in done.stderr
