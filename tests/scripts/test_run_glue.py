"""scripts/run_glue.sh: NVIDIA's arguments become commands of bertjobs."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from bertjobs.cli.main import build_parser
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import save_pretrained
from bertjobs.tasks.reading.glue import GLUE
from bertjobs.tasks.task import TASKS
from tests.finetune.nano import NANO
from tests.scripts import nvidia
from tests.tasks.encoders import encoder_in

GIVEN = (
    "my bert", "glue/SST-2/", "vocab.txt", "large.json", "out/sst 2", "sst-2", "8", "128", "2", "1e-5", "0.1", "3",
    "-1.0", "fp16", "7",
)  # fmt: skip
"""In the order in which NVIDIA's own configurations print them, and a seed."""

script = partial(nvidia.script, "run_glue.sh")
commands = partial(nvidia.commands, "run_glue.sh")


def test_training_gets_every_argument() -> None:
    (train,) = commands(*GIVEN, "train")
    args = build_parser().parse_args(train[1:])
    assert (args.weights, args.setting_task, args.task_data) == ("my bert", "sst2", Path("glue/SST-2"))
    assert (args.setting_results, args.setting_run) == ("out", "sst 2")
    assert (args.setting_precision, str(args.setting_gpus), args.setting_recipe) == ("fp16", "8", "finetune")
    for setting in (
        "seed=7", "phase1.global_batch=1024", "phase1.micro_batch=64", "phase1.lr=1e-5", "phase1.warmup=0.1",
        "phase1.epochs=3",
    ):  # fmt: skip
        assert setting in train


def test_defaults_are_nvidias() -> None:
    train, evaluate = commands()
    for setting in (
        "mrpc", "seed=2", "phase1.global_batch=128", "phase1.micro_batch=16", "phase1.lr=2.4e-5", "phase1.warmup=0.1",
        "phase1.epochs=3", "fp16",
    ):  # fmt: skip
        assert setting in train
    assert evaluate[1:] == ["evaluate", "results/MRPC", "--data", "data/download/glue/MRPC", "--split", "dev"]


@pytest.mark.parametrize("name", GLUE)
def test_each_task_is_taken_as_glue_and_as_nvidia_write_it(name: str) -> None:
    for written in (name, name.lower(), name.replace("-", "").lower()):
        (train,) = commands("bert", "", "", "", "", written, "1", "", "", "", "", "", "", "", "", "train")
        args = build_parser().parse_args(train[1:])
        assert args.setting_task in TASKS
        assert args.task_data == Path("data/download/glue") / name
        assert (args.setting_results, args.setting_run) == ("results", name)


@pytest.mark.parametrize(
    ("mode", "verbs"),
    [
        ("train", ["finetune"]),
        ("eval", ["evaluate"]),
        ("prediction", ["predict"]),
        ("eval prediction", ["evaluate", "predict"]),
        ("train eval prediction", ["finetune", "evaluate", "predict"]),
    ],
)
def test_modes(mode: str, verbs: list[str]) -> None:
    lines = commands(*GIVEN, mode)
    assert [line[1] for line in lines] == verbs
    measured = "out/sst 2" if "train" in mode else "my bert"
    for line in lines:
        args = build_parser().parse_args(line[1:])
        if line[1] != "finetune":
            assert (args.model, args.split) == (measured, "dev")
        if line[1] == "predict":
            assert (args.input, args.output) == ("glue/SST-2/", "out/sst 2/predictions.jsonl")
    assert commands("--mode", mode, *GIVEN, "train") == lines


@pytest.mark.slow
def test_mrpc_as_microsoft_ships_it_is_trained_measured_and_predicted(tmp_path: Path) -> None:
    encoder = encoder_in(tmp_path / "bert", 32)
    torch.manual_seed(1)
    spec = replace(NANO, vocab_size=encoder.vocabulary.size, max_position_embeddings=128)
    save_pretrained(BertForPreTraining(spec), tmp_path / "bert" / "vocab.txt", tmp_path / "bert", lowercase=True)
    folder = tmp_path / "MRPC"
    folder.mkdir()
    rows = [f"{number % 2}\t{number}\t{number + 100}\tred apples\tmy apples" for number in range(12)]
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    (folder / "msr_paraphrase_train.txt").write_text("\n".join([header, *rows]) + "\n")
    (folder / "dev_ids.tsv").write_text("3\t103\n8\t108\n")
    bertjobs = tmp_path / "bertjobs"
    bertjobs.write_text(f'#!/bin/sh\nexec {sys.executable} -m bertjobs "$@"\n')
    bertjobs.chmod(0o755)
    ended = script(
        str(tmp_path / "bert"), str(folder), "", "", str(tmp_path / "out" / "MRPC"), "mrpc", "0", "4", "2", "1e-2",
        "0.1", "1", "-1.0", "fp32", "2", "train eval prediction", BERTJOBS=str(bertjobs), HOME=str(tmp_path),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 examples of dev" in ended.stdout
    predictions = [json.loads(line) for line in (tmp_path / "out/MRPC/predictions.jsonl").read_text().splitlines()]
    assert [one["id"] for one in predictions] == ["3 103", "8 108"]
    assert {one["label"] for one in predictions} <= {"equivalent", "not_equivalent"}


def test_a_model_that_is_only_asked_gets_its_folder(tmp_path: Path) -> None:
    arguments = [*GIVEN, "eval prediction"]
    arguments[4] = str(tmp_path / "new" / "folder")
    ended = script(*arguments, BERTJOBS=str(nvidia.stand_in(tmp_path, 0)))
    assert ended.returncode == 0, ended.stderr
    assert [call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()] == ["evaluate", "predict"]
    assert (tmp_path / "new" / "folder").is_dir()
    assert "not vocab.txt and large.json" in ended.stderr
    assert [line.split()[1] for line in ended.stdout.splitlines()] == ["evaluate", "predict"]


def test_a_failure_ends_with_its_exit_code(tmp_path: Path) -> None:
    ended = script(*GIVEN, "train eval prediction", BERTJOBS=str(nvidia.stand_in(tmp_path, 75)))
    assert ended.returncode == 75
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_only_what_is_trained_here_can_be_measured_in_the_same_call() -> None:
    ended = script("--dry-run", *GIVEN, "train eval", BACKEND="slurm")
    assert ended.returncode == 64
    assert "BACKEND=slurm only queues the training" in ended.stderr
    (train,) = commands(*GIVEN, "train", BACKEND="slurm")
    assert train[train.index("--backend") + 1] == "slurm"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (5, "mrcp", "GLUE has no task mrcp: did you mean mrpc? one of cola sst-2 mrpc"),
        (5, "zzzzzz", "GLUE has no task zzzzzz: one of cola"),
        (6, "-1", "num_gpu is not a whole number: -1"),
        (7, "12.5", "batch_size is not a whole number above 0: 12.5"),
        (7, "127", "batch_size 127 is not a multiple of gradient_accumulation_steps 2"),
        (8, "0", "gradient_accumulation_steps is not a whole number above 0: 0"),
        (12, "1.5", "max_steps is neither -1 nor a whole number above 0: 1.5"),
        (15, "trian", "mode is not one or more of train, eval and prediction: trian"),
        (15, "train evaluation", "mode is not one or more of train, eval and prediction: train evaluation"),
    ],
)
def test_bad_arguments_are_refused(place: int, value: str, words: str) -> None:
    arguments = [*GIVEN, "train"]
    arguments[place] = value
    ended = script("--dry-run", *arguments)
    assert ended.returncode == 64
    assert ended.stdout == ""
    assert f"error: {words}" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mode",), "--mode has no value"),
        (("--modes", "train"), "there is no option --modes"),
        ((*GIVEN, "train", "and more"), "17 arguments; run_glue.sh takes at most 16"),
    ],
)
def test_bad_options_are_refused(arguments: tuple[str, ...], words: str) -> None:
    ended = script(*arguments)
    assert ended.returncode == 64
    assert re.search(words, ended.stderr)
