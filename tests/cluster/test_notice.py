"""Slurm's mail and a webhook say when a run is done, has stopped or restarts; nothing waits for them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.process import ranks_of
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until
from tests.launch.webhook import SECRET, Webhook, served

ADDRESS = "me@example.org"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with served() as hook:
        yield hook


@pytest.fixture
def data(speeches_data: Path, tmp_path: Path) -> Path:
    """The data, in the test's own folder."""
    own = tmp_path / "data"
    own.symlink_to(speeches_data)
    return own


@pytest.fixture
def site(tmp_path: Path, webhook: Webhook) -> Path:
    """A site whose webhook's address is in a file; the test may write another one into it."""
    secret = tmp_path / "private" / "webhook"
    secret.parent.mkdir()
    secret.write_text(webhook.address)
    secret.chmod(0o600)
    sites = tmp_path / ".config" / "bertjobs" / "sites"
    sites.mkdir(parents=True)
    (sites / "here.yml").write_text(json.dumps({"notify": {"mail": ADDRESS, "webhook": str(secret)}}))
    return secret


def submit(cluster: Cluster, bertjobs: Bertjobs, data: Path, *more: object) -> None:
    own = {"XDG_CONFIG_HOME": str(data.parent / ".config")}
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", data, "--set", "phase1.checkpoint_every=5", *more),
        environ={**cluster.environment, **own},
    )
    assert done.returncode == 0, done.stderr
    assert "warning: the" not in done.stdout + done.stderr


def run_of(folder: Path) -> RunDirectory:
    return RunDirectory(folder / "results" / "laptop-scratch")


def jobs(directory: RunDirectory) -> list[str]:
    return [event["job"] for event in directory.events() if event["event"] == "submitted" and not event.get("spare")]


def batch_logs(directory: RunDirectory) -> str:
    return "\n".join(file.read_text() for file in sorted(directory.root.glob("phase*/logs/slurm-*.out")))


def nothing_is_queued(cluster: Cluster) -> bool:
    return not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip()


def kill_a_rank(cluster: Cluster, directory: RunDirectory, job: str) -> None:
    """After the attempt has written a checkpoint."""
    checkpoints = directory.phase(1).checkpoints
    before = set(checkpoints.glob("step-*"))
    wait_until(lambda: set(checkpoints.glob("step-*")) - before)
    ranks_of(cluster.folder, job)[0][1].send(signal.SIGKILL)


def assert_secret_is_nowhere(cluster: Cluster, directory: RunDirectory) -> None:
    files = [file for file in directory.root.rglob("*") if file.is_file()]
    files += [file for file in cluster.folder.rglob("job.*/*") if file.is_file()]  # Slurm's copies of scripts
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


@pytest.mark.slow
def test_a_run_that_crashes_once_is_told_restarted_and_done(
    cluster: Cluster, bertjobs: Bertjobs, data: Path, tmp_path: Path, site: Path, webhook: Webhook
) -> None:
    assert site.exists()
    before = len(cluster.mails())
    submit(cluster, bertjobs, data, "--set", "phase1.steps=60")
    directory = run_of(tmp_path)
    kill_a_rank(cluster, directory, jobs(directory)[0])
    wait_until(lambda: directory.phase(2).done_file.exists() and nothing_is_queued(cluster))
    told = [(one["event"], one["phase"]) for one in webhook.told]
    assert told == [("restarted", 1), ("done", 2)], batch_logs(directory)
    assert webhook.told[0]["job"] == jobs(directory)[0]
    assert webhook.told[0]["step"] >= 5
    wait_until(lambda: len(cluster.mails()) > before + 1)
    mails = cluster.mails()[before:]
    assert [mail for mail in mails if ADDRESS in mail] == mails
    assert sum("Requeued" in mail for mail in mails) == sum("Ended" in mail for mail in mails) == 1, mails
    assert len(mails) == 2, mails
    assert_secret_is_nowhere(cluster, directory)
    assert batch_logs(directory).count("notice sent") == 2


def test_a_run_that_cannot_continue_is_told_once(
    cluster: Cluster, bertjobs: Bertjobs, data: Path, tmp_path: Path, site: Path, webhook: Webhook
) -> None:
    """The data are gone by the time the job starts."""
    assert site.exists()
    before = len(cluster.mails())
    blocked = cluster.submit(["-N4", "--exclusive", "--wrap", "sleep 600"], cwd=tmp_path)
    cluster.wait_queue(blocked, "RUNNING")
    submit(cluster, bertjobs, data)
    data.unlink()
    cluster.run(["scancel", str(blocked)])
    directory = run_of(tmp_path)
    wait_until(lambda: nothing_is_queued(cluster))
    (told,) = webhook.told
    assert (told["event"], told["cause"], told["why"]) == ("stopped", "bad input", "the input must be corrected first")
    wait_until(lambda: len(cluster.mails()) > before)
    (mail,) = cluster.mails()[before:]
    assert "Failed" in mail
    assert "-phase1" in mail
    assert_secret_is_nowhere(cluster, directory)


@pytest.mark.slow
def test_a_webhook_that_hangs_and_then_is_down_delays_and_prevents_nothing(
    cluster: Cluster, bertjobs: Bertjobs, data: Path, tmp_path: Path, site: Path, webhook: Webhook
) -> None:
    """It hangs when the run restarts, and is down when the run is done."""
    webhook.hangs = True
    submit(cluster, bertjobs, data, "--phase", 1, "--set", "phase1.steps=60")
    directory = run_of(tmp_path)
    kill_a_rank(cluster, directory, jobs(directory)[0])
    wait_until(lambda: webhook.told)
    site.write_text(f"http://127.0.0.1:9/{SECRET}")
    wait_until(lambda: directory.phase(1).done_file.exists() and nothing_is_queued(cluster))
    text = batch_logs(directory)
    requeued, silent, refused = (
        text.index(words)
        for words in (
            "continuing: requeue",
            "no notice was sent: the webhook did not answer within 5 s",
            "no notice was sent: the webhook cannot be reached (Connection refused)",
        )
    )
    assert requeued < silent < refused
    assert_secret_is_nowhere(cluster, directory)
