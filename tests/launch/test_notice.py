"""A webhook is told in one sentence, within seconds or not at all, and its address appears nowhere."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch import notice as notice_module
from bertjobs.launch.notice import Notice, address, notice_of, send
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.causes import Cause
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.notify import RunEvent
from tests.launch.webhook import SECRET, Webhook, served

NOTICE = Notice(RunEvent.RESTARTED, "first", 1, "17", 2, "a node failed", "", 1400, 7038)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with served() as hook:
        yield hook


def test_a_webhook_gets_fields_and_a_sentence(webhook: Webhook) -> None:
    assert send(NOTICE, "HOOK", {"HOOK": webhook.address}) == "notice sent"
    (told,) = webhook.told
    sentence = "run first restarts (phase 1, job 17, attempt 2, step 1,400 of 7,038): a node failed"
    assert told == {
        "event": "restarted", "run": "first", "phase": 1, "job": "17", "attempt": 2, "cause": "a node failed",
        "why": "", "step": 1400, "steps": 7038, "text": sentence, "content": sentence,
    }  # fmt: skip
    assert webhook.paths == [f"/{SECRET}"]


def test_the_sentence_says_why_a_run_stopped() -> None:
    why = "2 attempts crashed; the recipe allows 1 restart after a crash"
    stopped = Notice(RunEvent.STOPPED, "first", 1, "17", 2, "crashed", why)
    assert stopped.text == f"run first has stopped (phase 1, job 17, attempt 2): crashed; {why}"
    same = Notice(RunEvent.STOPPED, "first", 1, "17", 2, "bad input", "bad input")
    assert same.text.endswith("): bad input")
    assert Notice(RunEvent.DONE, "first", 2, "17", 0).text == "run first is done (phase 2, job 17, attempt 0)"


def test_steps_are_read_from_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "first")
    run.create()
    assert notice_of(RunEvent.STOPPED, run, 1, "7", 0, cause=None, why="").steps is None
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path), "run": "first"}
    run.write_lockfile(lockfile(resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec))
    (run.phase(1).checkpoints / "step-00000012").mkdir(parents=True)
    made = notice_of(RunEvent.STOPPED, run, 1, "7", 0, cause=Cause.HANG, why="x")
    assert (made.run, made.step, made.steps, made.cause) == ("first", 12, 20, Cause.HANG.plain)


def test_checkpoints_that_cannot_be_listed_cost_the_notice_its_step_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "first")
    run.phase(1).root.mkdir(parents=True)
    run.phase(1).checkpoints.symlink_to("checkpoints")
    made = notice_of(RunEvent.STOPPED, run, 1, "7", 0, cause=Cause.HANG, why="x")
    assert (made.run, made.step, made.cause) == ("first", None, Cause.HANG.plain)


def test_a_webhook_that_hangs_costs_seconds(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice_module, "PATIENCE_S", 0.5)
    webhook.hangs = True
    began = time.monotonic()
    words = send(NOTICE, "HOOK", {"HOOK": webhook.address})
    assert time.monotonic() - began < 30
    assert words.startswith("no notice was sent: the webhook ")
    assert SECRET not in words


def test_a_webhook_that_answers_byte_by_byte_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit for each read would never be reached."""
    monkeypatch.setattr(notice_module, "PATIENCE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                for _ in range(600):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return
                    time.sleep(0.1)

        threading.Thread(target=trickle, daemon=True).start()
        began = time.monotonic()
        words = send(NOTICE, "HOOK", {"HOOK": f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"})
        assert time.monotonic() - began < 30
    assert words == "no notice was sent: the webhook did not answer within 1 s"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://127.0.0.1:9/{SECRET}", "the webhook cannot be reached (Connection refused)"),
        (f"http://no-such-host.invalid/{SECRET}", "the webhook cannot be reached ("),
        (f"http://127.0.0.1:x/{SECRET}", "the webhook cannot be reached ("),
        (f"ftp://127.0.0.1/{SECRET}", "the webhook's address does not begin with https:// or http:// (HOOK)"),
        (f"http://a b/{SECRET}", "the webhook's address does not begin with https:// or http:// (HOOK)"),
        ("", "the variable HOOK, which holds the webhook's address, is not set (notify.webhook)"),
    ],
)
def test_whatever_goes_wrong_is_told_without_the_address(url: str, words: str) -> None:
    said = send(NOTICE, "HOOK", {"HOOK": url})
    assert said.startswith(f"no notice was sent: {words}")
    assert SECRET not in said


def test_an_answer_that_is_an_error_is_told(webhook: Webhook) -> None:
    webhook.status = 404
    assert send(NOTICE, "HOOK", {"HOOK": webhook.address}) == (
        "no notice was sent: the webhook answered with HTTP status 404"
    )


def test_the_address_may_be_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "webhook"
    file.write_text("https://chat.example.org/x\n")
    file.chmod(0o600)
    assert address(str(file), {}) == "https://chat.example.org/x"
    file.chmod(0o640)
    with pytest.raises(InputError, match="others may read") as caught:
        address(str(file), {})
    assert caught.value.hint == f"chmod 600 {file}"
    file.write_text("https://x\nmore")
    file.chmod(0o600)
    with pytest.raises(InputError, match="does not begin with"):
        address(str(file), {})
    with pytest.raises(InputError, match="cannot be read: FileNotFoundError"):
        address(str(tmp_path / "absent"), {})


def test_the_fields_are_json_whatever_they_hold() -> None:
    odd = Notice(RunEvent.STOPPED, "a-b", 1, "7", 0, 'said "no"\n', "\x1b[31m")
    assert json.loads(odd.body())["cause"] == 'said "no"\n'
