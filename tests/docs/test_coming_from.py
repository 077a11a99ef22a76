"""The pages for people who come from HetSeq and from NVIDIA's BERT name every option of theirs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bertjobs.cli.arguments import resolve_arguments
from bertjobs.cli.main import build_parser
from tests.docs.pages import SITE, Page
from tests.scripts.test_run_pretraining import NAMES

HETSEQ = [
    "no-progress-bar",
    "seed",
    "cpu",
    "log-interval",
    "log-format",
    "num-workers",
    "max-tokens",
    "max-sentences",
    "batch-size",
    "required-batch-size-multiple",
    "train-subset",
    "valid-subset",
    "validate-interval",
    "disable-validation",
    "max-tokens-valid",
    "max-sentences-valid",
    "curriculum",
    "task",
    "data",
    "dict",
    "config_file",
    "max_pred_length",
    "num_file",
    "train_file",
    "validation_file",
    "test_file",
    "extension_file",
    "hetseq_state_dict",
    "transformers_state_dict",
    "load_state_dict_strict",
    "distributed-world-size",
    "distributed-rank",
    "distributed-gpus",
    "distributed-backend",
    "distributed-init-method",
    "device-id",
    "distributed-no-spawn",
    "ddp-backend",
    "bucket-cap-mb",
    "fix-batches-to-gpus",
    "find-unused-parameters",
    "fast-stat-sync",
    "max-epoch",
    "max-update",
    "clip-norm",
    "update-freq",
    "lr",
    "min-lr",
    "use-bmuf",
    "optimizer",
    "adam-betas",
    "adam-eps",
    "weight-decay",
    "lr_scheduler",
    "force-anneal",
    "warmup-updates",
    "end-learning-rate",
    "power",
    "total-num-update",
    "save-dir",
    "restore-file",
    "reset-dataloader",
    "reset-lr-scheduler",
    "reset-meters",
    "reset-optimizer",
    "optimizer-overrides",
    "save-interval",
    "save-interval-updates",
    "keep-interval-updates",
    "keep-last-epochs",
    "no-save",
    "no-epoch-checkpoints",
    "no-last-checkpoints",
    "no-save-optimizer-state",
    "best-checkpoint-metric",
    "maximize-best-checkpoint-metric",
]
"""Of its train.py, for the task bert and the optimizer adam."""

NVIDIA = [
    "input_dir",
    "config_file",
    "bert_model",
    "output_dir",
    "vocab_file",
    "init_checkpoint",
    "max_seq_length",
    "max_predictions_per_seq",
    "train_batch_size",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "warmup_proportion",
    "local_rank",
    "seed",
    "gradient_accumulation_steps",
    "fp16",
    "amp",
    "loss_scale",
    "log_freq",
    "checkpoint_activations",
    "resume_from_checkpoint",
    "resume_step",
    "num_steps_per_checkpoint",
    "skip_checkpoint",
    "phase2",
    "resume_phase2",
    "allreduce_post_accumulation",
    "allreduce_post_accumulation_fp16",
    "phase1_end_step",
    "init_loss_scale",
    "do_train",
    "json-summary",
    "use_env",
    "disable_progress_bar",
    "steps_this_run",
    "profile",
    "profile-start",
    "num_workers",
    "no_dense_sequence_output",
    "disable_jit_fusions",
    "cuda_graphs",
]
"""Of its run_pretraining.py."""

RUN_SUB = [
    "IMAGE_VERSION",
    "DASK_TASKS_PER_NODE",
    "PHASE",
    "SEED",
    "SAMPLE_RATIO",
    "STEPS_THIS_RUN",
    "GPUS",
    "BIN_SIZE",
    "NUM_SHARDS_PER_WORKER",
    "NUM_WORKERS",
    "RERUN_DASK",
    "MASKING",
    "USE_JEMALLOC",
    "PRECISION",
    "CONFIG",
    "INIT_CHECKPOINT",
    "TRAIN_BATCH_SIZE",
    "GRADIENT_ACCUMULATION_STEPS",
    "BATCHSIZE",
    "LR",
    "GRADIENT_STEPS",
]
"""The variables of its run.sub, and those that its README gives."""


def first_columns(name: str) -> set[str]:
    """The words of the code in all columns of the page's tables but the last."""
    lines = (SITE / name).read_text(encoding="utf-8").splitlines()
    cells = [" ".join(line.split(" | ")[:-1]) for line in lines if line.startswith("| ")]
    return {word for cell in cells for code in re.findall(r"`([^`]+)`", cell) for word in code.split()}


@pytest.mark.parametrize("option", HETSEQ)
def test_every_option_of_hetseq_has_its_row(option: str) -> None:
    assert f"--{option}" in first_columns("from-hetseq.md")


@pytest.mark.parametrize("option", NVIDIA)
def test_every_option_of_nvidias_run_pretraining_has_its_row(option: str) -> None:
    assert f"--{option}" in first_columns("from-nvidia.md")


@pytest.mark.parametrize("name", [*NAMES, *RUN_SUB])
def test_every_argument_and_variable_of_nvidias_scripts_has_its_row(name: str) -> None:
    assert name in first_columns("from-nvidia.md")


def test_the_recipe_for_hetseqs_command_is_valid_and_has_its_batches(tmp_path: Path) -> None:
    (block,) = [one for one in Page(SITE / "from-hetseq.md").code_blocks() if one.startswith("systems:")]
    (tmp_path / "mine.yml").write_text(block)
    words = ["submit", "--recipes", str(tmp_path / "mine.yml"), "--recipe", "hetseq", "--nodes", "2"]
    spec = resolve_arguments(build_parser().parse_args(words), {"XDG_CONFIG_HOME": str(tmp_path)}).spec
    first, second = spec.phases
    assert (spec.world_size, spec.masking, spec.decay, spec.optimizer.name) == (8, "static", "linear", "adamw")
    assert (first.global_batch, first.micro_batch, first.gradient_steps) == (32 * 8 * 4, 32, 4)
    assert (second.sequence_length, second.gradient_steps) == (512, 4)


@pytest.mark.parametrize("name", ["from-hetseq.md", "from-nvidia.md"])
def test_what_has_no_counterpart_is_named_at_the_end(name: str) -> None:
    assert Page(SITE / name).headings()[-1] == "What you would miss"
