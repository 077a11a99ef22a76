"""What comes after pretraining, as jobs of a real Slurm: fine-tuning, and distillation from its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertjobs.files.json_lines import read_lines
from bertjobs.model.huggingface import WEIGHTS_FILE
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import weights_of
from tests.cluster.slurm import Cluster
from tests.conftest import run_bertjobs, wait_until
from tests.finetune.conftest import place  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

TASK = ("--task", "sentences", "--data", "data")
Submitted = Callable[..., tuple[RunDirectory, str]]
QUICK = ("--set", "phase1.lr=1e-2", "--set", "phase1.global_batch=16", "--set", "phase1.sequence_length=32")


@pytest.fixture
def submitted(cluster: Cluster, place: Path) -> Submitted:  # noqa: F811
    """Submits a run to two nodes; gives its folder and job."""

    def start(verb: str, run: str, *words: str) -> tuple[RunDirectory, str]:
        arguments = (verb, *TASK, "--run", run, "--backend", "slurm", "--nodes", "2", *QUICK, *words)
        done = run_bertjobs(arguments, place, cluster.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        directory = RunDirectory(place / "results" / run)
        (job,) = [event["job"] for event in directory.events() if event["event"] == "submitted"]
        return directory, job

    return start


def log_of(directory: RunDirectory) -> str:
    return "\n".join(file.read_text() for file in directory.phase(1).outputs())


def test_a_task_is_fine_tuned_and_then_distilled(cluster: Cluster, submitted: Submitted) -> None:
    """The second job is signalled in the middle, and ends as one that was not."""
    teacher, job = submitted("finetune", "teacher", "--from", "model", "--set", "phase1.epochs=4")
    assert cluster.wait(job) == "COMPLETED", log_of(teacher)
    assert "world size 2 = 2 nodes x 1 task" in log_of(teacher)

    words = ("--teacher", "teacher", "--student", "1x16x2x32", "--set", "phase1.epochs=20")
    whole, job = submitted("distill", "whole", *words)
    assert cluster.wait(job) == "COMPLETED", log_of(whole)
    stopped, job = submitted("distill", "stopped", *words)
    wait_until(lambda: stopped.phase(1).metrics.exists() and len(read_lines(stopped.phase(1).metrics)) > 3)
    cluster.run(["scancel", "--signal=USR2", job])
    assert cluster.wait(job) == "COMPLETED", log_of(stopped)
    causes = [event["cause"] for event in stopped.events() if event["event"] == "ended"]
    assert causes == ["SIGUSR2", "done"], log_of(stopped)
    first, second = (load_file(weights_of(one.name, one.root.parent) / WEIGHTS_FILE) for one in (whole, stopped))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert json.loads(stopped.phase(1).result.read_text())["dev"]["accuracy"] > 0.9
