"""MLflow: a real server on this machine, asked over its REST API what it has."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertjobs.track.replay import read_replay
from tests.conftest import wait_until
from tests.track.conftest import TRACKERS, WrittenRun, require_trackers, sync, sync_environment, sync_words

pytestmark = pytest.mark.slow  # a server of 500 MB

TOKEN = "a-token-that-nobody-may-see"


class Server:
    """MLflow's tracking server with a database in ``folder``."""

    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        words = [
            *(TRACKERS.with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", port, "--workers", 1),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts"),
        ]
        with open(folder / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                [str(word) for word in words], cwd=folder, env=sync_environment({}), stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the server has ended: see server.log"
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}/api/2.0/mlflow/{path}", timeout=60) as answer:
            return json.load(answer)

    def run_of(self, id: str, experiment: str = "bertjobs") -> dict[str, Any]:
        """The one run with this tag."""
        number = self.get(f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
        found = self.ask("runs/search", experiment_ids=[number], filter=f"tags.`bertjobs.id` = '{id}'")
        (run,) = found["runs"]
        return run

    def history(self, run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
        path = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={metric}&max_results=25000"
        return [(int(one["step"]), one["value"]) for one in self.get(path).get("metrics", [])]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_trackers()
    started = Server(tmp_path_factory.mktemp("mlflow"))
    yield started
    started.stop()


@pytest.fixture
def environ(server: Server) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": server.address, "MLFLOW_TRACKING_TOKEN": TOKEN, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }  # fmt: skip


def assert_complete(server: Server, run: WrittenRun) -> dict[str, Any]:
    """Every metric has each of its steps once, with the value of metrics.jsonl."""
    replay = read_replay(run.directory)
    there = server.run_of(replay.id)
    names = {name for point in replay.points for name in point.values}
    assert {metric["key"] for metric in there["data"]["metrics"]} == names
    for name in names:
        history = server.history(there, name)
        wanted = [(point.step, point.values[name]) for point in replay.points if name in point.values]
        assert sorted(history) == [(step, pytest.approx(value)) for step, value in wanted], name
    return there


def test_a_run_is_replayed_with_its_settings_and_attempts(
    server: Server, run: WrittenRun, environ: dict[str, str], tmp_path: Path
) -> None:
    run.finish()
    done = sync(tmp_path, ["tracked", "--to", "mlflow"], environ)
    assert done.returncode == 0, done.stderr
    assert "tracked: 80 steps sent, mlflow has 80" in done.stdout
    there = assert_complete(server, run)
    assert there["info"]["run_name"] == "tracked"
    assert there["info"]["status"] == "FINISHED"
    assert there["info"]["end_time"] == round(1000 * read_replay(run.directory).points[-1].time_unix_s)
    parameters = {one["key"]: one["value"] for one in there["data"]["params"]}
    assert (parameters["phase1.steps"], parameters["model.name"]) == ("60", run.spec.model.name)
    tags = {one["key"]: one["value"] for one in there["data"]["tags"]}
    assert tags["attempts"] == "3"
    assert "a node failed" in tags["attempt 1"]
    again = sync(tmp_path, ["tracked", "--to", "mlflow"], environ)
    assert "tracked: 0 steps sent, mlflow has 80" in again.stdout, again.stderr
    assert_complete(server, run)
    written = [file.read_bytes() for file in run.directory.root.rglob("*") if file.is_file()]
    said = (done.stdout + done.stderr + again.stdout + again.stderr).encode()
    assert not any(TOKEN.encode() in text for text in [*written, said])


def test_a_setting_that_was_changed_becomes_a_tag(
    server: Server, run: WrittenRun, environ: dict[str, str], tmp_path: Path
) -> None:
    run.start(1, 0)
    run.steps(1, 1, 10)
    run.checkpoint(1, 10)
    sync(tmp_path, ["tracked", "--to", "mlflow"], environ)
    text = run.directory.lockfile.read_text()
    assert "nodes: 1\n" in text
    run.directory.write_lockfile(text.replace("nodes: 1\n", "nodes: 2\n"))
    done = sync(tmp_path, ["tracked", "--to", "mlflow"], environ)
    assert done.returncode == 0, done.stderr
    there = server.run_of(read_replay(run.directory).id)
    assert {one["key"]: one["value"] for one in there["data"]["params"]}["nodes"] == "1"
    assert {one["key"]: one["value"] for one in there["data"]["tags"]}["now nodes"] == "2"
    assert there["info"]["status"] == "RUNNING"


def test_killed_again_and_again_it_leaves_no_gap_and_no_double_step(
    server: Server, run: WrittenRun, environ: dict[str, str], tmp_path: Path
) -> None:
    """Each request is small here, so that most kills fall between two of them."""
    run.finish()
    small = tmp_path / "small"
    small.mkdir()
    (small / "sitecustomize.py").write_text("import bertjobs.track.mlflow as one\none.METRICS_PER_REQUEST = 7\n")
    hasty = sync_environment(environ)
    hasty["PYTHONPATH"] = f"{small}:{hasty['PYTHONPATH']}"
    draw, id = random.Random(5), read_replay(run.directory).id
    ended = Counter()
    for _ in range(4):
        process = subprocess.Popen(
            sync_words(tmp_path, "tracked", "--to", "mlflow"), env=hasty, cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = count(server, id)
        deadline = time.monotonic() + 120
        while process.poll() is None and count(server, id) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        ended["killed" if process.poll() is None else "whole"] += 1
        process.kill()
        process.wait()
    assert ended["killed"], "no kill fell into a replay"
    done = sync(tmp_path, ["tracked", "--to", "mlflow"], environ)
    assert done.returncode == 0, done.stderr
    assert_complete(server, run)


def count(server: Server, id: str) -> int:
    """How many values of one metric the server has; 0 before there is a run."""
    try:
        return len(server.history(server.run_of(id), "train/loss_nats"))
    except (urllib.error.HTTPError, ValueError, KeyError):
        return 0


def test_following_over_a_restart_of_the_run_until_it_is_done(
    server: Server, run: WrittenRun, environ: dict[str, str], tmp_path: Path
) -> None:
    run.start(1, 0)
    run.steps(1, 1, 30)
    run.checkpoint(1, 20)
    words = sync_words(tmp_path, "tracked", "--to", "mlflow", "--follow", "--every", 1)
    with subprocess.Popen(
        words, env=sync_environment(environ), cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        id = read_replay(run.directory).id
        wait_until(lambda: count(server, id) == 20)
        run.start(1, 20)
        run.steps(1, 21, 60)
        run.done(1, 60)
        wait_until(lambda: count(server, id) == 60)
        run.start(2, 0)
        run.steps(2, 1, 20)
        run.done(2, 20)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [line.split(",")[0] for line in output.splitlines()] == [
        "tracked: 20 steps sent", "tracked: 40 steps sent", "tracked: 20 steps sent",
    ]  # fmt: skip
    assert_complete(server, run)


def test_a_server_that_is_down_is_told_without_secrets(
    server: Server, run: WrittenRun, environ: dict[str, str], tmp_path: Path
) -> None:
    del server
    run.finish()
    nowhere = {**environ, "MLFLOW_TRACKING_URI": "http://me:secret-word@127.0.0.1:9"}
    done = sync(tmp_path, ["tracked", "--to", "mlflow"], nowhere)
    assert done.returncode == 70
    assert "mlflow rejected run 'tracked'" in done.stderr
    assert "give the same command again" in done.stderr
    assert "secret-word" not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_without_a_server_s_address_it_is_asked_for(run: WrittenRun, tmp_path: Path) -> None:
    require_trackers()
    run.finish()
    done = sync(tmp_path, ["tracked", "--to", "mlflow"], {})
    assert done.returncode == 64
    assert "export MLFLOW_TRACKING_URI=" in done.stderr
