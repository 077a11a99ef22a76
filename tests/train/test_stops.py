"""Whenever and however a run is stopped, it ends as if it had not been stopped."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.run.checkpoints import read_manifest, steps
from tests.train.conftest import Trial, copied
from tests.train.forked import Trap, attempt, output_of

POINTS = 36
PLACES = {
    # the function that is trapped: at how many of its calls at most, and whether only rank 0 calls it
    "bertjobs.train.step:dropout_seed": (18, False),  # once per micro-batch: inside accumulation
    "bertjobs.optim.lamb:Lamb.step": (6, False),
    "bertjobs.train.loop:train_step": (6, False),
    "bertjobs.train.checkpoint.saving:Saving.settle": (6, False),  # between steps
    "bertjobs.train.checkpoint.saving:Saving.begin": (3, False),
    "bertjobs.train.metrics:append_line": (6, True),
    "os:fsync": (12, False),  # while a checkpoint is written, in its threads
    "os:rename": (3, True),  # as one becomes visible
}
STOPS = ((signal.SIGUSR2, False), (signal.SIGTERM, True), (signal.SIGKILL, False), (signal.SIGKILL, True))
SAME = ("step", "loss_nats", "mlm_loss_nats", "gradient_norm", "learning_rate", "mlm_accuracy", "skipped_steps",
        "loss_scale", "tokens")  # fmt: skip


def recipe(folder: Path, **changes: Any) -> Path:
    """A user's configuration folder with a recipe of dropout, dynamic masks and a loss scale that overflows."""
    phase = {"global_batch": 12, "steps": 4 * POINTS, "lr": 0.01, "warmup": 0.2, "micro_batch": 2,
             "checkpoint_every": 3, **changes}  # fmt: skip
    settings = {"system": "cpu-node", "model": "bert-nano", "precision": "fp16", "num_workers": 1, "phases": {1: phase}}
    (folder / "bertjobs").mkdir(parents=True)
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": settings}}))
    return folder


def random_traps(ranks: int) -> list[Trap]:
    """Each place and way to stop, several times, at random calls."""
    draw = random.Random(2026)
    traps = []
    for number in range(POINTS):
        place, (calls, first) = list(PLACES.items())[number % len(PLACES)]
        how, everyone = STOPS[number // 2 % len(STOPS)]
        rank = 0 if first else draw.randrange(ranks)
        traps.append(Trap(rank, place, draw.randint(1, calls), draw.random() < 0.5, how, everyone))
    return traps


def final_state(trial: Trial) -> dict[str, bytes]:
    """The bytes of the last checkpoint's files, except those that name times or places."""
    folder = steps(trial.phase(1).checkpoints)[-1]
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".safetensors"}


@pytest.mark.slow
def test_a_run_stopped_at_random_points_ends_with_the_same_bits(data: DataManifest, tmp_path: Path) -> None:
    home, ranks = recipe(tmp_path / "home"), 2
    reference = Trial(home, data.folder, tmp_path / "reference")
    assert attempt(reference, 1, ranks, tmp_path / "logs" / "reference") == [0, 0]
    trial = Trial(home, data.folder, tmp_path / "results")
    sprung: Counter[tuple[str, signal.Signals]] = Counter()
    for number, trap in enumerate(random_traps(ranks)):
        folder = tmp_path / "logs" / str(number)
        codes = attempt(trial.having(STEPS_THIS_RUN=8), 1, ranks, folder, trap)
        assert not trial.phase(1).done_file.exists(), "the phase is too short for so many stops"
        if not (folder / "sprung").exists():  # there were fewer calls in 8 steps
            assert codes == [75, 0], (trap, output_of(folder))
            continue
        sprung[trap.place, trap.number] += 1
        if trap.number != signal.SIGKILL:
            assert codes == [75, 0], (trap, output_of(folder))
        elif trap.everyone:
            assert codes == [-signal.SIGKILL] * ranks, (trap, output_of(folder))
        else:
            assert codes[trap.rank] == -signal.SIGKILL, (trap, output_of(folder))
            assert codes[1 - trap.rank] in (70, 0), (trap, output_of(folder))
    assert sum(sprung.values()) >= 30, sprung
    assert {place for place, _ in sprung} == set(PLACES)
    assert attempt(trial, 1, ranks, tmp_path / "logs" / "last") == [0, 0], output_of(tmp_path / "logs" / "last")

    assert final_state(trial) == final_state(reference)
    lines, expected = trial.metrics(1), reference.metrics(1)
    assert [[line[key] for key in SAME] for line in lines] == [[line[key] for key in SAME] for line in expected]
    assert expected[-1]["skipped_steps"] > 0, "the loss scale must have overflowed"
    assert not list(trial.directory.root.rglob(".tmp-*"))


@pytest.mark.parametrize(
    "trap",
    [Trap(0, "bertjobs.train.checkpoint.writer:publish_folder", 2, False, None),
     Trap(1, "bertjobs.train.checkpoint.writer:write_hashed", 2, False, None)],
)  # fmt: skip
def test_the_third_checkpoint_in_a_row_that_cannot_be_written_ends_the_run(
    data: DataManifest, tmp_path: Path, trap: Trap
) -> None:
    trial = Trial(recipe(tmp_path / "home"), data.folder, tmp_path / "results")
    codes = attempt(trial, 1, 2, tmp_path / "logs", trap)
    words = output_of(tmp_path / "logs")
    assert codes == [70, 0], words
    assert words.count("the earlier checkpoints are intact") == 3, words
    assert "No space left on device" in words
    assert "Traceback" not in words
    assert [folder.name for folder in steps(trial.phase(1).checkpoints)] == ["step-00000003"]
    assert len(trial.metrics(1)) >= 12
    assert not list(trial.directory.root.rglob(".tmp-*"))
    assert attempt(trial.having(STEPS_THIS_RUN=1), 1, 2, tmp_path / "again") == [75, 0]


@pytest.mark.parametrize("ranks", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_continues_on_another_number_of_ranks(data: DataManifest, tmp_path: Path, ranks: int) -> None:
    home = recipe(tmp_path / "home", global_batch=16, steps=25)
    stopped = Trial(home, data.folder, tmp_path / "four", {"STEPS_THIS_RUN": "5", "PRECISION": "fp32"})
    assert attempt(stopped, 1, 4, tmp_path / "logs" / "0") == [75, 0, 0, 0], output_of(tmp_path / "logs" / "0")
    stayed = replace(stopped, settings={"PRECISION": "fp32"})
    moved = replace(copied(stopped, tmp_path / "moved"), settings={"PRECISION": "fp32"})
    assert attempt(stayed, 1, 4, tmp_path / "logs" / "1") == [0] * 4
    assert attempt(moved, 1, ranks, tmp_path / "logs" / "2") == [0] * ranks, output_of(tmp_path / "logs" / "2")
    assert read_manifest(steps(moved.phase(1).checkpoints)[-1]).step == 25
    one, other = (load_file(steps(trial.phase(1).checkpoints)[-1] / "model.safetensors") for trial in (stayed, moved))
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=1e-5, atol=1e-5, msg=name)
    assert [line["tokens"] for line in moved.metrics(1)] == [line["tokens"] for line in stayed.metrics(1)]
    shutil.rmtree(tmp_path / "moved")
