"""A real Triton server on this machine's CPUs, which serves a model repository until it is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
TRITON = ROOT / ".venv" / "triton"


def require_triton() -> None:
    """Skips where the server is not installed; with BERTJOBS_REQUIRE_TRITON=1 that is a failure."""
    if not (TRITON / "installed").exists():
        reason = "no Triton: scripts/install_triton.sh (make triton) has not installed the server"
        if os.environ.get("BERTJOBS_REQUIRE_TRITON") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


class Triton:
    """A server, asked over KServe's protocol, version 2."""

    def __init__(self, repository: Path, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.folder = folder
        self.log = folder / "triton.log"
        server = TRITON / "server"
        words = [
            server / "bin" / "tritonserver", f"--model-repository={repository}",
            f"--backend-directory={server / 'backends'}", "--http-address=127.0.0.1", f"--http-port={self._port}",
            "--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=5",
        ]  # fmt: skip
        environment = {"PATH": f"{TRITON / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(TRITON / "packages"),
                       "HOME": str(folder), "OMP_NUM_THREADS": "1"}  # fmt: skip
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in words], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._is_ready)
        except BaseException:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.log.read_text(errors="replace")[-6000:]
        try:
            self.ask("health/ready")
        except (OSError, urllib.error.HTTPError):
            return False
        return True

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """GET, or POST with a body; raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        address = f"http://127.0.0.1:{self._port}/v2/{path}"
        with urllib.request.urlopen(urllib.request.Request(address, data), timeout=120) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def infer(self, model: str, texts: Mapping[str, list[str]]) -> dict[str, Any]:
        """Outputs by name, each as an array ``[texts, size]``."""
        inputs = [
            {"name": name, "shape": [len(values), 1], "datatype": "BYTES", "data": values}
            for name, values in texts.items()
        ]
        found = self.ask(f"models/{model}/infer", {"inputs": inputs})
        return {one["name"]: np.array(one["data"], dtype=object).reshape(one["shape"]) for one in found["outputs"]}

    def stop(self) -> int:
        """TERM; returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


@contextmanager
def serving(repository: Path, folder: Path) -> Iterator[Triton]:
    """A server that is ready, stopped at the end of the block."""
    server = Triton(repository, folder)
    try:
        yield server
    finally:
        server.stop()
