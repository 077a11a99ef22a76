"""Runs written step by step as a worker writes them; and the trackers' own software, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bertjobs.files.atomic import write_text
from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.checkpoints import folder_name, seal
from bertjobs.run.directory import Done, PhaseDirectory, RunDirectory
from bertjobs.run.series import continued

ROOT = Path(__file__).parents[2]
TRACKERS = ROOT / ".venv" / "trackers" / "bin" / "python"
T0 = 1_800_000_000.0
STEPS = {1: 60, 2: 20}


class WrittenRun:
    """A run of 60 and 20 steps whose folder is written as a worker writes it."""

    def __init__(self, results: Path, name: str = "tracked"):
        flags = {"recipe": "laptop-scratch", "results": str(results), "run": name}
        sets = [f"phase{number}.steps={steps}" for number, steps in STEPS.items()]
        self.spec = resolve(load_catalogue([builtin_file()]), flags=flags, sets=sets, environ={}).spec
        self.directory = RunDirectory(results / name)
        self.directory.create()
        self.directory.write_lockfile(lockfile(self.spec))
        self.attempts = 0
        for number in STEPS:
            self.phase(number).create()

    def phase(self, number: int) -> PhaseDirectory:
        return self.directory.phase(number)

    def start(self, phase: int, step: int) -> None:
        """A new attempt, from the checkpoint of ``step``: the series are cut as a worker cuts them."""
        names = {"phase": phase, "job": "7", "attempt": self.attempts, "world_size": 2, "step": step}
        append_line(self.directory.journal, {"time_unix_s": T0 + 1000 * self.attempts, "event": "started", **names})
        self.attempts += 1
        for file in (self.phase(phase).metrics, self.phase(phase).validation):
            write_text(file, "".join(json.dumps(line) + "\n" for line in continued(read_lines(file), step)))

    def end(self, phase: int, step: int, cause: str, code: int) -> None:
        names = {"phase": phase, "job": "7", "attempt": self.attempts - 1, "step": step}
        line = {"time_unix_s": T0 + 1000 * self.attempts, "event": "ended", "cause": cause, "exit_code": code, **names}
        append_line(self.directory.journal, line)

    def steps(self, phase: int, first: int, last: int, **fields: Any) -> None:
        for step in range(first, last + 1):
            append_line(self.phase(phase).metrics, self.line(phase, step, **fields))

    def line(self, phase: int, step: int, **fields: Any) -> dict[str, Any]:
        """Losses are the same however often the step is made; times are not."""
        return {
            "phase": phase, "step": step, "attempt": self.attempts, "time_unix_s": T0 + 100 * phase + step,
            "loss_nats": 10.0 - 0.1 * step, "gradient_norm": 1.5, "peak_share": None, "step_time_s": 0.5, **fields,
        }  # fmt: skip

    def validate(self, phase: int, step: int) -> None:
        line = {"phase": phase, "step": step, "validation_s": 2.0, "mlm_loss_nats": 9.0 - 0.1 * step}
        append_line(self.phase(phase).validation, line)

    def checkpoint(self, phase: int, step: int) -> Path:
        folder = self.phase(phase).checkpoints / folder_name(step)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        seal(folder, phase=phase, step=step, recipe_hash="0")
        return folder

    def done(self, phase: int, step: int) -> None:
        folder = self.phase(phase).checkpoints / folder_name(step)
        if not folder.exists():
            self.checkpoint(phase, step)
        self.phase(phase).write_done(Done(phase, step, folder.name, "0", "0", T0))

    def finish(self) -> None:
        """Both phases, with a crash in the first that undid ten steps."""
        self.start(1, 0)
        self.steps(1, 1, 30)
        self.validate(1, 20)
        self.checkpoint(1, 20)
        self.end(1, 30, "node failure", 70)
        self.start(1, 20)
        self.steps(1, 21, STEPS[1])
        self.validate(1, STEPS[1])
        self.done(1, STEPS[1])
        self.end(1, STEPS[1], "done", 0)
        self.start(2, 0)
        self.steps(2, 1, STEPS[2])
        self.done(2, STEPS[2])
        self.end(2, STEPS[2], "done", 0)


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "results")


def require_trackers() -> None:
    """Skips where the trackers' software is not installed; with BERTJOBS_REQUIRE_TRACKERS=1 that is a failure."""
    if not TRACKERS.exists():
        reason = "no trackers: scripts/install_trackers.sh (make trackers) has not installed MLflow and wandb"
        if os.environ.get("BERTJOBS_REQUIRE_TRACKERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def sync_words(folder: Path, *arguments: object) -> list[str]:
    """``bertjobs sync`` by the Python that has the trackers' clients."""
    return [str(TRACKERS), "-m", "bertjobs", "sync", *map(str, arguments), "--results", str(folder / "results")]


def sync_environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **environ}


def sync(folder: Path, arguments: Sequence[object], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        sync_words(folder, *arguments), env=sync_environment(environ), cwd=folder, text=True, capture_output=True,
        timeout=600,
    )  # fmt: skip
