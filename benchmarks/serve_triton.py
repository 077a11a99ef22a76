"""The Triton server that scripts/install_triton.sh installs, with the exported repository of a model."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "model"
PORT = 18081
TRITON = Path(__file__).resolve().parents[1] / ".venv" / "triton"


def triton_command(folder: Path, work: Path) -> str:
    """What starts Triton with a model, exported anew; ONNX Runtime is called from Python, on as many threads as it
    likes, as this server has no backend for it."""
    if not (TRITON / "installed").exists():
        raise SystemExit("error: no Triton\n  hint: bash scripts/install_triton.sh")
    repository = work / "triton"
    shutil.rmtree(repository, ignore_errors=True)
    words = ["export", folder, "--to", "triton", "--triton-python", "--name", NAME, "--output", repository]
    subprocess.run([sys.executable, "-m", "bertjobs", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    server = TRITON / "server"
    environment = [f"PATH={TRITON / 'bin'}:/usr/bin:/bin", f"PYTHONPATH={TRITON / 'packages'}"]
    command = [
        *("env", *environment, server / "bin" / "tritonserver"),
        *(f"--model-repository={repository}", f"--backend-directory={server / 'backends'}"),
        *("--http-address=127.0.0.1", f"--http-port={PORT}", "--allow-grpc=false", "--allow-metrics=false"),
    ]
    return shlex.join(map(str, command))
