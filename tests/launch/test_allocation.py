"""The GPUs of a job by hand: what its step asks for, or the sentence that says what to add to sbatch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch.allocation import Allocation, Share, main, share
from tests.slurm.conftest import Tool


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        # Asked for: Slurm gives them to the step by itself.
        (Allocation(4, asked=True, gpus=32, on_node=8, visible=8), None),
        # Brought along by --exclusive: the step has to ask.
        (Allocation(4, gpus=32, on_node=8, exclusive=True), Share(8, ("--gres=gpu:8",))),
        (Allocation(4, tasks_per_node=4, gpus=32, on_node=8, exclusive=True), Share(4, ("--gres=gpu:8",))),
        # GPUs that Slurm does not count.
        (Allocation(4, visible=8, exclusive=True), Share(8)),
        (Allocation(4, tasks_per_node=8, visible=8), None),
        (Allocation(1, visible=1), Share(1)),
        (Allocation(1, tasks_per_node=8), None),
    ],
)
def test_a_task_per_gpu(allocation: Allocation, expected: Share | None) -> None:
    assert share("dgxa100-40g", allocation) == expected


@pytest.mark.parametrize(
    ("allocation", "sentence"),
    [
        (
            Allocation(4, on_node=8, visible=8),
            "this job has none of the 8 that its node has: add --gpus-per-node=8 to sbatch, or set GPUS=0",
        ),
        (Allocation(4, tasks_per_node=8, on_node=4), "none of the 4 that its node has: add --gpus-per-node=4"),
        (
            Allocation(2, gpus=13, on_node=8, exclusive=True),
            "this job's 2 nodes have 13 in all, not the same number each",
        ),
        (Allocation(2, visible=8), "Slurm does not count the 8 of this node: add --exclusive to sbatch, or"),
        (Allocation(2), "neither Slurm nor nvidia-smi names any on this node: choose a partition with GPUs"),
    ],
)
def test_a_job_without_its_gpus_ends_with_one_sentence_that_names_the_recipe(
    allocation: Allocation, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        share("dgxa100-40g", allocation)
    assert sentence in caught.value.what
    assert caught.value.what.startswith("recipe dgxa100-40g trains on GPUs, ")
    assert len(caught.value.render().splitlines()) == 1


JOB = (
    "JobId=7 JobName=bertjobs\n   JobState=RUNNING\n   TRES=cpu=64,node=4,billing=64{tres}\n   OverSubscribe={shared}\n"
)
NODE = "NodeName=node1 Arch=x86_64\n   Gres=gpu:a100:8(S:0-1)\n   NodeAddr=10.0.0.1\n"


@pytest.fixture
def environ(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """run.sub's, of a job of four nodes that names no recipe."""
    monkeypatch.chdir(tmp_path)
    tool("nvidia-smi", "exit 9")
    return {
        "PATH": str(tmp_path / "bin"), "RESULTS": "results", "RUN": "bert-large", "RECIPE": "dgxa100-40g",
        "PHASE": "1", "BATCHSIZE": "2048", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4",
        "SLURM_JOB_NODELIST": "node[1-4]", "SLURMD_NODENAME": "node1",
    }  # fmt: skip


def answers(tool: Tool, tres: str, shared: str) -> None:
    job = JOB.format(tres=tres, shared=shared)
    tool("scontrol", f"[[ $2 == job ]] && echo '{job}'\n[[ $2 == node ]] && echo '{NODE}'\ntrue")


def test_an_exclusive_job_s_gpus_are_found(environ: dict[str, str], tool: Tool) -> None:
    answers(tool, ",gres/gpu=32,gres/gpu:a100=32", "NO")
    assert main(environ) == "8 --gres=gpu:8"


def test_a_job_without_gpus_is_refused(environ: dict[str, str], tool: Tool) -> None:
    answers(tool, "", "OK")
    with pytest.raises(InputError, match="recipe dgxa100-40g trains on GPUs, and this job has none of the 8"):
        main(environ)


def test_a_run_on_cpus_and_one_that_cannot_be_resolved_are_left_alone(
    environ: dict[str, str],
    tool: Tool,
) -> None:
    answers(tool, "", "OK")
    assert main({**environ, "RECIPE": "laptop-scratch"}) == ""
    assert main({**environ, "RECIPE": "no-such-recipe"}) == ""


def test_it_needs_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import bertjobs.launch.allocation"
    subprocess.run([sys.executable, "-c", program], check=True)
