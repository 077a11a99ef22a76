"""What scripts/gpu_check.sh runs on, and whether this PyTorch has code for it.

    python benchmarks/gpu_machine.py RESULTS.jsonl

Adds a line to RESULTS.jsonl with the date, the GPU, its driver and the versions. Of this repository it imports nothing
that needs another package. Exit code 64, with what to install, if PyTorch sees no GPU or was built without its
architecture: each kernel would fail with "no kernel image is available".
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bertjobs.errors import InputError
from bertjobs.run.torch_wheels import check_architecture

PACKAGES = ("torch", "triton", "transformers", "numpy")


def main() -> int:
    """Write the line; returns the exit code."""
    try:
        import torch

        properties = torch.cuda.get_device_properties(0)  # raises without a GPU
    except Exception as error:  # a library that is missing, a driver that is too old
        print(f"error: {sys.executable} has no PyTorch that sees the GPU: {error}", file=sys.stderr)
        return 64
    capability, built_for = torch.cuda.get_device_capability(0), torch.cuda.get_arch_list()
    try:
        check_architecture(properties.name, capability, built_for, torch.__version__, str(torch.version.cuda))
    except InputError as error:
        print(f"error: {error.what}; {error.hint}", file=sys.stderr)
        return 64
    line: dict[str, Any] = {
        "what": "machine",
        "date": time.strftime("%Y-%m-%d"),
        "device": properties.name,
        "devices": torch.cuda.device_count(),
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "built_for": built_for,
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
