"""A server as a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.slurm import PATIENCE_S


class Answer(NamedTuple):
    """What came back; ``content`` is the body's JSON, or the body itself."""

    status: int
    headers: Mapping[str, str]
    content: Any


@dataclass
class Running:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int
    log_file: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said on standard error."""
        return self.log_file.read_text()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("GET", path, None, headers)

    def post(self, path: str, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.send("POST", path, body, headers)

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return Answer(response.status, response.headers, json.loads(raw) if is_json else raw)

    def metric(self, name: str, **labels: str) -> float:
        """A number of the metrics, summed over all its labels but these; 0 if there is none."""
        found = 0.0
        for line in self.get("/metrics").content.decode().splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                found += float(line.rsplit(" ", 1)[1])
        return found


@contextmanager
def serving(place: Path, *words: object, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """``bertjobs serve WORDS`` on a free port, in the folder ``place``; it is killed if it does not end by itself."""
    log_file = place / f"serve-{time.monotonic_ns()}.log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bertjobs", "serve", *map(str, words), "--port", "0", "--threads", "1"],
            cwd=place, env={**os.environ, **(environ or {})}, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        assert process.stdout
        assert select.select([process.stdout], [], [], PATIENCE_S)[0], "it does not start"
        line = process.stdout.readline()
        assert line.startswith("serving at "), log_file.read_text()
        yield Running(process, int(line.split(":")[2].split("/")[0]), log_file)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
