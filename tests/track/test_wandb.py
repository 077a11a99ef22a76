"""Weights & Biases: its offline file, read back as wandb's own messages; online with a stand-in for its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertjobs.errors import InputError
from bertjobs.track.replay import read_replay
from bertjobs.track.wandb import WandbTracker
from tests.track.conftest import TRACKERS, WrittenRun, require_trackers, sync, sync_environment, sync_words

OFFLINE = {"WANDB_MODE": "offline", "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567"}

READER = """
import json, struct, sys, zlib
from pathlib import Path
from wandb.proto import wandb_internal_pb2 as messages

def records(data):
    # LevelDB's log: blocks of 32 KiB, in which a record is whole (1), or a first (2), middle (3) or last (4) part.
    place, whole = 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        assert crc == zlib.crc32(part, zlib.crc32(bytes([kind])))
        place += 7 + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            yield messages.Record.FromString(whole)

def plain(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

history, config, run = [], {}, {}
for record in records(Path(sys.argv[1]).read_bytes()):
    kind = record.WhichOneof("record_type")
    if kind == "history":
        history.append({"_step": record.history.step.num, **plain(record.history.item)})
    elif kind == "run":
        run = {"id": record.run.run_id, "name": record.run.display_name, "tags": list(record.run.tags)}
        config.update(plain(record.run.config.update))
    elif kind == "config":
        config.update(plain(record.config.update))
print(json.dumps({"history": history, "config": config, "run": run}))
"""
"""Prints what a file holds, by wandb's own messages; for the records around them wandb 0.31 has no reader in Python."""


def written(run: WrittenRun) -> dict[str, Any]:
    """What wandb's one file of this run holds, according to wandb."""
    (file,) = (run.directory.root / "tracking" / "wandb").glob("*/run-*.wandb")
    words = [str(TRACKERS.with_name("wandb")), "sync", "--dry-run", str(file.parent)]
    dry = subprocess.run(words, env=sync_environment({}), capture_output=True, text=True, check=True)
    assert file.name in dry.stdout + dry.stderr, "wandb finds it"
    done = subprocess.run(
        [str(TRACKERS), "-c", READER, str(file)], env=sync_environment({}), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def assert_complete(run: WrittenRun) -> dict[str, Any]:
    content, points = written(run), read_replay(run.directory).points
    assert [row["_step"] for row in content["history"]] == [point.step for point in points]
    for row, point in zip(content["history"], points, strict=True):
        assert {name: row[name] for name in point.values} == pytest.approx(dict(point.values))
        assert row["_timestamp"] == pytest.approx(point.time_unix_s)
    return content


@pytest.mark.slow
def test_offline_the_file_holds_each_step_once_over_any_number_of_calls(run: WrittenRun, tmp_path: Path) -> None:
    require_trackers()
    run.start(1, 0)
    run.steps(1, 1, 30)
    run.checkpoint(1, 20)
    done = sync(tmp_path, ["tracked", "--to", "wandb"], OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "tracked: 20 steps sent, wandb has 20" in done.stdout
    assert "wandb sync " in done.stdout
    assert_complete(run)
    run.start(1, 20)
    run.steps(1, 21, 60)
    run.validate(1, 60)
    run.done(1, 60)
    done = sync(tmp_path, ["tracked", "--to", "wandb"], OFFLINE)
    assert done.returncode == 0, done.stderr
    content = assert_complete(run)
    assert content["run"]["id"] == read_replay(run.directory).id
    assert content["run"]["name"] == "tracked"
    assert content["config"]["phase1.steps"] == 60
    assert "held_out/mlm_loss_nats" in content["history"][-1]
    everything = [file.read_bytes() for file in run.directory.root.rglob("*") if file.is_file()]
    said = (done.stdout + done.stderr).encode()
    assert not any(OFFLINE["WANDB_API_KEY"].encode() in text for text in [*everything, said])


@pytest.mark.slow
def test_offline_a_sync_that_is_killed_leaves_the_file_before(run: WrittenRun, tmp_path: Path) -> None:
    require_trackers()
    run.start(1, 0)
    run.steps(1, 1, 20)
    run.checkpoint(1, 20)
    assert sync(tmp_path, ["tracked", "--to", "wandb"], OFFLINE).returncode == 0
    run.steps(1, 21, 60)
    run.done(1, 60)
    folder = run.directory.root / "tracking" / "wandb"
    process = subprocess.Popen(
        sync_words(tmp_path, "tracked", "--to", "wandb"), env=sync_environment(OFFLINE), cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob(".tmp-*/wandb/*/*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(written(run)["history"]) in (20, 60)
    assert sync(tmp_path, ["tracked", "--to", "wandb"], OFFLINE).returncode == 0
    assert_complete(run)
    assert not list(folder.glob(".tmp-*"))


class Online:
    """A stand-in for wandb and its server, which has what was logged before."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.begun: list[dict[str, Any]] = []

    def Settings(self, **options: Any) -> dict[str, Any]:
        return options

    def init(self, **options: Any) -> Any:
        self.begun.append(options)
        return SimpleNamespace(
            step=max(self.rows, default=-1) + 1, resumed=bool(self.rows), url="https://wandb.example.org/r", summary={},
            config=SimpleNamespace(update=lambda *_, **__: None), log=self.log, finish=lambda: None, tags=(),
        )  # fmt: skip

    def log(self, values: dict[str, float], step: int) -> None:
        assert step > max(self.rows, default=0), "wandb drops a step that does not come after the last one"
        self.rows[step] = values


def test_online_the_server_says_where_to_resume(run: WrittenRun, tmp_path: Path) -> None:
    server = Online()
    run.start(1, 0)
    run.steps(1, 1, 20)
    run.checkpoint(1, 20)
    first = WandbTracker(tmp_path, {"WANDB_PROJECT": "mine"}, server)
    assert first.add(read_replay(run.directory)) == 20
    for step in range(16, 21):  # the process was killed before they were sent
        del server.rows[step]
    run.steps(1, 21, 60)
    run.done(1, 60)
    second = WandbTracker(tmp_path, {}, server)
    assert second.add(read_replay(run.directory)) == 45
    assert second.add(read_replay(run.directory)) == 0
    second.close()
    assert sorted(server.rows) == list(range(1, 61))
    assert [(one["id"], one["resume"], one["mode"]) for one in server.begun] == [
        (read_replay(run.directory).id, "allow", "online")
    ] * 2
    assert [one["project"] for one in server.begun] == ["mine", "bertjobs"]
    assert second.place == "https://wandb.example.org/r"


def test_a_mode_that_sends_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would record nothing: WANDB_MODE is 'disabled'"):
        WandbTracker(tmp_path, {"WANDB_MODE": "disabled"}, Online())
