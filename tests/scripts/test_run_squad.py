"""scripts/run_squad.sh: NVIDIA's arguments become commands of bertjobs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bertjobs.cli.main import build_parser
from tests.scripts import nvidia

GIVEN = ("my bert", "2.0", "32", "4.6e-5", "0.2", "fp16", "8", "1", "squad/v1.1", "vocab.txt", "out/SQuAD")
script = partial(nvidia.script, "run_squad.sh")
commands = partial(nvidia.commands, "run_squad.sh")


def test_training_gets_every_argument() -> None:
    (train,) = commands(*GIVEN, "train")
    args = build_parser().parse_args(train[1:])
    assert (args.weights, args.setting_task, args.task_data) == ("my bert", "squad1", Path("squad/v1.1"))
    assert (args.setting_results, args.setting_run) == ("out", "SQuAD")
    assert (args.setting_precision, str(args.setting_gpus), args.setting_recipe) == ("fp16", "8", "squad")
    for setting in (
        "seed=1", "phase1.global_batch=256", "phase1.micro_batch=32", "phase1.lr=4.6e-5", "phase1.warmup=0.2",
        "phase1.epochs=2.0",
    ):  # fmt: skip
        assert setting in train


@pytest.mark.parametrize(
    ("mode", "verbs"),
    [
        ("train", ["finetune"]),
        ("eval", ["evaluate"]),
        ("prediction", ["predict"]),
        ("train eval", ["finetune", "evaluate"]),
        ("train eval prediction", ["finetune", "evaluate", "predict"]),
    ],
)
def test_modes(mode: str, verbs: list[str]) -> None:
    lines = commands(*GIVEN, mode)
    assert [line[1] for line in lines] == verbs
    measured = "out/SQuAD" if "train" in mode else "my bert"
    assert all(line[2] == measured for line in lines if line[1] != "finetune")
    assert commands("--mode", mode, *GIVEN, "train") == lines
    for line in lines:
        build_parser().parse_args(line[1:])


def test_steps_take_the_place_of_epochs() -> None:
    (train,) = commands(*GIVEN, "train", "config.json", "100")
    assert "phase1.steps=100" in train
    assert not [word for word in train if word.startswith("phase1.epochs")]


def test_no_gpu_is_one_rank_on_the_cpu() -> None:
    (train,) = commands(*GIVEN[:6], "0", *GIVEN[7:], "train")
    assert train[train.index("--gpus") + 1] == "0"
    assert "phase1.global_batch=32" in train


def test_the_commands_that_are_printed_are_run_and_the_first_failure_ends(tmp_path: Path) -> None:
    ended = script(*GIVEN, BERTJOBS=str(nvidia.stand_in(tmp_path, 64)))
    assert ended.returncode == 64
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("finetune ")
    assert "not vocab.txt" in ended.stderr


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (2, "0", "batch_size is not a whole number above 0: 0"),
        (6, "two", "num_gpu is not a whole number: two"),
        (11, "test", "mode is not one or more of train, eval and prediction: test"),
        (13, "0", "max_steps is neither -1 nor"),
    ],
)
def test_bad_arguments_are_refused(place: int, value: str, words: str) -> None:
    arguments = [*GIVEN, "train", "config.json", "-1"]
    arguments[place] = value
    ended = script("--dry-run", *arguments)
    assert ended.returncode == 64
    assert f"error: {words}" in ended.stderr
