"""What scripts/gpu_check.sh runs on, and whether this PyTorch has code for it.

    python benchmarks/gpu_machine.py RESULTS.jsonl

Adds a line to RESULTS.jsonl with the date, the GPU, its driver and the versions, before anything of this repository is
imported. Exit code 64, with what to install, if PyTorch sees no GPU or was built without its architecture: each
kernel would fail with "no kernel image is available".
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence

PACKAGES = ("torch", "triton", "transformers", "numpy")


def why_no_code(name: str, capability: tuple[int, int], built_for: Sequence[str], torch_version: str) -> str | None:
    """Why a PyTorch cannot run on a GPU, and which can; None if it can.

    Args:
        capability: the GPU's compute capability.
        built_for: ``torch.cuda.get_arch_list()``: ``sm_80`` is machine code for 8.0 and later 8.x, ``sm_90a`` for 9.0
            alone, and from ``compute_80`` the driver makes code for 8.0 and all later ones.
    """
    for architecture in built_for:
        kind, _, digits = architecture.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        built = divmod(int(number[0]), 10)
        exact = number[0] != digits
        if kind == "sm" and (built == capability if exact else built[0] == capability[0] and built <= capability):
            return None
        if kind == "compute" and not exact and built <= capability:
            return None
    chip = f"sm_{capability[0]}{capability[1]}"
    if capability < (7, 5):
        wheel = "the wheels for CUDA 12.6 have it (--index-url https://download.pytorch.org/whl/cu126)"
    else:
        wheel = "the wheels for CUDA 12.8 and later have it (--index-url https://download.pytorch.org/whl/cu128)"
    has = ", ".join(built_for) or "no GPU"
    return f"torch {torch_version} has no code for {name} ({chip}), only for {has}: pip install torch again; {wheel}"


def main() -> int:
    """Write the line; returns the exit code."""
    try:
        import torch

        properties = torch.cuda.get_device_properties(0)  # raises without a GPU
    except Exception as error:  # a library that is missing, a driver that is too old
        print(f"error: {sys.executable} has no PyTorch that sees the GPU: {error}", file=sys.stderr)
        return 64
    capability = torch.cuda.get_device_capability(0)
    problem = why_no_code(properties.name, capability, torch.cuda.get_arch_list(), torch.__version__)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 64
    line = {
        "what": "machine",
        "date": time.strftime("%Y-%m-%d"),
        "device": properties.name,
        "devices": torch.cuda.device_count(),
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "built_for": torch.cuda.get_arch_list(),
        "versions": {"python": platform.python_version(), **versions(), "cuda": torch.version.cuda,
                     "cudnn": torch.backends.cudnn.version(), "driver": driver()},
    }  # fmt: skip
    with open(sys.argv[1], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    words = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    print(f"{properties.name}, {line['memory_gb']} GB; {words}")
    return 0


def versions() -> dict[str, str]:
    """Of the packages that decide how fast a step is; those that are installed."""
    versions_by_name = {}
    for package in PACKAGES:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_by_name


def driver() -> str:
    """The NVIDIA driver's version; "" where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.partition("\n")[0].strip()


if __name__ == "__main__":
    sys.exit(main())
