"""`bertjobs plan`, `submit` and `resume` as a person types them, without Slurm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.errors import InputError
from bertjobs.launch.dry_run import DryRun, WrittenFile
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.options import option_words, parse_option, taken_over
from tests.conftest import Bertjobs

Typed = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "bert-nano", "--set", "phase1.steps=9")
TINY = ("--set", "phase1.global_batch=8", "--set", "phase2.global_batch=8", "--set", "phase1.checkpoint_every=1")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command in this process and this test's folder: exit code, and what it wrote on the two streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ("qos=high", "--qos=high"),
        ("--qos=high", "--qos=high"),
        ("exclusive", "--exclusive"),
        ("--exclusive", "--exclusive"),
        ("exclude=node[1-3],node7", "--exclude=node[1-3],node7"),
        ("constraint=a100&nvlink", "--constraint=a100&nvlink"),
        ("mem-per-gpu=80G", "--mem-per-gpu=80G"),
    ],
)
def test_an_sbatch_option_with_and_without_dashes(given: str, option: str) -> None:
    assert parse_option(given) == option
    assert parse_option(option_words(option).split(" ", 1)[1]) == option


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "is not an option"),
        ("qos=", "is not an option"),
        ("-C a100", "is not an option"),
        ("Qos=high", "is not an option"),
        ("qos=high\ntouch x", "line break"),
        ("qos\ntouch=x", "is not an option"),
        ("comment=two words", "cannot be written in"),
        ("comment=a#b", "cannot be written in"),
        ("comment='a'", "cannot be written in"),
        ("array=1-4", "bertjobs sets it"),
        ("nodes=4", "--nodes"),
        ("clusters=other", "log in to that cluster"),
        ("--output=x", "bertjobs sets it"),
    ],
)
def test_text_that_is_not_an_sbatch_option(given: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_option(given)
    assert says in caught.value.render()
    assert "\n" not in caught.value.what


def test_a_resume_takes_over_the_options_that_it_does_not_give_itself() -> None:
    before = ["--partition=gpu", "--time=60", "--exclude=bad1", "--exclusive", "--dependency=afterok:3", "--qos=low"]
    given = ["--time=90", "--exclude=node3"]
    assert taken_over(before, given, ["qos"]) == ["--partition=gpu", "--exclude=bad1,node3", "--exclusive"]
    assert taken_over([], given) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--after", "soon"), "'soon' is not the id of a job"),
        (("--after", "12,"), "'' is not the id of a job"),
        (("--after", "12;x"), "'12;x' is not the id of a job"),
        (("--after", "12"), "cannot wait for a Slurm job"),
        (("--sbatch=-n4",), "is not an option of sbatch"),
        (("--time", "5", "--sbatch", "time=6"), "--time 5 contradicts --sbatch time=6"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "submit"])
def test_bad_queue_options(
    typed: Typed, speeches_data: Path, tmp_path: Path, verb: str, words: tuple[str, ...], says: str
) -> None:
    run = ("--recipe", "laptop-scratch", "--data", speeches_data, "--backend", "local")
    code, out, err = typed(verb, *run, *words)
    # A plan shows what is wrong with a run, and succeeds; what cannot be read is an error of both commands.
    is_shown = verb == "plan" and "cannot wait" in says
    assert code == (0 if is_shown else 64)
    assert says in (out if is_shown else err)
    assert not (tmp_path / "results").exists()


def test_a_run_is_not_a_study(typed: Typed, tmp_path: Path) -> None:
    code, _, err = typed("submit", "--recipe", "laptop-scratch", "--at-once", 2)
    assert code == 64
    assert "--at-once is for the runs of a study" in err
    assert not (tmp_path / "results").exists()


def test_a_plan_shows_all_problems(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "half" / "phase1").mkdir(parents=True)
    words = ("plan", "--recipe", "laptop-scratch", "--backend", "local", "--data", "half", "--json")
    plan = json.loads(typed(*words, "--image", "x.sqsh")[1])
    assert ["half-written" in problem["what"] for problem in plan["problems"]] == [False, True]
    assert plan["last_run"] is None


@pytest.fixture
def stopped(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> RunDirectory:
    """A run on this machine that stopped after two steps."""
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--backend", "local", *SMALL, *TINY)
    done = bertjobs(*words, "--steps-this-run", 2, "--json", environ={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 75, done.stderr
    printed = json.loads(done.stdout)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert printed == {
        "run_directory": str(directory.root),
        "jobs": {"1": "local-1"},
        "next": [f"bertjobs resume {directory.root}"],
        "exit_code": 75,
    }
    return directory


def test_settings_that_may_change_between_two_jobs(bertjobs: Bertjobs, typed: Typed, stopped: RunDirectory) -> None:
    before = stopped.lockfile.read_text()
    for words, says in (
        (("--set", "phase1.lr=1"), "started with other settings: phase1.lr"),
        (("--set", "seed=7", "--set", "optimizer.beta1=0.5"), "seed, optimizer.beta1"),
        (("--set", "results=/tmp"), "results cannot be changed"),
        (("--set", "run=other"), "run cannot be changed"),
        (("--set", "phase1.stesp=9"), "'steps'"),
        (("--set", "data=nowhere"), "does not exist"),
        (("--after", "17"), "cannot wait for a Slurm job"),
    ):
        code, _, err = typed("resume", "laptop-scratch", "--backend", "local", *words)
        assert code == 64, words
        assert says in err
        assert stopped.lockfile.read_text() == before

    # All at once; and phase 2 has not begun.
    both = typed("resume", "laptop-scratch", "--backend", "local", "--set", "seed=7", "--set", "data=nowhere")[2]
    assert both.count("error: ") == 2
    change = ("resume", "laptop-scratch", "--backend", "local", "--set", "phase2.lr=0.001", "--json")
    dry = json.loads(typed(*change, "--dry-run")[1])
    assert stopped.lockfile.read_text() == before
    assert dry["commands"] == []
    (shown,) = [file["content"] for file in dry["files"] if file["path"] == str(stopped.lockfile)]

    # For one job alone; run.yml does not keep it.
    done = bertjobs(*change, "--set", "steps_this_run=1", environ={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 75, done.stderr
    assert json.loads(done.stdout)["jobs"] == {"1": "local-2"}
    assert [json.loads(line)["step"] for line in stopped.phase(1).metrics.read_text().splitlines()] == [1, 2, 3]
    assert "lr: 0.001" in shown
    assert stopped.lockfile.read_text() == shown

    plan = typed("plan", "--recipe", "laptop-scratch", "--data", "x", "--run", "next", "--set", "phase2.lr=0.5")[1]
    assert "changed since run laptop-scratch of this recipe: " in plan
    assert "phase1.steps 9 -> 20" in plan
    assert "phase2.lr 0.001 -> 0.5" in plan


def test_a_dry_run_here(typed: Typed, speeches_data: Path, tmp_path: Path) -> None:
    before = list(tmp_path.iterdir())
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--backend", "local", "--dry-run")
    code, out, err = typed(*words)
    assert code == 0, err
    assert f"==> {tmp_path}/results/laptop-scratch/run.yml (" in out
    assert "Nothing would be queued" in out
    assert "-m bertjobs.train" in out
    assert list(tmp_path.iterdir()) == before


def test_files_are_shown_as_they_are_unless_they_are_long() -> None:
    text = "ü\nno line end"
    short, long = WrittenFile(Path("/r/a"), text), WrittenFile(Path("/r/b"), "x" * 30_000)
    shown = DryRun(Path("/r"), (short, long), (("sbatch", "--dependency=afterany:phase1", "/r/c d"),)).render()
    assert f"==> /r/a (14 bytes)\n{text}\n" in shown
    assert "==> /r/b (30000 bytes: too long to show)\n" in shown
    assert "sbatch --dependency=afterany:phase1 '/r/c d'" in shown
    assert "phase1 stands for" in shown
