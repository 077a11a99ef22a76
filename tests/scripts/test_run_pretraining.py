"""scripts/run_pretraining.sh: NVIDIA's arguments become commands of bertjobs."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from bertjobs.cli.arguments import resolve_arguments
from bertjobs.cli.main import build_parser
from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.recipe.spec import ModelSpec, RunSpec
from tests.data.hdf5_files import write_instances
from tests.scripts import nvidia
from tests.tasks.encoders import encoder_in

LARGE = {"num_hidden_layers": 24, "hidden_size": 1024}

script = partial(nvidia.script, "run_pretraining.sh")
commands = partial(nvidia.commands, "run_pretraining.sh")

NAMES = (
    "train_batch_size", "learning_rate", "precision", "num_gpus", "warmup_proportion", "train_steps",
    "save_checkpoint_steps", "resume_training", "create_logfile", "accumulate_gradients",
    "gradient_accumulation_steps", "seed", "job_name", "allreduce_post_accumulation",
    "allreduce_post_accumulation_fp16", "train_batch_size_phase2", "learning_rate_phase2",
    "warmup_proportion_phase2", "train_steps_phase2", "gradient_accumulation_steps_phase2", "DATA_DIR_PHASE1",
    "DATA_DIR_PHASE2", "CODEDIR", "init_checkpoint", "wikipedia_source", "num_dask_workers",
    "num_shards_per_worker", "num_workers", "sample_ratio", "phase2_bin_size", "masking", "BERT_CONFIG",
)  # fmt: skip
"""In NVIDIA's order."""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Data of LDDL's form, as far as the script looks at them, and what else most tests give."""
    for phase in ("1", "2"):
        (tmp_path / phase).mkdir()
        (tmp_path / phase / "shard-0.parquet").touch()
    return {"DATA_DIR_PHASE1": str(tmp_path / "1"), "DATA_DIR_PHASE2": str(tmp_path / "2"), "num_gpus": "8"}


def arguments(given: dict[str, str]) -> list[str]:
    assert set(given) <= set(NAMES)
    return [given.get(name, "") for name in NAMES]


def spec_of(submit: list[str], tmp_path: Path) -> RunSpec:
    """The run that the command would start."""
    args = build_parser().parse_args(submit[1:])
    return resolve_arguments(args, {"XDG_CONFIG_HOME": str(tmp_path)}).spec


def test_defaults_are_nvidias(folders: dict[str, str], tmp_path: Path) -> None:
    adopt, submit = commands(*arguments(folders))
    assert adopt[1:] == [
        "data", "adopt", "--from", "lddl", "--phase", f"1={tmp_path / '1'}", "--phase", f"2={tmp_path / '2'}",
        "--vocab", "vocab/vocab", "--output", "./results/bert_lamb_pretraining-data",
    ]  # fmt: skip
    spec = spec_of(submit, tmp_path)
    first, second = spec.phases
    assert (spec.run, spec.model.name, spec.precision, spec.gpus, spec.seed) == (
        "bert_lamb_pretraining", "bert-large", "fp16", 8, 12439,
    )  # fmt: skip
    assert (spec.masking, spec.gradient_compression, spec.vocabulary) == ("static", "fp16", "")
    assert (first.global_batch, first.gradient_steps, first.micro_batch) == (65536, 128, 64)
    assert (second.global_batch, second.gradient_steps, second.micro_batch) == (32768, 512, 8)
    assert [(one.lr, one.warmup, one.steps, one.checkpoint_every) for one in spec.phases] == [
        (0.006, 0.2843, 7038, 200), (0.004, 0.128, 1563, 200),
    ]  # fmt: skip
    assert [(one.sequence_length, one.max_predictions) for one in spec.phases] == [(128, 20), (512, 80)]


def test_every_argument_is_used(folders: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "base.json"
    config.write_text(json.dumps({"num_hidden_layers": 12, "hidden_size": 768}))
    given = folders | {
        "train_batch_size": "96", "learning_rate": "1e-3", "precision": "bf16", "num_gpus": "4",
        "warmup_proportion": "0.1", "train_steps": "70", "save_checkpoint_steps": "7",
        "gradient_accumulation_steps": "3",
        "seed": "5", "job_name": "mine", "train_batch_size_phase2": "48", "learning_rate_phase2": "2e-3",
        "warmup_proportion_phase2": "0.2", "train_steps_phase2": "15", "gradient_accumulation_steps_phase2": "6",
        "CODEDIR": "code", "init_checkpoint": "ckpt_1.pt", "num_workers": "2", "masking": "dynamic",
        "BERT_CONFIG": str(config),
    }  # fmt: skip
    adopt, imported, submit = commands(*arguments(given), VOCAB_FILE="v.txt", DATADIR="made")
    assert adopt[-4:] == ["--vocab", "v.txt", "--output", "made"]
    assert imported[1:] == [
        "import", "ckpt_1.pt", "--config", str(config), "--vocab", "v.txt", "--output", "code/results/mine-init",
    ]  # fmt: skip
    spec = spec_of(submit, tmp_path)
    first, second = spec.phases
    assert (spec.run, spec.results, spec.data, spec.init_checkpoint) == (
        "mine", "code/results", "made", "code/results/mine-init",
    )  # fmt: skip
    assert (spec.precision, spec.gpus, spec.seed, spec.num_workers) == ("bf16", 4, 5, 2)
    assert (spec.masking, spec.gradient_compression, spec.model.name) == ("dynamic", "none", "bert-base")
    assert (first.global_batch, first.gradient_steps, first.lr, first.warmup, first.steps) == (384, 3, 1e-3, 0.1, 70)
    assert (second.global_batch, second.gradient_steps, second.lr, second.warmup, second.steps) == (
        192,
        6,
        2e-3,
        0.2,
        15,
    )
    assert (first.checkpoint_every, second.checkpoint_every) == (7, 7)


def test_without_accumulation_a_batch_is_one_micro_batch(folders: dict[str, str], tmp_path: Path) -> None:
    given = folders | {"train_batch_size": "16", "train_batch_size_phase2": "4", "accumulate_gradients": "false"}
    *_, submit = commands(*arguments(given))
    assert [phase.micro_batch for phase in spec_of(submit, tmp_path).phases] == [16, 4]


def test_a_run_is_resumed_by_its_name(folders: dict[str, str]) -> None:
    (line,) = commands(*arguments(folders | {"resume_training": "true", "job_name": "mine"}))
    assert line[1:] == ["resume", "mine", "--results", "./results", "--backend", "local"]
    build_parser().parse_args(line[1:])


def test_a_folder_of_bertjobs_is_used_as_it_is(folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "1" / "MANIFEST.json").write_text('{"settings": {"masking": "dynamic"}}')
    (submit,) = commands(*arguments(folders))
    spec = spec_of(submit, tmp_path)
    assert (spec.data, spec.masking) == (str(tmp_path / "1"), "dynamic")


def test_data_that_are_missing_are_prepared_from_lddls_source(tmp_path: Path) -> None:
    (tmp_path / "wikipedia" / "source").mkdir(parents=True)
    ended = script("--dry-run", "", "", "", "1", BERT_PREP_WORKING_DIR=str(tmp_path), PHASE2="")
    assert ended.returncode == 0, ended.stderr
    prepare, _ = ended.stdout.splitlines()
    assert f"--corpus lddl:{tmp_path}/wikipedia/source/ " in prepare
    assert "--sample-ratio 0.9 --bin-size 64 --masking static --seed 12439" in prepare
    build_parser().parse_args(prepare.split()[1:])


def test_what_has_no_counterpart_is_said(folders: dict[str, str]) -> None:
    given = folders | {"create_logfile": "false", "allreduce_post_accumulation": "false"}
    ended = script("--dry-run", *arguments(given))
    assert "note: create_logfile: logs are always kept" in ended.stderr
    assert "note: allreduce_post_accumulation: gradients are always exchanged once" in ended.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("train_batch_size", "12.5", "train_batch_size is not a whole number above 0: 12.5"),
        (
            "gradient_accumulation_steps",
            "100",
            "train_batch_size 8192 is not a multiple of gradient_accumulation_steps",
        ),
        ("precision", "fp8", "precision is not one of fp16 bf16 tf32 fp32: fp8"),
        ("resume_training", "yes", "resume_training is not one of true false: yes"),
        ("num_gpus", "two", "num_gpus is not a whole number: two"),
        ("masking", "some", "masking is not one of static dynamic: some"),
        ("DATA_DIR_PHASE1", "nowhere", "there are no data in nowhere"),
        ("DATA_DIR_PHASE2", "nowhere", "DATA_DIR_PHASE2 does not hold files of the same kind (lddl)"),
        ("BERT_CONFIG", "tiny.json", "there is no file tiny.json"),
    ],
)
def test_bad_arguments_are_refused(folders: dict[str, str], name: str, value: str, words: str) -> None:
    ended = script("--dry-run", *arguments(folders | {name: value}))
    assert (ended.returncode, ended.stdout) == (64, "")
    assert f"error: {words}" in ended.stderr


def test_a_model_of_another_shape_is_named(folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(LARGE | {"num_hidden_layers": 3}))
    given = arguments(folders | {"BERT_CONFIG": str(tmp_path / "c.json")})
    ended = script("--dry-run", *given)
    assert ended.returncode == 64
    assert "3 layers of 1024 hidden units" in ended.stderr
    assert "model=bert-mini" in commands(*given, MODEL="bert-mini")[-1]


def test_masks_in_hdf5_files_are_static(folders: dict[str, str], tmp_path: Path) -> None:
    for phase in ("1", "2"):
        (tmp_path / phase / "shard-0.parquet").rename(tmp_path / phase / "part_training_0.hdf5")
    adopt, _ = commands(*arguments(folders))
    assert adopt[3:5] == ["--from", "hdf5"]
    ended = script("--dry-run", *arguments(folders | {"masking": "dynamic"}))
    assert ended.returncode == 64
    assert "the masks of HDF5 files are stored in them" in ended.stderr


def test_a_failure_ends_with_its_exit_code(folders: dict[str, str], tmp_path: Path) -> None:
    ended = script(*arguments(folders), BERTJOBS=str(nvidia.stand_in(tmp_path, 70)))
    assert ended.returncode == 70
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.mark.slow
def test_hdf5_files_train_both_phases_from_a_checkpoint_of_nvidias(tmp_path: Path) -> None:
    """Rows of 128 tokens and of 512, as NVIDIA's and HetSeq's converters make them; a .pt file; on the CPU."""
    vocabulary = encoder_in(tmp_path, 32).vocabulary
    for phase, (tokens, predictions) in enumerate(((128, 20), (512, 80)), 1):
        for number in range(3):
            file = tmp_path / str(phase) / "training" / f"books_training_{number}.hdf5"
            write_instances(file, vocabulary, 24, tokens=tokens, predictions=predictions, seed=number)
    nano = ModelSpec("nano", 32, 1, 2, 64, vocab_size=-(-vocabulary.size // 8) * 8)
    state = BertForPreTraining(nano).state_dict()
    for layer in ("intermediate", "pooler", "transform"):
        state = {name.replace(f"{layer}.dense.", f"{layer}.dense_act."): tensor for name, tensor in state.items()}
    torch.save({"model": state, "optimizer": {}, "epoch": 0}, tmp_path / "ckpt_7038.pt")
    (tmp_path / "bert_config.json").write_text(json.dumps(config_from_model_spec(nano)))
    bertjobs = tmp_path / "bertjobs"
    bertjobs.write_text(f'#!/bin/sh\nexec {sys.executable} -m bertjobs "$@"\n')
    bertjobs.chmod(0o755)
    given = {
        "train_batch_size": "8", "precision": "fp32", "num_gpus": "0", "train_steps": "2", "save_checkpoint_steps": "2",
        "gradient_accumulation_steps": "2", "job_name": "ours", "train_batch_size_phase2": "4",
        "train_steps_phase2": "1", "gradient_accumulation_steps_phase2": "2", "CODEDIR": str(tmp_path),
        "DATA_DIR_PHASE1": str(tmp_path / "1"), "DATA_DIR_PHASE2": str(tmp_path / "2"),
        "init_checkpoint": str(tmp_path / "ckpt_7038.pt"), "BERT_CONFIG": str(tmp_path / "bert_config.json"),
    }  # fmt: skip
    threads = {"OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    ended = script(
        *arguments(given), BERTJOBS=str(bertjobs), VOCAB_FILE=str(tmp_path / "vocab.txt"), MODEL="bert-nano",
        HOME=str(tmp_path), **{name: os.environ.get(name, value) for name, value in threads.items()},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = tmp_path / "results" / "ours"
    losses = [json.loads(line)["mlm_loss_nats"] for n in (1, 2) for line in (run / f"phase{n}/metrics.jsonl").open()]
    assert len(losses) == 3
    assert torch.tensor(losses).isfinite().all()
    assert "random: nothing" in next((run / "phase1" / "logs").glob("*.out")).read_text()
    assert (run / "phase2" / "DONE.json").is_file()
