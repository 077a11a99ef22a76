"""A run seen from outside: by Slurm's answers, or by the run directory if Slurm does not answer."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError
from bertjobs.launch import cancel as cancel_module
from bertjobs.launch.cancel import cancel, cancel_study
from bertjobs.launch.local import STOP_ONE
from bertjobs.launch.plan.preflight import check_name
from bertjobs.launch.start import unfinished
from bertjobs.launch.watch import watch as watch_module
from bertjobs.launch.watch.logs import Selection, follow
from bertjobs.launch.watch.status import run_status
from bertjobs.launch.watch.status_text import run_text, status_text
from bertjobs.launch.watch.watch import Watch
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import Done, RunDirectory, all_runs
from bertjobs.run.owner import Owner, Owners
from bertjobs.run.study import Study
from bertjobs.slurm import client as slurm_module
from bertjobs.slurm.client import Slurm
from bertjobs.wording import Colour
from tests.conftest import Bertjobs
from tests.launch.conftest import Tool


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    flags = {"recipe": "laptop-scratch", "results": str(tmp_path / "results")}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec


@pytest.fixture
def directory(spec: RunSpec) -> RunDirectory:
    """A run that was queued as jobs 7 and 8."""
    made = RunDirectory(Path(spec.results) / spec.run)
    made.create()
    made.write_lockfile(lockfile(spec))
    for number, job in ((1, "7"), (2, "8")):
        made.phase(number).create()
        made.record("submitted", backend="slurm", phase=number, job=job)
    return made


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm({"PATH": str(tmp_path / "bin"), "SEEN": str(tmp_path / "seen")})


def states(directory: RunDirectory, slurm: Slurm) -> list[tuple[str, str]]:
    return [(row.state, row.source) for row in run_status(directory, slurm, time.time())]


def sacct(*jobs: tuple[str, str]) -> str:
    """The text of a stand-in that prints these jobs' states."""
    return "; ".join(f"echo '{job}|{state}|0:0|None|node1|01:00:00|1800000000|Unknown'" for job, state in jobs)


def squeue(*jobs: tuple[str, str], named: tuple[tuple[str, str], ...] = ()) -> str:
    """The same for squeue; ``named`` are this user's jobs by name."""
    states = "; ".join(f"echo '{job}|{state}|None|node1|1:00:00|1800000000'" for job, state in jobs) or ":"
    names = "; ".join(f"echo '{job}|{name}'" for job, name in named) or ":"
    return f'if [[ "$*" == *--me* ]]; then {names}; else {states}; fi'


def test_squeue_corrects_sacct_s_outdated_answer(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    directory.record("started", scheduler="slurm", phase=1, job="7", attempt=0)
    directory.record("ended", scheduler="slurm", phase=1, job="7", attempt=0, cause="done", exit_code=0)
    directory.phase(1).write_done(Done(1, 20, "step-00000020", "", "", 0.0))
    tool("sacct", sacct(("7", "COMPLETED"), ("8", "PENDING")))
    tool("squeue", squeue(("8", "RUNNING")))
    assert states(directory, slurm) == [("DONE", "run directory"), ("RUNNING", "sacct+squeue")]


@pytest.mark.parametrize(
    ("program", "text"), [("sacct", sacct(("7", "RUNNING"))), ("squeue", squeue(("7", "RUNNING")))]
)
def test_one_of_the_two_is_enough(directory: RunDirectory, slurm: Slurm, tool: Tool, program: str, text: str) -> None:
    tool(program, text)
    assert states(directory, slurm)[0] == ("RUNNING", program)


def test_without_an_answer_from_slurm_the_journal_says_how_a_job_ended(directory: RunDirectory, slurm: Slurm) -> None:
    directory.record("started", scheduler="slurm", phase=1, job="7", attempt=0)
    assert states(directory, slurm) == [("UNKNOWN", "run directory")] * 2
    directory.record("ended", scheduler="slurm", phase=1, job="7", attempt=0, cause="SIGTERM", exit_code=75)
    directory.record("ended", scheduler="slurm", phase=2, job="8", attempt=0, cause="bad input", exit_code=64)
    assert states(directory, slurm) == [("STOPPED", "run directory"), ("FAILED", "run directory")]


def test_a_missing_answer_is_an_error_for_a_command_that_acts(
    directory: RunDirectory, slurm: Slurm, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "TIMEOUT_S", 0.2)
    tool("squeue", "exec /bin/sleep 3600")
    with pytest.raises(BertjobsError, match=r"squeue did not answer within 0\.2 s"):
        states(directory, slurm)
    with pytest.raises(BertjobsError, match=r"squeue did not answer within 0\.2 s"):
        cancel(directory, slurm)


def test_status_falls_back_to_the_folder_if_slurm_does_not_answer(
    directory: RunDirectory, slurm: Slurm, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "TIMEOUT_S", 0.2)
    tool("squeue", "exec /bin/sleep 3600")
    directory.record("ended", scheduler="slurm", phase=1, job="7", attempt=0, cause="SIGTERM", exit_code=75)
    (run,) = Watch(slurm).statuses([directory])
    assert [row.state for row in run.phases] == ["STOPPED", "UNKNOWN"]
    assert "squeue did not answer within 0.2 s" in run_text(run, time.time())


def test_a_controller_that_is_down_is_named(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", sacct(("7", "RUNNING")))
    tool("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    (run,) = Watch(slurm).statuses([directory])
    assert (run.phases[0].state, run.phases[0].source) == ("RUNNING", "sacct")
    assert run.silence.startswith("squeue: slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(BertjobsError, match="does not say which jobs are queued or running"):
        cancel(directory, slurm)


def test_slurm_is_asked_once_about_many_runs(directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path) -> None:
    other = RunDirectory(directory.root.with_name("other"))
    other.create()
    other.write_lockfile(directory.lockfile.read_text())
    other.record("submitted", backend="slurm", phase=1, job="9")
    tool("squeue", 'echo "$@" >>"$SEEN"; ' + squeue(("7", "RUNNING"), ("9", "PENDING")))
    watch = Watch(slurm)
    for _ in range(3):
        runs = watch.statuses([directory, other])
        assert [run.phases[0].state for run in runs] == ["RUNNING", "PENDING"]
    (asked,) = (tmp_path / "seen").read_text().splitlines()
    assert "-j 7,8,9" in asked


def test_watching_ends_when_no_job_is_queued_or_running(
    directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "ASK_EVERY_S", 0.0)
    active, over = squeue(("7", "RUNNING"), ("8", "PENDING")), squeue(("7", "COMPLETED"), ("8", "CANCELLED"))
    tool("squeue", f"if [[ -e $SEEN ]]; then {over}; else {active}; fi")
    seen = []
    for runs in Watch(slurm).until_ended(lambda: [directory], 0.01):
        seen.append([row.state for row in runs[0].phases])
        if len(seen) == 3:
            (tmp_path / "seen").touch()
    assert seen == [["RUNNING", "PENDING"]] * 3 + [["COMPLETED", "CANCELLED"]]


def test_a_local_run_between_two_phases_is_active(directory: RunDirectory, slurm: Slurm) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "bertjobs"])
    try:
        directory.journal.unlink()
        host = socket.gethostname()
        directory.record("submitted", backend="local", phase=1, job="local-1", host=host, pid=launcher.pid)
        directory.record("started", scheduler="local", phase=1, job="local-1", attempt=0, world_size=1)
        (run,) = Watch(slurm).statuses([directory])
        assert (run.is_active, run.phases[0].state) == (True, "RUNNING")
        directory.record("ended", scheduler="local", phase=1, job="local-1", attempt=0, cause="done", exit_code=0)
        (run,) = Watch(slurm).statuses([directory])
        assert (run.is_active, run.phases[0].state) == (True, "COMPLETED")
        directory.record("submitted", backend="local", phase=2, job="local-2", host=host, pid=launcher.pid)
        assert cancel(directory, slurm) == ["local-2"]
        assert launcher.wait(timeout=300) == -signal.SIGTERM
    finally:
        launcher.kill()
        launcher.wait()
    assert not Watch(slurm).statuses([directory])[0].is_active


@pytest.mark.parametrize(
    ("stop", "number"),
    [
        (lambda study, slurm: cancel(study.directories[0], slurm), STOP_ONE),
        (lambda study, slurm: cancel_study(study, slurm), signal.SIGTERM),
    ],
    ids=["one run", "the study"],
)
def test_the_launcher_of_a_study_is_told_what_to_stop(
    directory: RunDirectory, slurm: Slurm, stop: Callable[[Study, Slurm], object], number: signal.Signals
) -> None:
    study = Study.of(directory.root.parent, "st", [{"seed": "1"}, {"seed": "2"}])
    for member in study.directories:
        shutil.copytree(directory.root, member.root)
        member.journal.unlink()
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "bertjobs"])
    try:
        names = {"host": socket.gethostname(), "pid": launcher.pid, "study": "st"}
        study.directories[0].record("submitted", backend="local", phase=1, job="local-1", **names)
        stop(study, slurm)
        assert launcher.wait(timeout=300) == -number
    finally:
        launcher.kill()
        launcher.wait()


def test_the_loss_of_a_task_with_numbers_is_a_squared_error(directory: RunDirectory, slurm: Slurm) -> None:
    line = {"phase": 1, "step": 3, "time_unix_s": time.time(), "sequences_per_s": 8.0, "step_time_s": 1.0}
    directory.phase(1).metrics.write_text(json.dumps({**line, "squared_error": 0.125}) + "\n")
    (run,) = Watch(slurm).statuses([directory])
    first, second = run.phases
    assert (first.steps_done, first.loss_nats, first.squared_error) == (3, None, 0.125)
    assert (first.as_json()["loss_nats"], first.as_json()["squared_error"]) == (None, 0.125)
    assert (second.steps_done, second.loss) == (0, None)
    assert "0.125" in status_text(run.phases)
    assert "loss        0.1250 squared error, 8.0 sequences/s" in run_text(run, time.time())
    directory.phase(1).metrics.write_text(json.dumps({**line, "squared_error": float("nan")}) + "\n")
    assert run_status(directory, slurm, time.time())[0].as_json()["squared_error"] is None


def test_slow_ranks_of_the_newest_attempt_are_named(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", sacct(("7", "RUNNING")))
    tool("squeue", squeue(("7", "RUNNING")))
    attempt = {"phase": 1, "job": "7", "attempt": 0}
    directory.record("started", **attempt, world_size=4)
    directory.record("slow rank", **attempt, rank=3, node="node2", times=1.4, step=812)
    directory.record("slow rank", **attempt, rank=1, node="node1", times=2.0, step=900)
    directory.record("slow rank", **attempt, rank=1, node="node1", times=0.0, step=950)
    directory.record("slow rank", **attempt, rank="a damaged line")
    (run,) = Watch(slurm).statuses([directory])
    words = "rank 3 on node2 takes 1.4 times as long as others per micro-batch since step 812"
    assert run.phases[0].slow_ranks == (words,)
    assert f"  slow        {words}" in run_text(run, time.time())
    assert run.phases[0].as_json()["slow_ranks"] == (words,)
    directory.record("started", **{**attempt, "attempt": 1}, world_size=4)
    assert Watch(slurm).statuses([directory])[0].phases[0].slow_ranks == ()


def test_a_local_run_of_another_machine_is_to_be_cancelled_there(directory: RunDirectory, slurm: Slurm) -> None:
    directory.journal.unlink()
    directory.record("submitted", backend="local", phase=1, job="local-1", host="elsewhere", pid=1)
    with pytest.raises(BertjobsError, match="cancel it there: ssh elsewhere bertjobs cancel"):
        cancel(directory, slurm)


def test_a_preempted_job_that_is_not_requeued_has_ended(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", sacct(("7", "PREEMPTED"), ("8", "CANCELLED")))
    assert cancel(directory, slurm) == []
    assert list(follow(directory, Selection(), slurm)) == []


def test_cancel_names_only_the_active_jobs(directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path) -> None:
    tool("sacct", sacct(("7", "COMPLETED"), ("8", "PENDING")))
    tool("scancel", f'echo "$@" $(/usr/bin/grep -c cancelling {directory.journal}) >"$SEEN"')
    assert cancel(directory, slurm, patience_s=0) == ["8"]
    assert (tmp_path / "seen").read_text() == "8 1\n", "the journal is written before the job is signalled"


def test_cancel_ends_queued_jobs_before_running_ones_and_looks_again(
    directory: RunDirectory, slurm: Slurm, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running link queues a spare when it sees that the first ones are gone; only the queue knows of it."""
    monkeypatch.setattr(cancel_module, "PAUSE_S", 0.01)
    directory.record("submitted", backend="slurm", phase=1, job="9", spare=True)
    mine = ("10", f"{directory.name}-spare")
    first = squeue(("7", "RUNNING"), ("8", "PENDING"), ("9", "PENDING"))
    second = squeue(("7", "COMPLETING"), ("10", "PENDING"), named=(mine, ("11", f"{directory.name}-spare")))
    tool("squeue", f'case $(wc -l 2>/dev/null <"$SEEN") in "") {first};; 1) {second};; esac')
    tool("scancel", 'echo "$@" >>"$SEEN"')
    tool("sbatch", "")
    other = f"{directory.root}-other/phase1/logs/slurm-11.out"
    tool(
        "scontrol",
        f"[[ $3 == 10 ]] && echo '   StdOut={directory.phase(1).logs}/slurm-10.out' || echo '   StdOut={other}'",
    )
    (tmp_path / "bin" / "wc").symlink_to("/usr/bin/wc")
    assert cancel(directory, slurm) == ["9", "8", "7", "10"]
    assert (tmp_path / "seen").read_text() == "9 8 7\n10\n"
    recorded = [(event["job"], event["phase"]) for event in directory.events() if event["event"] == "cancelled"]
    assert recorded == [("9", 1), ("8", 2), ("7", 1), ("10", 1)]


def test_a_cancel_that_slurm_refuses_is_not_in_the_journal(directory: RunDirectory, slurm: Slurm, tool: Tool) -> None:
    tool("sacct", sacct(("8", "PENDING")))
    tool("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(BertjobsError, match="Access denied"):
        cancel(directory, slurm)
    assert [event["event"] for event in directory.events()] == ["submitted", "submitted", "cancelling"]


def test_a_run_that_this_user_may_not_read_is_skipped(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "results" / "other"
    other.mkdir()
    (other / "run.yml").symlink_to(tmp_path / "nowhere")  # closed to root too
    monkeypatch.setattr("os.geteuid", lambda: 4711)  # another's
    assert [run.root for run in all_runs(tmp_path / "results")] == [directory.root]


def test_a_run_whose_settings_are_damaged_is_shown_and_can_be_cancelled(
    directory: RunDirectory, slurm: Slurm, tool: Tool, spec: RunSpec
) -> None:
    other = RunDirectory(directory.root.parent / "other")
    other.create()
    other.write_lockfile(lockfile(replace(spec, run="other")))
    directory.lockfile.write_text("recipes:\n  a: [1\n")
    tool("sacct", sacct(("7", "RUNNING"), ("8", "PENDING")))
    tool("scancel", 'echo "$*" >>"$SEEN"')
    damaged, whole = Watch(slurm).statuses([directory, other])
    (row,) = damaged.phases
    assert (row.run, row.phase, row.state, row.job) == (directory.name, 0, "UNREADABLE", "7")
    assert "not valid YAML: '[' is not closed" in row.damage[0]
    assert str(directory.lockfile) in row.damage[0]
    assert [phase.state for phase in whole.phases] == ["NOT STARTED"] * 2
    table = status_text([*damaged.phases, *whole.phases])
    assert f"{directory.name}: not valid YAML" in table
    assert "bertjobs doctor" in run_text(damaged, time.time())
    assert set(cancel(directory, slurm, patience_s=0.0)) == {"7", "8"}


def test_a_run_by_hand_that_ended_before_it_wrote_its_settings_is_shown(slurm: Slurm, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "results" / "by-hand")
    directory.phase(2).logs.mkdir(parents=True)
    Owners(directory.owners).take(Owner("17", 0, "node1", 0, "slurm"), lambda _: None)
    (run,) = Watch(slurm).statuses(all_runs(tmp_path / "results"))
    (row,) = run.phases
    assert (row.run, row.state, row.job) == ("by-hand", "NO run.yml", "17")
    assert "no attempt has got as far as writing one" in row.damage[0]


def test_a_damaged_done_file_costs_its_phase_a_note(directory: RunDirectory, slurm: Slurm) -> None:
    directory.phase(1).done_file.write_bytes(b"")
    one, two = run_status(directory, slurm, time.time())
    assert "DONE.json cannot be read: it is empty" in one.damage[0]
    assert (one.state, two.damage) == ("UNKNOWN", ())


def test_a_result_that_is_gone_is_noted_and_resume_says_so(directory: RunDirectory, slurm: Slurm) -> None:
    for number in (1, 2):
        directory.phase(number).write_done(Done(number, 20, "step-00000020", "", "", 0.0))
    one, two = run_status(directory, slurm, time.time())
    assert (one.state, one.damage) == ("DONE", ()), "phase 1's checkpoint may be deleted once phase 2 is done"
    assert two.state == "DONE"
    assert "its result is not whole: step-00000020 is missing" in two.damage[0]
    with pytest.raises(BertjobsError, match="is done, but its result is damaged: step-00000020 is missing") as error:
        unfinished(directory)
    assert "delete" in str(error.value.hint)


def test_escapes_in_a_journal_or_from_slurm_do_not_reach_the_terminal(
    directory: RunDirectory, slurm: Slurm, tool: Tool
) -> None:
    directory.record("started", phase=1, job="7", attempt=0)
    directory.record("ended", phase=1, job="7", attempt=0, cause="x\x1b]0;owned\x07", exit_code=70)
    tool("squeue", "printf '8|PENDING|(\\033[2JReason)|n1|1:00:00|1800000000\\n'")
    (run,) = Watch(slurm).statuses([directory])
    text = run_text(run, time.time()) + status_text(run.phases)
    assert "\x1b" not in text
    assert "\\x1b]0;owned" in text
    assert "\\x1b[2JReason" in text


def test_logs_of_a_refused_job_do_not_keep_a_later_phase_from_joining(directory: RunDirectory, spec: RunSpec) -> None:
    """`PHASE=3 sbatch run.sub` leaves phase3/logs; phase 2 may still join a run of phase 1."""
    second = replace(spec, phases=(spec.phase(2),))
    with pytest.raises(BertjobsError, match="exists"):
        check_name(second)
    directory.phase(2).checkpoints.rmdir()
    directory.phase(3).logs.mkdir(parents=True)
    check_name(second)


def test_a_later_phase_joins_with_the_settings_of_the_earlier_one(directory: RunDirectory, spec: RunSpec) -> None:
    directory.phase(2).checkpoints.rmdir()
    with pytest.raises(BertjobsError, match="started with other settings: precision, seed"):
        check_name(replace(spec, phases=(spec.phase(2),), precision="bf16", seed=7))


def test_a_run_that_was_moved_is_resumed_where_it_is(directory: RunDirectory, tmp_path: Path) -> None:
    moved = directory.root.rename(tmp_path / "elsewhere")
    spec = unfinished(RunDirectory(moved))
    assert (spec.run, spec.results) == ("elsewhere", str(tmp_path))
    assert Path(spec.data).is_absolute()


def test_a_folder_that_is_not_a_run_is_not_called_resumable(spec: RunSpec) -> None:
    (Path(spec.results) / spec.run / "phase3" / "logs").mkdir(parents=True)
    with pytest.raises(BertjobsError, match="remove it: it holds no run") as caught:
        check_name(spec)
    assert "resume" not in str(caught.value)


def test_watch_redraws_in_place_on_a_terminal(directory: RunDirectory, bertjobs: Bertjobs, tmp_path: Path) -> None:
    directory.record("ended", scheduler="slurm", phase=1, job="7", attempt=0, cause="SIGTERM", exit_code=75)
    plain = bertjobs("status", "--watch", directory.name).stdout
    assert "phase 1: STOPPED, job 7 (source: run directory)" in plain
    assert "\x1b" not in plain
    rows = json.loads(bertjobs("status", directory.name, "--watch", 2, "--json").stdout)
    assert [row["state"] for row in rows] == ["STOPPED", "UNKNOWN"]
    terminal, inner = pty.openpty()
    words = [sys.executable, "-m", "bertjobs", "status", "--watch", "1"]
    subprocess.run(words, cwd=tmp_path, stdout=inner, check=True)
    os.close(inner)
    assert os.read(terminal, 10_000).startswith(b"\x1b[H\x1b[J")
    os.close(terminal)


@pytest.mark.parametrize(
    ("arguments", "colour"),
    [
        (("status",), Colour.BAD),
        (("status", "laptop-scratch"), Colour.BAD),
        (("doctor", "laptop-scratch"), Colour.WAITING),
    ],
)
@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_states_are_coloured_on_a_terminal(
    directory: RunDirectory,
    tmp_path: Path,
    arguments: tuple[str, ...],
    colour: Colour,
    more: dict[str, str],
    coloured: bool,
) -> None:
    """A job has failed; the doctor has no evidence why."""
    directory.record("started", phase=1, job="7", attempt=0)
    directory.record("ended", phase=1, job="7", attempt=0, cause="crashed", exit_code=70)
    terminal, inner = pty.openpty()
    usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environ = {**usual, "PATH": "", "TERM": "xterm", **more}
    subprocess.run([sys.executable, "-m", "bertjobs", *arguments], cwd=tmp_path, stdout=inner, env=environ, check=True)
    os.close(inner)
    text = os.read(terminal, 20_000).decode()
    os.close(terminal)
    assert (f"\x1b[{colour}m" in text) is coloured
    assert (f"\x1b[{Colour.HEAD}m" in text) is coloured
    assert ("\x1b" in text) is coloured


@pytest.mark.parametrize("seconds", ["0", "nan", "soon"])
def test_invalid_seconds_to_watch_are_refused(directory: RunDirectory, bertjobs: Bertjobs, seconds: str) -> None:
    done = bertjobs("status", directory.name, "--watch", seconds)
    assert done.returncode == 64
    assert f"'{seconds}' is not a number of seconds" in done.stderr
