"""`bertjobs import`: what it prints, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_json import check
from tests.conftest import Bertjobs
from tests.conversion.bundles import write_bundle
from tests.conversion.programs import Programs, write_nvidia


def test_it_says_what_came_along_and_what_to_type_next(
    inside: Bertjobs, home: Path, padded: Programs, tokens: int
) -> None:
    file = write_nvidia(home / "ckpt_7038.pt", padded.nvidia())
    done = inside("import", file, "--output", "my bert")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"checkpoint  {file}, of NVIDIA's run_pretraining"
    assert lines[1] == f"model       2 layers, hidden size 24, 3 heads, {tokens} tokens, uncased"
    assert lines[2:4] == ["heads       masked words, next sentence", "left out    optimizer, grad_scaler, epoch"]
    assert lines[-3:] == [
        "-> my bert",
        "next: bertjobs finetune --task TASK --data DIR --from 'my bert'",
        "      bertjobs submit --recipe NAME --data DIR --init-checkpoint 'my bert'",
    ]


def test_a_missing_head_is_said(inside: Bertjobs, home: Path, plain: Programs) -> None:
    state = {name: tensor for name, tensor in plain.nvidia().items() if not name.startswith("cls.")}
    done = inside("import", write_nvidia(home / "a.pt", state), "--output", "made")
    assert "heads       none\n" in done.stdout
    assert "missing     masked words and next sentence: training starts with random weights there" in done.stdout


@pytest.mark.parametrize("given", ["--cased --uncased", "--strip-accents=maybe"])
def test_flags_that_contradict_each_other_are_bad_input(inside: Bertjobs, home: Path, given: str) -> None:
    done = inside("import", home, "--output", "made", *given.split())
    assert (done.returncode, done.stderr[:7]) == (64, "error: ")


def test_json(inside: Bertjobs, home: Path, plain: Programs, padded: Programs) -> None:
    without = {name: tensor for name, tensor in padded.nvidia().items() if not name.startswith("cls.")}
    first = inside("import", write_nvidia(home / "a.pt", without), "--output", "a", "--json")
    (home / "a.pt").unlink()
    write_bundle(home / "bert_model.ckpt", plain.google())
    second = inside("import", home, "--output", "b", "--json")
    check("import", first.stdout, second.stdout)
    assert json.loads(second.stdout)["folder"] == "b"
