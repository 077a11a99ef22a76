"""Where a run goes, and what is left where it cannot be queued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError
from bertjobs.launch.start import choose_backend, start_on_slurm, write_run
from bertjobs.launch.unanswered import UnansweredError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.refusals import NoAnswer
from tests.launch.conftest import Tool


@pytest.mark.parametrize(
    ("asked", "before", "expected"),
    [
        ("auto", None, "slurm"), ("auto", "local", "local"), ("auto", "slurm", "slurm"), ("slurm", "local", "slurm"),
        ("local", "slurm", "local"),
    ],
)  # fmt: skip
def test_a_run_of_this_machine_is_resumed_here_unless_asked_otherwise(
    tmp_path: Path, tool: Tool, asked: str, before: str | None, expected: str
) -> None:
    tool("sbatch", "exit 0")
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop-scratch"}, environ={}).spec
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.record("submitted", backend=before or "slurm", phase=1, job="1")
    resumed = directory if before else None
    assert choose_backend(asked, spec, Slurm({"PATH": str(tmp_path / "bin")}), resumed) == expected


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path / "results"), "run": "first"}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec


UNANSWERED = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


@pytest.mark.parametrize("queue", ["empty", "silent"])
def test_the_settings_of_a_run_whose_resume_nobody_answered_stay_if_it_may_be_queued(
    tmp_path: Path, tool: Tool, spec: RunSpec, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    monkeypatch.setattr("bertjobs.launch.unanswered.APPEARS_S", 0.0)
    directory = write_run(spec)
    before = directory.lockfile.read_text()
    silent = f'[[ -f {tmp_path}/asked ]] && {{ echo "Unable to contact slurm controller" >&2; exit 1; }}; exit 0'
    tool("squeue", silent if queue == "silent" else "exit 0")
    tool("sbatch", f": >{tmp_path}/asked; {UNANSWERED}")
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    with pytest.raises(UnansweredError if queue == "silent" else NoAnswer):
        start_on_slurm(replace(spec, seed=7), SlurmOptions(), slurm)
    assert (directory.lockfile.read_text() == before) == (queue == "empty")


def test_a_run_that_is_refused_leaves_what_others_put_beside_it(tmp_path: Path, tool: Tool, spec: RunSpec) -> None:
    results = Path(spec.results)
    tool("squeue", "exit 0")
    tool("sbatch", f"mkdir -p {results}/second; echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    with pytest.raises(BertjobsError, match="QOSMaxSubmitJobPerUserLimit"):
        start_on_slurm(spec, SlurmOptions(), slurm)
    assert [path.name for path in results.iterdir()] == ["second"]
    (results / "second").rmdir()
    results.rmdir()
    tool("sbatch", "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1")
    with pytest.raises(BertjobsError, match="QOSMaxSubmitJobPerUserLimit"):
        start_on_slurm(spec, SlurmOptions(), slurm)
    assert not results.exists()
