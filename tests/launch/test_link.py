"""How a job carries out what comes next after an attempt has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.launch.decision import has_advanced, recorded
from bertjobs.launch.link import (
    ARRANGED,
    FOLDER_AWAY,
    NEXT_PHASE_HERE,
    TRAIN,
    CurrentLink,
    begin,
    end,
    ensure_follower,
    main,
)
from bertjobs.run.checkpoints import last_written
from bertjobs.run.directory import RunDirectory
from bertjobs.run.owner import Owner, Owners
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.notify import Notify, RunEvent
from tests.launch.webhook import Webhook, served
from tests.slurm.conftest import Tool


def attempt(number: int, cause: str = "", **names: Any) -> list[dict[str, Any]]:
    """The events of one attempt; without a cause it has no end."""
    names = {"phase": 1, "job": "7", "chain": "chain-1", **names}
    events = [{"event": "started", "attempt": number, "step": 0, **names}]
    return events + [{"event": "ended", "attempt": number, "cause": cause, **names}] * bool(cause)


# Stand-ins for Slurm's programs record how they are called, and answer from files.
PROGRAM = 'echo "$(basename "$0") $*" >>"$CALLS"; cat "$ANSWERS/$(basename "$0")-$1" 2>/dev/null; true'


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is asked once."""
    monkeypatch.setattr("bertjobs.launch.link.PATIENCE_S", 0.0)


@pytest.fixture
def link(tmp_path: Path) -> CurrentLink:
    """Attempt 1 of job 7, in a chain of two phases whose scripts exist."""
    folder = RunDirectory(tmp_path / "results" / "first")
    folder.create()
    folder.lockfile.touch()
    for number in (1, 2):
        folder.phase(number).create()
        folder.phase(number).script.touch()
    return CurrentLink(folder, (1, 2), 1, "7", 1, "chain-1", step_limit=False)


@pytest.fixture
def environ(tool: Tool, tmp_path: Path) -> dict[str, str]:
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        tool(name, PROGRAM)
    (tmp_path / "answers").mkdir()
    answer(tmp_path, "sbatch---parsable", "8\n")
    files = {"CALLS": str(tmp_path / "calls"), "ANSWERS": str(tmp_path / "answers")}
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **files}


@pytest.fixture
def slurm(environ: dict[str, str]) -> Slurm:
    return Slurm(environ)


def answer(folder: Path, name: str, text: str) -> None:
    """Sets what a program prints, by its name and first argument."""
    (folder / "answers" / name).write_text(text)


def waiting(folder: Path, *lines: str) -> None:
    """The queued jobs, as squeue prints them for the client."""
    answer(folder, "squeue--h", "".join(f"{line}\n" for line in lines))


def asked(folder: Path, program: str) -> list[str]:
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


def checkpoint(link: CurrentLink, step: int) -> str:
    folder = link.directory.checkpoints / f"step-{step:08d}"
    folder.mkdir()
    return folder.name


def journal(link: CurrentLink, *events: Mapping[str, Any]) -> None:
    for event in events:
        fields = {name: value for name, value in event.items() if name != "event"}
        link.folder.record(event["event"], **fields)


def test_the_environment_of_run_sub_describes_a_link(tmp_path: Path) -> None:
    environ = {"RESULTS": str(tmp_path), "RUN": "first", "PHASE": "2", "SLURM_JOB_ID": "7"}
    by_hand = CurrentLink.of(environ)
    assert (by_hand.phases, by_hand.phase, by_hand.attempt, by_hand.chain) == ((), 2, 0, "7")
    more = {"BERTJOBS_PHASES": "1,2", "BERTJOBS_CHAIN": "chain-3", "SLURM_RESTART_COUNT": "4", "STEPS_THIS_RUN": "5"}
    link = CurrentLink.of({**environ, **more})
    assert (link.phases, link.attempt, link.chain, link.step_limit) == ((1, 2), 4, "chain-3", True)


def test_a_new_checkpoint_and_a_failure_requeue_the_job(link: CurrentLink, slurm: Slurm, tmp_path: Path) -> None:
    before = checkpoint(link, 5)
    checkpoint(link, 10)
    journal(link, *attempt(1))
    assert end(link, slurm, 137, before=before, told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scontrol") == ["requeue 7"]
    last = link.folder.events()[-1]
    assert (last["event"], last["cause"], last["exit_code"], last["told_by"]) == (
        "ended",
        "crashed",
        137,
        "batch script",
    )


def test_after_damaged_checkpoints_progress_is_what_the_attempt_wrote(
    link: CurrentLink, slurm: Slurm, tmp_path: Path
) -> None:
    """It skipped those of steps 20 and 30, began at 10, wrote one at 15 and was asked to stop at 17."""
    for step in (10, 20, 30):
        checkpoint(link, step)
    before = last_written(link.directory.checkpoints)
    journal(
        link,
        {"event": "started", "phase": 1, "job": "7", "chain": "chain-1", "attempt": 1, "step": 10},
        {"event": "checkpoint", "phase": 1, "job": "7", "chain": "chain-1", "attempt": 1, "step": 15},
    )
    checkpoint(link, 15)
    waiting(tmp_path, "9|afterany:7(unfulfilled)|first-phase2")
    assert end(link, slurm, 70, before=before, told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scontrol") == ["requeue 7"]
    assert asked(tmp_path, "scancel") == []


@pytest.mark.parametrize(
    ("events", "is_new", "expected"),
    [
        ([("started", {"step": 10}), ("checkpoint", {"step": 15})], False, True),
        ([("started", {"step": 10}), ("ended", {"step": 17, "exit_code": 75, "cause": "SIGTERM"})], False, True),
        ([("started", {"step": 10}), ("ended", {"step": 10, "exit_code": 75, "cause": "SIGTERM"})], False, False),
        ([("started", {"step": 10}), ("ended", {"exit_code": 70, "cause": "crashed"})], False, False),
        ([("started", {"step": 10}), ("ended", {"exit_code": 70, "cause": "disk"})], True, True),
        ([], True, True),
        ([], False, False),
    ],
)
def test_whether_an_attempt_made_progress(
    link: CurrentLink, events: list[tuple[str, dict[str, Any]]], is_new: bool, expected: bool
) -> None:
    """By the journal, even if the last name in the folder is the same; without it by what was written last."""
    checkpoints = link.directory.checkpoints
    checkpoint(link, 30)
    before = last_written(checkpoints)
    if is_new:
        os.utime(checkpoints / checkpoint(link, 12), (2e9, 2e9))
    for name, fields in events:
        link.folder.record(name, phase=1, job="7", attempt=1, **fields)
    assert has_advanced(recorded(link.folder, 1, "7", 1), checkpoints, before) is expected


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"node1 --wrap=id", b"$(id)"])
def test_a_damaged_list_of_unfit_nodes_names_none(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, content: bytes
) -> None:
    link.directory.exclude.write_bytes(content)
    assert end(link, slurm, 70, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "sbatch") == []


def test_a_new_job_takes_over_if_the_requeue_fails(link: CurrentLink, slurm: Slurm, tool: Tool, tmp_path: Path) -> None:
    tool("scontrol", PROGRAM + "; exit 1")
    checkpoint(link, 10)
    assert end(link, slurm, 75, before="", told_to_end=False) == ARRANGED
    (words,) = asked(tmp_path, "sbatch")
    assert "--job-name=first-spare" in words
    assert "--dependency=afterany:7" in words
    assert words.endswith("/first/phase1/run.sub")
    event = link.folder.events()[-1]
    assert (event["event"], event["job"], event["chain"], event["spare"]) == ("submitted", "8", "chain-1", True)


def test_a_spare_that_sbatch_queued_without_an_answer_is_found(link: CurrentLink, slurm: Slurm, tool: Tool) -> None:
    queued = 'echo "9|afterany:7(unfulfilled)|first-spare" >"$ANSWERS/squeue--h"'
    tool("sbatch", f'{queued}; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1')
    ensure_follower(link, slurm)
    event = link.folder.events()[-1]
    assert (event["event"], event["job"], event["spare"]) == ("submitted", "9", True)


def test_bad_input_cancels_the_jobs_that_follow(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ("10|afterany:77(unfulfilled)|first-phase2", "11|afterany:7(unfulfilled)|evaluate")
    waiting(tmp_path, "9|afterany:7(unfulfilled)|first-phase2", *others)
    assert end(link, slurm, 64, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scancel") == ["9"]
    assert "not continued: the input must be corrected first" in capsys.readouterr().err


def test_a_spent_budget_is_decided_here_and_not_by_another_attempt(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CurrentLink, "budgets", lambda _: {"crashed": 1})
    journal(link, *attempt(0, "crashed"), *attempt(1, "crashed"))
    checkpoint(link, 10)
    assert end(link, slurm, 70, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scontrol") == []
    assert "2 attempts crashed; the recipe allows 1 restart after a crash" in capsys.readouterr().err
    refused = link.folder.events()[-1]
    assert (refused["event"], refused["spent_by"], refused["attempt"]) == ("not restarted", "crashed", 1)


def test_this_job_trains_the_next_phase_unless_another_waits(link: CurrentLink, slurm: Slurm, tmp_path: Path) -> None:
    link.directory.done_file.touch()
    assert end(link, slurm, 0, before="", told_to_end=False) == NEXT_PHASE_HERE
    waiting(tmp_path, "9|afterany:7(unfulfilled)|first-phase2", "10|afterany:7(unfulfilled)|first-spare")
    assert end(link, slurm, 0, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scancel") == []


def test_a_run_that_is_done_leaves_no_spare_behind(link: CurrentLink, slurm: Slurm, tmp_path: Path) -> None:
    """A job that someone queued by hand to follow it stays."""
    for number in (1, 2):
        link.folder.phase(number).done_file.touch()
    waiting(tmp_path, "10|afterany:7(unfulfilled)|first-spare", "11|afterany:7(unfulfilled)|bertjobs")
    assert end(replace(link, phase=2), slurm, 0, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scancel") == ["10"]


@pytest.mark.parametrize(("preempted", "jobs"), [("PreemptTime=2026-11-28T14:00:00", 1), ("PreemptTime=None", 0)])
def test_a_job_that_was_told_to_end_is_continued_only_if_it_was_preempted(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, preempted: str, jobs: int
) -> None:
    answer(tmp_path, "scontrol-show", f"JobId=7 JobState=COMPLETING {preempted}\n")
    journal(link, *attempt(1))
    checkpoint(link, 10)
    assert end(link, slurm, 75, before="", told_to_end=True) == ARRANGED
    assert len(asked(tmp_path, "sbatch")) == jobs
    assert not link.attempts()[-1].has_ended, "how it ended is Slurm's to say, later"


@pytest.mark.parametrize(
    ("header", "nodes"),
    [
        ("", "node3,node7"),
        ("#SBATCH --exclude=old1\n#SBATCH --exclude=bad[1-2]\n", "bad[1-2],node3,node7"),
    ],
)
def test_unfit_nodes_are_excluded_from_what_follows_beside_those_that_the_run_excludes(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, header: str, nodes: str
) -> None:
    link.directory.exclude.write_text("node3,node7\n")
    link.directory.script.write_text(f"#!/bin/bash\n{header}true\n")
    waiting(tmp_path, "9|afterany:7(unfulfilled)|first-phase2")
    assert end(link, slurm, 70, before="", told_to_end=False) == ARRANGED
    assert f"update JobId=9 ExcNodeList={nodes}" in asked(tmp_path, "scontrol")
    waiting(tmp_path)
    assert end(link, slurm, 70, before="", told_to_end=False) == ARRANGED
    assert f"--exclude={nodes}" in asked(tmp_path, "sbatch")[0]


def test_a_job_queued_by_hand_says_that_nothing_continues_it_elsewhere(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link.directory.exclude.write_text("node3\n")
    assert end(replace(link, phases=()), slurm, 70, before="", told_to_end=False) == ARRANGED
    assert not asked(tmp_path, "sbatch")
    assert "not continued: node3 cannot be used" in (said := capsys.readouterr().err)
    assert "continuing" not in said
    assert "sbatch --exclude=node3" in said


def test_one_link_follows_a_job_that_wrote_a_checkpoint(link: CurrentLink, slurm: Slurm, tmp_path: Path) -> None:
    ensure_follower(link, slurm)
    waiting(tmp_path, "8|afterany:7(unfulfilled)|first-spare")
    ensure_follower(link, slurm)
    ensure_follower(replace(link, phases=()), slurm)  # queued by hand
    assert len(asked(tmp_path, "sbatch")) == 1


def test_without_an_answer_from_slurm_no_job_is_queued_and_the_decision_stands(
    link: CurrentLink, slurm: Slurm, tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    ensure_follower(link, slurm)
    assert asked(tmp_path, "sbatch") == []
    assert end(link, slurm, 64, before="", told_to_end=False) == ARRANGED
    assert end(link, slurm, 0, before="", told_to_end=False) == ARRANGED, "its own job may be in the queue"
    assert capsys.readouterr().err.count("Unable to contact") == 3


@pytest.mark.parametrize(
    ("states", "cause", "told_by"),
    [("7|NODE_FAIL\n7|RUNNING\n", "node failure", "sacct"), ("7|RUNNING\n", "crashed", ""), ("", "crashed", "")],
)
def test_an_attempt_that_could_not_write_its_end_gets_one_from_slurm_s_state(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, states: str, cause: str, told_by: str
) -> None:
    journal(link, *attempt(0))
    answer(tmp_path, "sacct--nXDP", states)
    link.directory.exclude.write_text("node3")
    begin(link, slurm)
    last = link.folder.events()[-1]
    assert (last["event"], last["attempt"], last["cause"], last["told_by"]) == ("ended", 0, cause, told_by)
    assert not link.directory.exclude.exists(), "it belonged to the previous attempt"


@pytest.fixture
def away(link: CurrentLink, tmp_path: Path) -> Callable[[], None]:
    """The results folder is away; the function brings it back."""
    place, elsewhere = link.folder.root.parent, tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.mkdir()  # where the file system was mounted

    def back() -> None:
        if elsewhere.exists():  # subprocess may sleep, too
            place.rmdir()
            elsewhere.rename(place)

    return back


def test_an_end_waits_until_the_run_s_folder_is_back(
    link: CurrentLink, slurm: Slurm, tmp_path: Path, away: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertjobs.launch.link.PATIENCE_S", 60.0)
    monkeypatch.setattr("bertjobs.launch.link.time.sleep", lambda _: away())
    (tmp_path / "elsewhere" / "first" / "phase1" / "checkpoints" / "step-00000005").mkdir()
    assert end(link, slurm, 70, before="", told_to_end=False) == ARRANGED
    assert asked(tmp_path, "scontrol") == ["requeue 7"]


def test_a_submitted_run_whose_folder_is_away_is_not_begun_anew_in_its_place(
    environ: dict[str, str], tmp_path: Path, away: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RESULTS": str(tmp_path / "results"), "RUN": "first", "PHASE": "1", "SLURM_JOB_ID": "7"}
    assert main(["begin"], {**environ, **names, "BERTJOBS_PHASES": "1,2"}) == FOLDER_AWAY
    assert "run.yml is not there" in capsys.readouterr().err
    assert list((tmp_path / "results").iterdir()) == []
    away()
    assert main(["begin"], {**environ, **names, "BERTJOBS_PHASES": "1,2"}) == TRAIN


def test_a_term_is_explained_by_slurm_s_state(link: CurrentLink, slurm: Slurm, tmp_path: Path) -> None:
    journal(link, *attempt(0, "SIGTERM"))
    answer(tmp_path, "sacct--nXDP", "7|PREEMPTED\n7|RUNNING\n")
    begin(link, slurm)
    last = link.folder.events()[-1]
    assert (last["event"], last["cause"]) == ("explained", "preempted")


def test_the_arguments_that_run_sub_passes(link: CurrentLink, environ: dict[str, str], tmp_path: Path) -> None:
    describes = {
        "RESULTS": str(link.folder.root.parent), "RUN": "first", "PHASE": "1", "SLURM_JOB_ID": "7",
        "BERTJOBS_PHASES": "1,2", "BERTJOBS_CHAIN": "chain-1", "SLURM_NTASKS": "8", "LR": "1",
    }  # fmt: skip
    newest = checkpoint(link, 10)
    assert main(["begin"], {**environ, **describes}) == ARRANGED
    assert (
        main(["end", "70", "--before", str(link.directory.checkpoints / newest)], {**environ, **describes}) == ARRANGED
    )
    assert asked(tmp_path, "scontrol") == [], "no newer checkpoint"
    assert main(["checkpoint"], {**environ, **describes}) == ARRANGED
    assert len(asked(tmp_path, "sbatch")) == 1
    assert not {"SLURM_NTASKS", "LR"} & set(clean_environment({**environ, **describes}))
    assert json.loads(link.folder.journal.read_text().splitlines()[-1])["spare"] is True


def test_whoever_follows_while_an_attempt_ends_keeps_the_run(
    link: CurrentLink, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm may not answer for minutes: by then the attempt counts as dead."""
    owners = Owners(link.folder.owners)
    owners.take(Owner("7", 1, "node1", 0, "slurm", "chain-1"), lambda _: None)

    def decide(*_: Any, **__: Any) -> tuple[int, None]:
        owners.take(Owner("8", 0, "node2", 0, "slurm", "chain-1"), lambda _: False)
        return ARRANGED, None

    monkeypatch.setattr("bertjobs.launch.link._decide", decide)
    assert end(link, slurm, 75, before="", told_to_end=False) == ARRANGED
    last = owners.last()
    assert last is not None
    assert last.job == "8"
    assert not owners.is_released(last)


# ---- who is told ----


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with served() as hook:
        yield hook


def told(link: CurrentLink, webhook: Webhook, **fields: Any) -> CurrentLink:
    """The same link, whose run tells a webhook and Slurm's mail."""
    notify = Notify(mail="me@example.org", webhook="HOOK")
    return replace(link, notify=notify, environ={"HOOK": webhook.address}, **fields)


def test_a_requeue_comes_before_its_notice(link: CurrentLink, slurm: Slurm, webhook: Webhook, tmp_path: Path) -> None:
    """The webhook is asked when the requeue has been made, and may hang: by then it delays nothing."""
    checkpoint(link, 10)
    seen: list[list[str]] = []
    webhook.told = _Recorder(lambda: seen.append(asked(tmp_path, "scontrol")))  # type: ignore[assignment]
    assert end(told(link, webhook), slurm, 75, before="", told_to_end=False) == ARRANGED
    assert seen == [["requeue 7"]]
    assert [(one["event"], one["step"]) for one in webhook.told] == [("restarted", 10)]
    assert asked(tmp_path, "scontrol") == ["requeue 7"], "Slurm mails it by itself"


class _Recorder(list):
    """A list that calls ``act`` before each append."""

    def __init__(self, act: Callable[[], None]):
        super().__init__()
        self._act = act

    def append(self, item: Any) -> None:
        self._act()
        super().append(item)


def test_a_run_that_stops_is_told_with_its_reason(link: CurrentLink, slurm: Slurm, webhook: Webhook) -> None:
    assert end(told(link, webhook), slurm, 64, before="", told_to_end=False) == ARRANGED
    assert [(one["event"], one["why"]) for one in webhook.told] == [("stopped", "the input must be corrected first")]


def test_a_run_that_no_job_could_follow_is_told_to_have_stopped(
    link: CurrentLink, slurm: Slurm, tool: Tool, webhook: Webhook
) -> None:
    tool("sbatch", "echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1")
    link.directory.exclude.write_text("node3\n")
    assert end(told(link, webhook), slurm, 70, before="", told_to_end=False) == ARRANGED
    assert [one["event"] for one in webhook.told] == ["stopped"]


def test_only_the_end_of_the_last_phase_is_told_and_mailed(
    link: CurrentLink, slurm: Slurm, webhook: Webhook, tmp_path: Path
) -> None:
    link.directory.done_file.touch()
    assert end(told(link, webhook), slurm, 0, before="", told_to_end=False) == NEXT_PHASE_HERE
    assert webhook.told == []
    link.folder.phase(2).done_file.touch()
    assert end(told(link, webhook, phase=2), slurm, 0, before="", told_to_end=False) == ARRANGED
    assert [one["event"] for one in webhook.told] == ["done"]
    assert asked(tmp_path, "scontrol") == ["update JobId=7 MailType=END"]


@pytest.mark.parametrize(
    ("preempted", "event"), [("PreemptTime=2026-11-28T14:00:00", "restarted"), ("PreemptTime=None", "stopped")]
)
def test_a_job_that_was_told_to_end_has_stopped_unless_it_was_preempted(
    link: CurrentLink, slurm: Slurm, webhook: Webhook, tmp_path: Path, preempted: str, event: str
) -> None:
    answer(tmp_path, "scontrol-show", f"JobId=7 JobState=COMPLETING {preempted}\n")
    checkpoint(link, 10)
    assert end(told(link, webhook), slurm, 75, before="", told_to_end=True) == ARRANGED
    assert [one["event"] for one in webhook.told] == [event]


def test_an_attempt_that_could_not_tell_is_told_by_the_next(
    link: CurrentLink, slurm: Slurm, webhook: Webhook, tmp_path: Path
) -> None:
    journal(link, *attempt(0))
    answer(tmp_path, "sacct--nXDP", "7|NODE_FAIL\n7|RUNNING\n")
    begin(told(link, webhook), slurm)
    assert [(one["event"], one["cause"]) for one in webhook.told] == [("restarted", "a node failed")]
    begin(told(link, webhook), slurm)
    assert len(webhook.told) == 1, "its end is known now"


def test_only_the_events_that_are_wanted_are_told(link: CurrentLink, slurm: Slurm, webhook: Webhook) -> None:
    quiet = replace(told(link, webhook), notify=Notify(webhook="HOOK", events=(RunEvent.DONE,)))
    assert end(quiet, slurm, 64, before="", told_to_end=False) == ARRANGED
    assert webhook.told == []


def test_without_an_answer_from_slurm_a_run_that_cannot_continue_has_stopped(
    link: CurrentLink, slurm: Slurm, webhook: Webhook, tool: Tool
) -> None:
    tool("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert end(told(link, webhook), slurm, 64, before="", told_to_end=False) == ARRANGED
    link.directory.done_file.touch()
    assert end(told(link, webhook), slurm, 0, before="", told_to_end=False) == ARRANGED
    assert [one["event"] for one in webhook.told] == ["stopped"], "the next phase's own job may be in the queue"


def test_the_job_s_environment_says_who_is_told(tmp_path: Path) -> None:
    notify = Notify("me@example.org", "/home/me/hook", (RunEvent.DONE, RunEvent.STOPPED))
    environ = {"RESULTS": str(tmp_path), "RUN": "first", "PHASE": "2", "SLURM_JOB_ID": "7", **notify.variables()}
    assert CurrentLink.of(environ).notify == notify
    assert "environ=" not in repr(CurrentLink.of(environ))
