"""`bertjobs plan`: the arithmetic, where values came from, the script; and that nothing else happens."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest

from bertjobs.cli.plan import differing_lines
from bertjobs.launch.plan.plan import Plan, arithmetic, as_json, make_plan
from bertjobs.launch.plan.queue import NOT_ASKED, Queue
from bertjobs.launch.watch.progress import ProgressView, ShownValidation, progress_line
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.directory import RunDirectory
from bertjobs.wording import duration
from tests.conftest import Bertjobs


def test_json_gives_the_batch_arithmetic_per_phase(bertjobs: Bertjobs) -> None:
    done = bertjobs("plan", "--recipe", "dgxa100-80g", "--nodes", 8, "--json")
    first, second = json.loads(done.stdout)["phases"]
    names = ("rank_batch", "gradient_steps", "micro_batch", "global_batch", "world_size", "steps")
    assert [first[name] for name in names] == [1024, 4, 256, 65536, 64, 7038]
    assert [second[name] for name in names] == [512, 16, 32, 32768, 64, 1563]


def test_text_shows_arithmetic_sources_and_script_and_writes_nothing(bertjobs: Bertjobs, tmp_path: Path) -> None:
    done = bertjobs("plan", "--recipe", "dgx1-32g", "--nodes", 4, environ={"PHASE": "1", "LR": "5e-3"})
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "x rank batch (BATCHSIZE) 2,048" in words
    assert "= gradient steps (GRADIENT_STEPS) 32" in words
    assert "phase1.lr 0.005 environment LR" in words
    assert "phase1.gradient_steps 32 65536 / (4 nodes x 8 tasks) / micro-batch 64" in words
    assert "#SBATCH --gpus-per-node=8" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_existing_data_give_epochs_and_time(bertjobs: Bertjobs, speeches_data: Path) -> None:
    done = bertjobs("plan", "--recipe", "laptop-scratch", "--backend", "local", "--data", speeches_data)
    assert done.returncode == 0, done.stderr
    assert "vocabulary 2,000" in done.stdout
    assert "epochs)" in done.stdout
    assert "GFLOP/s measured here" in done.stdout


def planned(recipe: str, *sets: str, queue: Queue = NOT_ASKED, now: float | None = None, **flags: object) -> Plan:
    resolved = resolve(load_catalogue([builtin_file()]), flags={"recipe": recipe, **flags}, environ={}, sets=sets)
    return make_plan(resolved, "slurm", None, None, queue=queue, now_unix_s=now)


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return " ".join(line.removeprefix(name).split())


def test_a_best_checkpoint_is_named_as_the_result() -> None:
    text = arithmetic(planned("dgxa100-80g", "phase1.keep_best=true", "phase1.validate_every=500"))
    assert row(text, "result ") == "checkpoint of the lowest held-out loss last checkpoint"
    assert "\nresult " not in arithmetic(planned("dgxa100-80g", "phase1.validate_every=500"))


def test_what_a_run_costs() -> None:
    plan = planned("dgxa100-80g", nodes=2, queue=Queue(time="2:00:00"), now=0.0)
    text = arithmetic(plan)
    assert row(text, "GPU memory ") == "44 of 80 GB: fits 26 of 80 GB: fits"
    # 65,536 x 7,038 and 32,768 x 1,563 sequences at 16 times NVIDIA's 580 and 210 per second, less what is lost.
    assert row(text, "expected time  ").startswith("about 14 h 21 min about 4 h 23 min")
    assert row(text, "GPU-hours") == "230 70.4"
    # A job of two hours trains for 6,960 s: 947 steps of 7.34 s, then 690 of 10.1 s.
    assert row(text, "jobs of at most 2:00:00") == "8 3"
    assert row(text, "GPU memory:") == "estimate, not measured: +-10%"
    rates = [estimate.sequences_per_s for estimate in plan.estimates.values() if estimate]
    assert plan.seconds == pytest.approx(7038 * 65536 / rates[0] + 1563 * 32768 / rates[1] + 11 * 120)
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.seconds))
    assert f"expected end {end}, if it starts now" in text
    first, second = as_json(plan)["phases"]
    assert (first["links"], second["links"]) == (8, 3)
    assert first["gpu_hours"] == pytest.approx(16 * 7038 * 65536 / rates[0] / 3600)
    assert (first["memory"]["verdict"], second["memory"]["micro_batch"]) == ("fits", 64)
    assert json.loads(json.dumps(as_json(plan)))["expected_s"] == plan.seconds


def test_a_time_limit_under_which_the_run_would_never_end() -> None:
    plan = planned("dgxa100-80g", queue=Queue(time="4"), now=0.0)
    text = arithmetic(plan)
    assert row(text, "jobs of at most 0:04:00") == "not one step fits not one step fits"
    assert "expected end" not in text
    assert (plan.seconds, as_json(plan)["phases"][0]["links"]) == (None, None)
    assert [problem.is_warning for problem in plan.problems] == [True, True]
    # 120 s to start, 120 s to stop, and a step: at 580 sequences per second and GPU, 65,536 / 4,640 s.
    assert "warning: a job of 4 min 00 s is too short for one step of phase 1" in text
    assert "about 4 min 20 s" in text
    assert "--time 1:00:00" in text


def test_what_is_not_known_is_not_shown() -> None:
    text = arithmetic(planned("laptop-scratch", queue=Queue(time="10")))
    assert row(text, "expected time  ") == "unknown for this system unknown for this system"
    for name in ("GPU memory", "GPU-hours", "jobs", "expected end", "since run"):
        assert name not in text
    assert as_json(planned("h200"))["time_limit_s"] is None


def test_without_a_limit_one_job_per_phase() -> None:
    text = arithmetic(planned("dgxa100-80g", queue=Queue(time="infinite")))
    assert row(text, "jobs ") == "1 1"
    assert "warning" not in text


def test_of_further_scripts_only_the_differing_lines_are_shown() -> None:
    first, second = "#!/bin/bash\n#SBATCH --job-name=a\ntrain\n", "#!/bin/bash\n#SBATCH --job-name=b\ntrain\n"
    assert differing_lines(first, second) == "- #SBATCH --job-name=a\n+ #SBATCH --job-name=b"


def without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.,]*", "N", text)


def test_the_plan_names_what_submit_would_refuse(bertjobs: Bertjobs, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environ = {"PATH": str(tmp_path / "bin")}
    flags = ("--recipe", "dgx1-32g", "--set", "phase1.micro_batch=512", "--set", "keep_checkpoints=100000000")
    done = bertjobs("plan", *flags, environ=environ)
    assert done.returncode == 0, done.stderr
    refused = bertjobs("submit", *flags, environ=environ)
    assert refused.returncode == 64
    assert refused.stdout == ""
    assert refused.stderr.count("error: ") == 4  # sbatch, data, space, memory
    # Other programs change how much space is free between two commands.
    assert without_numbers(refused.stderr.strip()) in without_numbers(done.stdout)
    problems = json.loads(bertjobs("plan", *flags, "--json", environ=environ).stdout)["problems"]
    assert len(problems) == 4
    assert not any(problem["is_warning"] for problem in problems)


def test_an_earlier_run_gives_time_and_differences(bertjobs: Bertjobs, tmp_path: Path, speeches_data: Path) -> None:
    resolved = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop-scratch", "run": "a"}, environ={})
    directory = RunDirectory(tmp_path / "results" / "a")
    directory.create()
    directory.write_lockfile(lockfile(resolved.spec))
    directory.phase(1).create()
    directory.phase(1).metrics.write_text('{"step": 1, "sequences_per_s": 128.0}\n')
    done = bertjobs("plan", "--recipe", "laptop-scratch", "--seed", 3, "--backend", "local", "--data", speeches_data)
    assert done.returncode == 0, done.stderr
    assert row(done.stdout, "expected time  ").startswith("about 10 s")
    assert "expected time of phase 1 from 128 sequences/s measured in run a\n" in done.stdout
    assert "changed since run a of this recipe: seed 42 -> 3\n" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (7320, "2 h 02 min"), (200_000, "2 d 7 h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def metrics(step: int) -> dict[str, float]:
    return {
        "phase": 1, "step": step, "loss_nats": 7.5, "mlm_accuracy": 0.25, "sequences_per_s": 16.0, "step_time_s": 2.0,
    }  # fmt: skip


def test_the_progress_line_says_what_matters() -> None:
    assert progress_line([metrics(29), metrics(30)], 120) == (
        "phase 1 [#####...............] step 30/120  loss 7.500  masked words 25.0%  16.0 sequences/s  3 min 00 s left"
    )


def test_the_progress_line_has_the_newest_held_out_loss(tmp_path: Path) -> None:
    line = progress_line([metrics(30)], 120, "held-out masked words 6.250")
    assert "loss 7.500 (held-out masked words 6.250)  masked words" in line
    file, validation, out = tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", io.StringIO()
    view = ProgressView(file, 10, out, validation)
    file.write_text(json.dumps(metrics(1)) + "\n")
    validation.write_text("".join(json.dumps({"step": 1, "mlm_loss_nats": loss}) + "\n" for loss in (7.0, 6.5)))
    view.close()
    assert "(held-out masked words 6.500)" in out.getvalue()


def of_task(step: int, **measures: float) -> dict[str, float]:
    return {"phase": 1, "step": step, "sequences_per_s": 16.0, "step_time_s": 2.0, **measures}


def test_the_progress_line_of_a_task_has_its_epochs_and_its_dev_measure(tmp_path: Path) -> None:
    file, validation, out = tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", io.StringIO()
    view = ProgressView(file, 30, out, validation, ShownValidation.of_task("micro_f1"), epoch_steps=10)
    lines = [of_task(step, loss_nats=0.5, training_accuracy=step % 2) for step in (14, 15)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    validation.write_text(json.dumps({"step": 10, "micro_f1": 0.0}) + "\n")
    view.close()
    assert out.getvalue() == (
        "phase 1 [##########..........] step 15/30, epoch 1.5 of 3.0  loss 0.500 (dev micro f1 0.0000)  "
        "training accuracy 50.0%  16.0 sequences/s  30 s left\n"
    )


def test_the_progress_line_of_numbers_has_their_errors(tmp_path: Path) -> None:
    file, validation, out = tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", io.StringIO()
    view = ProgressView(file, 30, out, validation, ShownValidation.of_task("pearson"), epoch_steps=10)
    file.write_text(json.dumps(of_task(15, squared_error=2.25, absolute_error=1.5)) + "\n")
    validation.write_text(json.dumps({"step": 10, "pearson": -0.25}) + "\n")
    view.close()
    assert "  squared error 2.250 (dev pearson -0.2500)  absolute error 1.500  16.0 sequences/s" in out.getvalue()


def test_the_view_reads_whole_lines_once_and_survives_a_cut(tmp_path: Path) -> None:
    class Terminal(list):
        write = list.append

        def isatty(self) -> bool:
            return True

        def flush(self) -> None: ...

    file, out = tmp_path / "metrics.jsonl", Terminal()
    view = ProgressView(file, 10, out)
    view.update()
    assert out == []
    line = json.dumps(metrics(1))
    file.write_text(line + "\n" + line[:20])
    view.update()
    view.update()
    assert len(out) == 1
    assert out[0].startswith("\r\x1b[Kphase 1 [##")
    file.write_text("")
    view.update()
    file.write_text(json.dumps(metrics(2)) + "\n")
    view.update()
    assert "step 2/10" in out[1]
