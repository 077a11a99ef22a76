"""Compile Triton kernels for GPUs that are not here, in a process without Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

for_each_gpu = pytest.mark.parametrize("capability", [pytest.param(80, id="a100", marks=pytest.mark.slow),
                                                      pytest.param(90, id="h100")])  # fmt: skip
"""A test that takes a ``capability``; the older GPU's compiler passes are much the same, and take as long."""


def compiles(code: str, capability: int, folder: Path) -> None:
    """Run ``code`` with the arguments ``capability`` and ``folder``; it prints "compiled" at its end."""
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(capability), str(folder)],
        env={**environ, "TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout)
    assert done.stdout.endswith("compiled\n"), done.stderr
