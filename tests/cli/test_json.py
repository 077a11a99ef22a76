"""`--json`: every command that prints a table has it, and what it prints is what docs/exit-codes.md says."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertjobs.cli.main import build_parser
from bertjobs.data.prepare import PHASES, PrepareOptions, prepare
from bertjobs.data.text.vocabulary import Vocabulary
from tests.cli.test_init import ANSWERS, install
from tests.conftest import Bertjobs
from tests.data.conftest import quiet
from tests.data.hdf5_files import write_instances
from tests.report.conftest import (
    START,
    MakeRun,
    make_run,  # noqa: F401
    write_attempt,
    write_checkpoint,
    write_result,
    write_steps,
    write_validation,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"
TABLES = (
    *("recipes", "recipes show", "init", "plan", "status", "logs", "doctor", "report", "scaling", "sync"),
    *("import", "data inspect", "data duplicates", "data verify", "data adopt"),
)

Path_ = tuple[str, ...]


def documented(command: str) -> list[Path_]:
    """The fields of a command, such as ("phases", "[]", "steps"), in the order of its table."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n### bertjobs {command}\n")[1].split("\n### ")[0]
    firsts = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return [tuple(re.findall(r"\[\]|\{\}|\w+", path)) for first in firsts for path in re.findall(r"`(.+?)`", first)]


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values that are neither lists nor mappings; empty lists and mappings have none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, (*path, "[]"))
    else:
        yield path


def begins(field: Path_, path: Path_) -> bool:
    return len(field) <= len(path) and all(mine in ("{}", one) for mine, one in zip(field, path, strict=False))


def describes(field: Path_, path: Path_) -> bool:
    """Whether a documented field describes a path; one that ends in a list or a mapping describes all that is in it."""
    return begins(field, path) and (len(field) == len(path) or field[-1] in ("[]", "{}"))


def strict(text: str) -> Any:
    """JSON that every parser reads."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check(command: str, *outputs: str) -> None:
    """All fields of the outputs are documented, and each documented field is in one of them."""
    fields = documented(command)
    paths = {path for output in outputs for path in leaves(strict(output))}
    assert [path for path in sorted(paths) if not any(describes(field, path) for field in fields)] == []
    assert [field for field in fields if not any(begins(field, path) for path in paths)] == []


@pytest.mark.parametrize("command", TABLES)
def test_every_command_that_prints_a_table_also_prints_json(command: str) -> None:
    parser: argparse.ArgumentParser = build_parser()
    for word in command.split():
        verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = verbs.choices[word]
    assert "--json" in parser._option_string_actions


def test_recipes(bertjobs: Bertjobs) -> None:
    check("recipes", bertjobs("recipes", "--json").stdout)


def test_a_recipe(bertjobs: Bertjobs) -> None:
    check("recipes show", *(bertjobs("recipes", "show", name, "--json").stdout for name in ("laptop", "dgxa100-80g")))


def test_init(bertjobs: Bertjobs, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, says in ANSWERS.items():
        install(tmp_path / "bin", name, says)
    check("init", bertjobs("init", "--json", environ={"PATH": str(tmp_path / "bin")}).stdout)


@pytest.fixture
def results(make_run: MakeRun, tmp_path: Path) -> Path:  # noqa: F811
    """The results folder of a run whose first phase was validated, and whose loss was then not finite, and of one that
    fine-tuned it."""
    directory = make_run("tried")
    phase = directory.phase(1)
    write_steps(phase, range(1, 11), step_time_s=2.0)
    write_steps(phase, [11], step_time_s=2.0, loss_nats=float("nan"))
    write_validation(phase, 10, 5.75, 6.5)
    write_checkpoint(phase, 10)
    write_attempt(directory, 1, START, START + 30, step=10)
    job = {"phase": 1, "job": directory.events()[-1]["job"], "attempt": 0}
    directory.record("slow rank", **job, rank=1, node="node2", times=1.4, step=3)
    write_result(make_run("tuned", task="sentences", init_checkpoint=str(phase.checkpoints / "step-00000010")), 0.75)
    return tmp_path


@pytest.mark.parametrize("verb", ["doctor", "report"])
def test_a_run(bertjobs: Bertjobs, results: Path, verb: str) -> None:
    done = bertjobs(verb, "tried", "--results", results, "--json", environ={"PATH": ""})
    assert done.returncode == 0, done.stderr
    check(verb, done.stdout)


def test_the_status_of_one_run_and_of_all(bertjobs: Bertjobs, results: Path) -> None:
    words = ("status", "--results", results, "--json")
    outputs = [bertjobs(*words, *run, environ={"PATH": ""}).stdout for run in ((), ("tried",))]
    check("status", *outputs)
    assert strict(outputs[0])[0]["goodput"] is None
    assert strict(outputs[1])[0]["goodput"]["held_h"] > 0


def test_scaling(bertjobs: Bertjobs, results: Path) -> None:
    words = ("scaling", "tried", "--predict", "1", "--output", results / "curve.svg", "--results", results, "--json")
    check("scaling", bertjobs(*words).stdout)


def test_sync(bertjobs: Bertjobs, results: Path) -> None:
    check("sync", bertjobs("sync", "tried", "--to", "tensorboard", "--results", results, "--json").stdout)


@pytest.mark.parametrize(("margin", "code"), [(0.5, 0), (0.8, 70)])
def test_a_report_that_judges(bertjobs: Bertjobs, results: Path, margin: float, code: int) -> None:
    done = bertjobs("report", "tried", "--results", results, "--require-learnt", margin, "--json")
    assert done.returncode == code
    summary = strict(done.stdout)
    assert summary["report"] is None
    assert summary["phases"][0]["held_out"]["below_unigram_nats"] == pytest.approx(0.75)
    assert summary["phases"][0]["end_loss_nats"] is None
    assert ("error: " in done.stderr) == bool(code)


@pytest.fixture(scope="module")
def shards(speeches_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LDDL's shards of the speeches, with stored masks."""
    folder = tmp_path_factory.mktemp("lddl") / "data"
    corpus = f"text:{speeches_data.parent / 'corpus'}"
    options = PrepareOptions((corpus,), str(speeches_data / "vocab.txt"), str(folder), (PHASES[1],), shards=2,
                             duplicates=1, masking="static", format="lddl", sample_ratio=0.2)  # fmt: skip
    prepare(options, quiet)
    return folder


def run(bertjobs: Bertjobs, code: int, *words: object) -> str:
    done: subprocess.CompletedProcess[str] = bertjobs("data", *words, "--json")
    assert done.returncode == code, done.stderr
    return done.stdout


def test_shards(bertjobs: Bertjobs, shards: Path, speeches_data: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(shards, damaged)
    (damaged / "phase1" / "train" / "stray").write_text("")
    shard = next((shards / "phase1" / "train").glob("shard-*.parquet_0"))
    check("data verify", run(bertjobs, 0, "verify", shards), run(bertjobs, 64, "verify", damaged))

    made = run(bertjobs, 0, "adopt", "--phase", f"1={shards / 'phase1' / 'train'}", "--vocab", shards / "vocab.txt",
               "--output", tmp_path / "adopted")  # fmt: skip
    write_instances(tmp_path / "hdf5" / "test_0.hdf5", Vocabulary.read(shards / "vocab.txt"), 40)
    write_instances(tmp_path / "hdf5" / "training_0.hdf5", Vocabulary.read(shards / "vocab.txt"), 40, seed=1)
    of_hdf5 = run(bertjobs, 0, "adopt", "--from", "hdf5", tmp_path / "hdf5", "--vocab", shards / "vocab.txt",
                  "--output", tmp_path / "adopted-hdf5")  # fmt: skip
    check("data adopt", made, of_hdf5)
    assert (
        strict(made)["manifest_sha256"] == strict(run(bertjobs, 0, "verify", tmp_path / "adopted"))["manifest_sha256"]
    )

    damaged = tmp_path / shard.name
    damaged.write_bytes(shard.read_bytes()[:-1000])
    one = speeches_data / "phase1" / "train" / "shard-0.safetensors_1"
    repeated = PrepareOptions((_repeated(tmp_path / "texts"),), str(shards / "vocab.txt"), str(tmp_path / "repeated"))
    prepare(repeated, quiet)
    outputs = [run(bertjobs, 0, "inspect", path) for path in (shards, one)]
    outputs.append(run(bertjobs, 64, "inspect", repeated.output))  # what is held out is also in training
    check("data inspect", *outputs, run(bertjobs, 64, "inspect", damaged, "--vocab", shards / "vocab.txt"))


def _repeated(folder: Path) -> str:
    """A corpus of three documents, of which two are the same text."""
    folder.mkdir()
    for name, text in (("a", "The same text. It is long."), ("b", "The same text.\nIt is long."), ("c", "Not this.")):
        (folder / f"{name}.txt").write_text(text)
    return f"text:{folder}"


def test_duplicates(bertjobs: Bertjobs, tmp_path: Path) -> None:
    check("data duplicates", run(bertjobs, 0, "duplicates", "--corpus", _repeated(tmp_path / "texts")))
