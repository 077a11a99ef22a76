"""What is said of a Python environment that is to run a worker."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bertjobs.train import image_check
from bertjobs.train.image_check import (
    Finding,
    check_all,
    check_bertjobs,
    check_folders,
    check_package,
    check_torch,
    main,
    report,
    version_numbers,
)


def test_an_old_python_can_read_it_and_is_told_that_it_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    ast.parse(Path(image_check.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    (finding,) = check_all("", 0, (), ())
    assert finding.is_missing
    assert finding.what == "Python 3.8.10 is older than 3.11"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.11.0a0+nv26.01", (2, 11, 0)), ("18", (18,)), ("2024.6.1", (2024, 6, 1)), ("", ()), ("x", ())],
)
def test_the_numbers_of_a_version(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


def test_a_package_is_there_too_old_or_missing() -> None:
    assert check_package("torch", "2.11", "2.11.0a0+nv26.01", False) == Finding("torch 2.11.0a0+nv26.01")
    assert check_package("pyarrow", "18", "18.1.0", False) == Finding("pyarrow 18.1.0")
    assert check_package("pyarrow", "18", "", False) == Finding("pyarrow of unknown version")
    assert check_package("numpy", "2.0", "1.26.4", False) == Finding(
        "numpy 1.26.4 is older than 2.0", True, "numpy>=2.0"
    )
    assert check_package("pyarrow", "18", None, False) == Finding("no pyarrow", True, "pyarrow>=18")
    only_data = check_package("fsspec", "2024.6", None, True)
    assert not only_data.is_missing
    assert "only data preparation" in only_data.what


def test_the_version_that_runs_is_the_one_that_submits() -> None:
    own = image_check.__version__
    assert not check_bertjobs(own, own).is_missing
    assert not check_bertjobs("", None).is_missing
    assert check_bertjobs(own, "0.0.1").what == f"bertjobs {own}, mounted over the image's 0.0.1"
    assert check_bertjobs("9.9", own).is_missing


def torch_of(**cuda: object) -> SimpleNamespace:
    """A torch for CUDA 13.0 that sees one H200."""
    working = {
        "is_available": lambda: True, "device_count": lambda: 1, "get_device_name": lambda _: "NVIDIA H200",
        "get_device_capability": lambda _: (9, 0), "get_arch_list": lambda: ["sm_80", "sm_90"],
        "nccl": SimpleNamespace(version=lambda: (2, 28, 3)), **cuda,
    }  # fmt: skip
    return SimpleNamespace(
        __version__="2.13.0+cu130",
        version=SimpleNamespace(cuda="13.0"),
        distributed=SimpleNamespace(is_nccl_available=lambda: True),
        cuda=SimpleNamespace(**working),
    )


def missing(findings: list[Finding]) -> str:
    return "; ".join(finding.what for finding in findings if finding.is_missing)


def test_what_torch_says_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(torch: object, gpus: int = 1) -> list[Finding]:
        monkeypatch.setattr(importlib, "import_module", lambda _: torch)
        return check_torch(gpus)

    good = said(torch_of())
    assert missing(good) == ""
    assert [finding.what for finding in good] == [
        "torch's CUDA 13.0, NCCL 2.28.3", "GPU 0: NVIDIA H200, for which this torch has code",
    ]  # fmt: skip
    assert "needs code for sm_70" in missing(said(torch_of(get_device_capability=lambda _: (7, 0))))
    assert missing(said(torch_of(is_available=lambda: False))) == "torch sees 0 of 1 GPUs"
    assert missing(said(torch_of(), 2)) == "torch sees 1 of 2 GPUs"
    without = torch_of()
    without.distributed.is_nccl_available = lambda: False
    assert "torch has no NCCL" in missing(said(without))
    without.version.cuda = None
    assert missing(said(without)) == "torch is built without CUDA"
    assert missing(said(without, 0)) == ""


def test_a_torch_that_cannot_be_imported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(importlib, "import_module", fail)
    (finding,) = check_torch(0)
    assert finding.what == "torch cannot be imported: libcudart.so.13: cannot open shared object file"
    assert finding.is_missing


def test_folders_must_be_visible_and_one_for_caches_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    findings = check_folders([str(tmp_path), "/nowhere"], [str(tmp_path), "/proc"])
    assert [finding.is_missing for finding in findings] == [False, True, False, True, False]
    assert findings[1].what == "/nowhere is not visible"
    assert findings[3].what.startswith("/proc cannot be written: ")
    assert findings[4].what == f"compiled code goes below {tmp_path}"


def test_the_report_says_what_to_add() -> None:
    lines: list[str] = []
    findings = [
        Finding("Python 3.12.1"), Finding("no fsspec, for data", False, "fsspec>=1"),
        Finding("no torch", True, "torch>=2"), Finding("/data is not visible", True, hint="mount it"),
    ]  # fmt: skip
    assert report(findings, lines.append) == 64
    assert lines == [
        "ok      Python 3.12.1", "note    no fsspec, for data", "MISSING no torch", "MISSING /data is not visible", "",
        "error: a worker cannot run here: no torch; /data is not visible", "  hint:  mount it",
        "  hint:  in the Dockerfile: RUN python3 -m pip install 'fsspec>=1' 'torch>=2'",
    ]  # fmt: skip
    assert report(findings[:2], lines.append) == 0


def test_this_environment_runs_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--expect", image_check.__version__]) == 0
    assert capsys.readouterr().out.endswith("a worker can run here\n")


def test_all_that_a_worker_imports_is_checked() -> None:
    """Modules of other packages in the worker's and the array jobs' own code, wherever they are imported."""
    own = Path(image_check.__file__).parents[1]
    floors = ("train", "model", "optim", "data", "run", "recipe", "files")
    optional = {"apex", "amp_C", "triton", "tensorboard", "lddl", "datasets", "h5py", "nltk", "transformers"}
    imported = set()
    for file in (file for floor in floors for file in (own / floor).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"bertjobs"} - optional
    assert foreign <= {module for _, module, _, _ in image_check.NEEDED} | set(image_check.ON_THE_HOST)
