"""`bertjobs rehearse`: small runs with real faults, and verdicts that can be bad."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.files.json_lines import append_line
from bertjobs.launch.decision import End, what_next
from bertjobs.launch.rehearse.faults import FILL_DISK, PREEMPT, Moment, Strike, draw_moment, on_small_disk
from bertjobs.launch.rehearse.miniature import made_small, sample_data
from bertjobs.launch.rehearse.outcome import Ending, survival_of
from bertjobs.launch.rehearse.rehearsal import exit_code, is_continued
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile, read_lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import MANIFEST, folder_name, seal
from bertjobs.run.directory import Done, RunDirectory
from bertjobs.run.journal import read_story
from tests.conftest import Bertjobs

REHEARSE = ("rehearse", "--recipe", "laptop-scratch", "--model", "bert-nano", "--phase", "1")


def recipe(name: str, **flags: Any) -> RunSpec:
    return resolve(load_catalogue([builtin_file()]), flags={"recipe": name, **flags}, environ={}).spec


LAPTOP = recipe("laptop-scratch")


def test_a_recipe_survives_a_killed_rank(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path), "HF_TOKEN": "hf_do_not_write_me", "SLURM_PROCID": "7"}
    done = bertjobs(*REHEARSE, "--data", speeches_data, "--kill-rank", 0, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 steps of phase 1, global batch" in done.stdout
    assert "hf_do_not_write_me" not in done.stdout
    heads, killed = (line.split() for line in done.stdout.split("\n\n")[-2].splitlines())
    assert heads[0] == "FAULT"
    assert (killed[0], killed[6], killed[7]) == ("kill-rank", "70", "crashed")
    assert killed[-3:] == ["yes", "yes", "survived"]
    assert "the fault was survived" in done.stdout
    assert not list(tmp_path.glob("bertjobs-rehearsal-*"))
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_fault_that_is_not_survived_is_reported_and_its_files_kept(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    faults = ("--preempt", "--timeout", "--fill-disk")
    words = ("--data", speeches_data, *faults, "--set", "restarts_preempted=0", "--json")
    done = bertjobs(*REHEARSE, *words, environ={"TMPDIR": str(tmp_path)})
    assert done.returncode == 70, done.stdout + done.stderr
    content = json.loads(done.stdout)
    preempt, limit, full = content["faults"]
    assert not preempt["survived"]
    assert "the recipe allows no restarts after a preemption" in preempt["problem"]
    assert (preempt["exit_code"], preempt["cause"]) == (75, "SIGTERM")
    last = read_story(RunDirectory(Path(preempt["directory"])).events()).attempts[-1]
    assert (last.number, last.started_unix_s, last.cause) == (1, None, Cause.NOT_RESTARTED)
    assert last.spent_by is Cause.SIGTERM
    assert Path(preempt["directory"]).is_relative_to(content["folder"])
    assert not Path(content["folder"], "timeout").exists()
    assert limit["survived"], limit["problem"]
    assert (limit["exit_code"], limit["cause"], limit["steps_repeated"]) == (75, "SIGUSR2", 0)
    assert full["survived"], full["problem"]
    assert (full["exit_code"], full["attempts"]) == (70, 2)
    assert full["cause"] in ("disk", "crashed")
    assert full["weights_equal"]
    assert full["metrics_whole"]
    assert full["steps_repeated"] > 0
    assert not Path(full["directory"]).exists()


def test_without_data_it_says_how_to_make_them(bertjobs: Bertjobs, tmp_path: Path) -> None:
    done = bertjobs(*REHEARSE, environ={"TMPDIR": str(tmp_path)})
    assert done.returncode == 64
    assert "data/prepared' does not exist" in done.stderr
    assert "bertjobs data prepare" in done.stderr
    assert not list(tmp_path.glob("bertjobs-rehearsal-*"))


def test_a_rank_that_does_not_exist_is_refused(bertjobs: Bertjobs) -> None:
    done = bertjobs(*REHEARSE, "--kill-rank", 2)
    assert done.returncode == 64
    assert "there is no rank 2" in done.stderr


@pytest.mark.parametrize("name", ["dgxa100-80g", "laptop", "dgx1-16g"])
def test_a_small_run_keeps_what_decides_the_training(name: str, speeches_data: Path, tmp_path: Path) -> None:
    data = DataManifest.read(speeches_data)
    spec = recipe(name, precision="tf32" if name == "dgxa100-80g" else None)
    small = made_small(spec, data)
    for key in ("masking", "masked_share", "seed", "loss_scale", "loss_normalization", "restarts", "loader", "recipe"):
        assert getattr(small, key) == getattr(spec, key), key
    assert replace(small.optimizer, backend="") == replace(spec.optimizer, backend="")
    assert small.precision == {"tf32": "fp32"}.get(spec.precision, spec.precision)
    assert (small.world_size, small.gpus, small.model.num_hidden_layers) == (2, 0, 2)
    for phase, own in zip(small.phases, spec.phases, strict=True):
        for key in ("lr", "warmup", "sequence_length", "max_predictions", "optimizer_state"):
            assert getattr(phase, key) == getattr(own, key), key
        assert phase.steps <= 15
        assert phase.global_batch == phase.micro_batch * phase.gradient_steps * 2 <= 8
        assert phase.gradient_steps == min(2, own.gradient_steps)
    (tmp_path / "run.yml").write_text(lockfile(small))
    assert read_lockfile(tmp_path / "run.yml") == small


def test_phases_missing_from_the_data_are_left_out(speeches_data: Path) -> None:
    data = DataManifest.read(speeches_data)
    only_first = replace(data, phases={1: data.phase(1)})
    assert [phase.phase for phase in made_small(recipe("laptop-scratch"), only_first).phases] == [1]
    with pytest.raises(InputError, match="no phase 2"):
        made_small(recipe("laptop-scratch", phase=2), only_first)


def test_sampled_data_are_fewer_shards_of_the_same_bins(speeches_data: Path, tmp_path: Path) -> None:
    whole = DataManifest.read(speeches_data)
    sample_data(whole, tmp_path / "data", [1])
    sample = DataManifest.read(tmp_path / "data")
    sample.check(replace(recipe("laptop-scratch", phase=1), data=str(tmp_path / "data")))
    assert list(sample.phases) == [1]
    ours, theirs = sample.phase(1).train, whole.phase(1).train
    assert 512 <= ours.rows < theirs.rows
    assert {file.bin for file in ours.files} == {file.bin for file in theirs.files}
    assert [file for file in theirs.files if file in ours.files] == list(ours.files)
    name = ours.files[0].name
    assert sha256_of(ours.folder / name) == ours.files[0].sha256


@given(seed=st.integers(), every=st.integers(1, 6))
def test_a_fault_strikes_after_a_checkpoint_and_before_the_end(seed: int, every: int) -> None:
    spec = replace(LAPTOP, phases=tuple(replace(p, steps=15, checkpoint_every=every) for p in LAPTOP.phases))
    moment = draw_moment(spec, random.Random(seed))
    assert every < moment.step < 11
    assert moment.phase in (1, 2)


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([75, 0], 75), ([64, 0], 64), ([70, -9], 70), ([0, -9], 70), ([75, -9], 70), ([64, 75], 64)],
)
def test_the_attempt_s_code_follows_from_the_ranks_codes(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code


@pytest.mark.parametrize(
    ("code", "told_to_end", "advanced", "again"),
    [(0, True, True, False), (64, True, True, False), (75, True, False, True), (75, False, True, True),
     (70, False, True, True), (70, False, False, False)],
)  # fmt: skip
def test_another_attempt_follows_as_on_slurm(code: int, told_to_end: bool, advanced: bool, again: bool) -> None:
    decision = what_next(End(code, told_to_end=told_to_end, advanced=advanced))
    assert is_continued(decision, code) == again


def finished(root: Path, weights: bytes = b"same", cause: str = "SIGTERM") -> RunDirectory:
    """A run of one phase and four steps, stopped after the second step and continued."""
    directory = RunDirectory(root)
    directory.create()
    phase = directory.phase(1)
    phase.create()
    checkpoint = phase.checkpoints / folder_name(4)
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(weights)
    seal(checkpoint, phase=1, step=4, recipe_hash="")
    phase.write_done(Done(1, 4, checkpoint.name, sha256_of(checkpoint / MANIFEST), "", 0.0))
    for step in range(1, 5):
        append_line(phase.metrics, {"step": step, "loss_nats": 1 / step, "time_unix_s": 100.0 + 10 * step})
    directory.record("started", phase=1, job="rehearsal", attempt=0, step=0)
    directory.record("ended", phase=1, job="rehearsal", attempt=0, cause=cause)
    directory.record("started", phase=1, job="rehearsal", attempt=1, step=1)
    return directory


STRUCK = Ending(1, 0, 75, (75, 0), "rehearsal-0.out", 2, {"step": 2, "time_unix_s": 112.0}, 113.0)
DONE = Ending(1, 1, 0, (0, 0), "rehearsal-1.out", None, {"step": 4, "time_unix_s": 140.0}, 141.0)


def test_a_run_that_ends_as_the_undisturbed_one_has_survived(tmp_path: Path) -> None:
    reference, run = finished(tmp_path / "reference"), finished(tmp_path / "run")
    survival = survival_of(PREEMPT, reference, run, [STRUCK, DONE], run)
    assert survival.survived, survival.problem
    assert (survival.phase, survival.step, survival.exit_code, survival.cause) == (1, 2, 75, "SIGTERM")
    assert (survival.steps_repeated, survival.seconds_lost, survival.attempts) == (1, 18.0, 2)
    json.dumps(asdict(survival))


def test_a_run_that_ends_differently_has_not_survived(tmp_path: Path) -> None:
    reference = finished(tmp_path / "reference")

    other = finished(tmp_path / "other", weights=b"else")
    survival = survival_of(PREEMPT, reference, other, [STRUCK, DONE], other)
    assert (survival.weights_equal, survival.metrics_whole) == (False, True)
    assert "phase 1 ends with different bits in model.safetensors" in survival.problem

    double = finished(tmp_path / "double")
    append_line(double.phase(1).metrics, {"step": 4, "loss_nats": 0.25, "time_unix_s": 150.0})
    survival = survival_of(PREEMPT, reference, double, [STRUCK, DONE], double)
    assert (survival.weights_equal, survival.metrics_whole) == (True, False)
    assert "metrics.jsonl has the steps [1, 2, 3, 4, 4]" in survival.problem

    damaged = finished(tmp_path / "damaged")
    (damaged.phase(1).checkpoints / folder_name(4) / "model.safetensors").write_bytes(b"sane")
    survival = survival_of(PREEMPT, reference, damaged, [STRUCK, DONE], damaged)
    assert "the last checkpoint of phase 1 is damaged" in survival.problem

    misnamed = finished(tmp_path / "misnamed", cause="crashed")
    survival = survival_of(PREEMPT, reference, misnamed, [STRUCK, DONE], misnamed)
    assert "the journal names the cause 'crashed', not SIGTERM" in survival.problem

    run = finished(tmp_path / "run")
    (run.phase(1).logs / "rehearsal-1.out").write_text("step 3\nerror: no more\n")
    survival = survival_of(PREEMPT, reference, run, [STRUCK, replace(DONE, exit_code=70)], run)
    assert "attempt 1 at phase 1 ended with code 70: error: no more; look at " in survival.problem

    for endings in ([replace(STRUCK, exit_code=0)], [replace(STRUCK, struck_at=None)]):
        survival = survival_of(PREEMPT, reference, run, endings, run)
        assert "over before the fault struck" in survival.problem


def until_full(disk: Path) -> tuple[int, int]:
    written = 0
    with open(disk / "file", "wb", buffering=0) as file:
        while True:
            try:
                written += file.write(bytes(100_000))
            except OSError as error:
                return written, error.errno


def test_a_small_disk_is_visible_only_to_the_work(tmp_path: Path) -> None:
    outcome = on_small_disk(tmp_path, 1 << 20, lambda: until_full(tmp_path))
    if outcome.result is None:
        pytest.skip(f"cannot mount a small disk: {outcome.why_not}")
    assert outcome.result == (1 << 20, errno.ENOSPC)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        on_small_disk(tmp_path, 1 << 20, lambda: 1 // 0)


def test_if_no_disk_can_be_mounted_the_reason_is_given(tmp_path: Path) -> None:
    outcome = on_small_disk(tmp_path / "absent", 1 << 20, lambda: 1)
    assert outcome.result is None
    assert outcome.why_not


def struck_phase(root: Path) -> RunDirectory:
    """A run after four steps, its checkpoint of 400,000 bytes."""
    directory = finished(root, weights=bytes(400_000))
    directory.phase(1).done_file.unlink()
    return directory


def test_a_process_may_not_write_large_files_if_no_disk_can_be_filled(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.stdin.readline()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'wb', buffering=0)\n"
        "try:\n    [file.write(bytes(1000)) for _ in range(300)]\n"
        "except OSError as error:\n    print(error.errno, file.tell())\n"
    )
    phase = struck_phase(tmp_path / "run").phase(1)
    strike = Strike(FILL_DISK, Moment(1, 4), phase, None)
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    strike.watch([process.pid])
    output, _ = process.communicate("go\n", timeout=300)
    assert output.split() == [str(errno.EFBIG), "200000"]
    assert strike.step == 4


def test_a_disk_is_filled_up_to_half_a_checkpoint_and_freed(tmp_path: Path) -> None:
    size = 8 << 20

    def work() -> list[int]:
        free = []
        phase = struck_phase(tmp_path / "disk" / "run").phase(1)
        for moment in (Moment(1, 5), Moment(1, 4)):
            strike = Strike(FILL_DISK, moment, phase, tmp_path / "disk")
            strike.watch([])
            free.append(shutil.disk_usage(tmp_path / "disk").free)
        (tmp_path / "disk" / "old").unlink()  # an old checkpoint is deleted
        strike.watch([])
        free.append(shutil.disk_usage(tmp_path / "disk").free)
        strike.end()
        return [*free, shutil.disk_usage(tmp_path / "disk").free]

    def prepared() -> list[int]:
        (tmp_path / "disk" / "old").write_bytes(bytes(3 << 20))
        return work()

    (tmp_path / "disk").mkdir()
    outcome = on_small_disk(tmp_path / "disk", size, prepared)
    if outcome.result is None:
        pytest.skip(f"cannot mount a small disk: {outcome.why_not}")
    before, full, again, freed = outcome.result
    assert before > 4 << 20
    assert full == pytest.approx(200_000, abs=8192)
    assert again == pytest.approx(200_000, abs=8192)
    assert freed > 7 << 20
