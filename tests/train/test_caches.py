"""What is compiled lies on the node's own disk, in a folder of the job that nobody else can write to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bertjobs.train.caches import CACHES, cache_folder, cache_variables, close_cache, open_cache
from tests.train.conftest import Ended, Trial

SLURM = {"SLURM_JOB_ID": "4711", "HOME": "/home/me"}


@pytest.mark.parametrize(
    ("environ", "usable", "folder"),
    [
        ({**SLURM, "SLURM_TMPDIR": "/local", "TMPDIR": "/t"}, {"/local", "/t"}, "/local/bertjobs-7-4711"),
        ({**SLURM, "SLURM_TMPDIR": "/local", "TMPDIR": "/t"}, {"/t"}, "/t/bertjobs-7-4711"),
        ({**SLURM, "SLURM_TMPDIR": "/local"}, set(), "/tmp/bertjobs-7-4711"),
        ({**SLURM, "TMPDIR": ""}, {"", "."}, "/tmp/bertjobs-7-4711"),
        ({"BERTJOBS_JOB": "local-3"}, set(), "/tmp/bertjobs-7-local-3"),
        ({"TMPDIR": "/t"}, {"/t"}, None),  # by hand: nothing tells two jobs apart
    ],
)
def test_the_folder_is_the_nodes_and_the_jobs(environ: dict[str, str], usable: set[str], folder: str | None) -> None:
    chosen = cache_folder(environ, 7, lambda place: str(place) in usable)
    assert chosen == (Path(folder) if folder else None)


def test_what_the_user_has_set_stays() -> None:
    folder = Path("/tmp/bertjobs-7-4711")
    assert cache_variables({}, folder) == {
        "TRITON_CACHE_DIR": "/tmp/bertjobs-7-4711/triton",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/bertjobs-7-4711/inductor",
    }
    assert list(cache_variables({"TRITON_CACHE_DIR": "/mine"}, folder)) == ["TORCHINDUCTOR_CACHE_DIR"]


def test_ranks_share_a_folder_that_is_their_owners_alone(tmp_path: Path) -> None:
    environ = {**SLURM, "TMPDIR": str(tmp_path)}
    first = open_cache(environ)
    assert open_cache(environ) == first
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(first) == set(CACHES)
    assert all(Path(path).parent == folder for path in first.values())
    (folder / "triton").mkdir()
    close_cache({**environ, **first})
    assert not folder.exists()


def test_a_user_who_has_set_both_gets_no_folder_and_loses_none(tmp_path: Path) -> None:
    environ = {**SLURM, "TMPDIR": str(tmp_path), **dict.fromkeys(CACHES, str(tmp_path / "mine"))}
    (tmp_path / "mine").mkdir()
    assert open_cache(environ) == {}
    close_cache(environ)
    assert [folder.name for folder in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("trap", ["link", "others may write", "file"])
def test_a_folder_that_somebody_else_has_prepared_is_not_used(tmp_path: Path, trap: str) -> None:
    environ = {**SLURM, "TMPDIR": str(tmp_path)}
    folder = cache_folder(environ, os.getuid())
    assert folder is not None
    if trap == "link":
        (tmp_path / "theirs").mkdir()
        folder.symlink_to(tmp_path / "theirs")
    elif trap == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert open_cache(environ) == {}
    assert folder.exists()


COMPILING = """
import os
from bertjobs.train.caches import open_cache
os.environ.update(open_cache(os.environ))
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def double(x_ptr):
    tl.store(x_ptr, 2 * tl.load(x_ptr))

triton.compile(ASTSource(double, {"x_ptr": "*fp32"}), target=GPUTarget("cuda", 90, 32))
assert torch.compile(lambda x: x.sin() + 1)(torch.zeros(8)).sum() == 8
"""


@pytest.mark.slow
def test_compiling_needs_no_home(tmp_path: Path) -> None:
    """As in a container, where the home may be read-only or not there: here nothing can be made below it."""
    # torch itself sets one of CACHES, in a process that has compiled before.
    cleared = ("TRITON_HOME", "TRITON_INTERPRET", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", *CACHES)
    environ = {name: value for name, value in os.environ.items() if name not in cleared}
    environ |= {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    (tmp_path / "code.py").write_text(COMPILING)  # Triton reads a kernel's source
    done = subprocess.run([sys.executable, tmp_path / "code.py"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("bertjobs-*-7")
    assert {part.name for part in folder.iterdir()} == set(CACHES.values())
    assert all(any(part.iterdir()) for part in folder.iterdir())


@pytest.fixture
def _variables_as_they_were() -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in CACHES}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.mark.usefixtures("_variables_as_they_were")
@pytest.mark.parametrize("gpus", [0, 1])
def test_a_worker_on_gpus_sets_them_before_it_opens_anything(
    trial: Trial, alone: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int
) -> None:
    """It ends where it would look for its GPU."""
    (tmp_path / "node").mkdir()
    seen: list[str | None] = []

    def end(*_: object) -> None:
        seen.extend(os.environ.get(name) for name in CACHES)
        raise RuntimeError("far enough")

    monkeypatch.setattr("bertjobs.train.worker.check_nodes", end)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    end_of_run = alone(trial.having(GPUS=gpus, BERTJOBS_JOB="9", TMPDIR=tmp_path / "node"), 1)
    assert "far enough" in end_of_run.err
    folder = tmp_path / "node" / f"bertjobs-{os.getuid()}-9"
    assert seen == ([str(folder / part) for part in CACHES.values()] if gpus else [None, None])
