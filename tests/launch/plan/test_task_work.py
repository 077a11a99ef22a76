"""The time of a run of fine-tuning: by the lengths of its own sequences, in epochs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.launch.plan.estimate import earlier_runs, estimate_phase
from bertjobs.launch.plan.memory import memory_need
from bertjobs.launch.plan.plan import arithmetic, as_json, make_plan
from bertjobs.launch.plan.queue import Queue
from bertjobs.launch.plan.task_work import TaskWork, validations, work_of
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.resolve import Resolved, resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.task import open_task
from tests.launch.plan.test_estimate import leave
from tests.launch.plan.test_plan import row
from tests.tasks.encoders import encoder_in

RATE = 1e11


def resolved(recipe: str, rows: int | None = 100, *sets: str, **flags: object) -> Resolved:
    flags = {"recipe": recipe, **flags}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=sets, training_rows=rows)


def spec_of(recipe: str, rows: int | None = 100, *sets: str, **flags: object) -> RunSpec:
    return resolved(recipe, rows, *sets, **flags).spec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared task: 100 training sequences of 3 to 12 tokens, 10 dev sequences of 3, and test sequences."""
    folder = tmp_path_factory.mktemp("work")
    for split, lengths in (("train", [n % 10 + 1 for n in range(100)]), ("dev", [1] * 10), ("test", [9])):
        lines = [{"text": " ".join(["good"] * n), "label": "ab"[n % 2]} for n in lengths]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {split: folder / f"{split}.jsonl" for split in ("train", "dev", "test")}
    prepare_task(open_task("sentences"), "sentences", files, encoder_in(folder / "model", 64), folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def work(data: Path) -> TaskWork:
    work = work_of(spec_of("finetune", data=str(data)))
    assert work is not None
    return work


def test_the_work_is_counted_from_the_prepared_lengths(work: TaskWork) -> None:
    lengths = [n % 10 + 3 for n in range(100)]  # with [CLS] and [SEP]
    assert work.train == StepCounts(100, 0, sum(lengths), sum(length**2 for length in lengths))
    assert work.dev == StepCounts(10, 0, 30, 90)
    assert work.mean_tokens == 7.5


def test_pretraining_and_what_is_not_prepared_have_none(tmp_path: Path) -> None:
    assert work_of(spec_of("laptop", None)) is None
    assert work_of(spec_of("finetune", data=str(tmp_path))) is None
    (tmp_path / "TASK.json").write_text("{")
    assert work_of(spec_of("finetune", data=str(tmp_path))) is None


def test_short_sequences_take_little_time_and_validations_a_third_of_a_step(work: TaskWork) -> None:
    spec = spec_of("finetune", 100)
    (phase,) = spec.phases
    estimate = estimate_phase(spec, phase, 30522, RATE, (), work)
    assert estimate
    train, dev = (step_flops(spec.model, 0, counts) for counts in (work.train, work.dev))
    assert (phase.steps, validations(phase)) == (10, 3)  # 3 epochs of 100 / 32
    expected = phase.steps * phase.global_batch / 100 * train + 3 * dev / 3
    assert estimate.seconds == pytest.approx(expected / (0.6 * RATE))
    longest = estimate_phase(spec, phase, 30522, RATE)
    assert longest
    assert longest.is_upper_bound
    assert not estimate.is_upper_bound
    assert longest.seconds > 10 * estimate.seconds


def test_the_rate_of_pretraining_is_scaled_to_the_task(work: TaskWork) -> None:
    spec = spec_of("mrpc-dgxa100-80g", 3668, gpus=1)
    (phase,) = spec.phases
    longest, own = (estimate_phase(spec, phase, 30522, None, (), known) for known in (None, work))
    assert longest
    assert own
    assert longest.sequences_per_s > 580  # no masked words
    assert own.sequences_per_s > 10 * longest.sequences_per_s
    assert "580 sequences/s that NVIDIA publishes" in own.source
    assert "of pretraining, scaled by the arithmetic per sequence" in own.source
    node = spec_of("mrpc-dgxa100-80g", 3668)
    eight = estimate_phase(node, node.phases[0], 30522, None, (), None)
    assert eight
    # 16 sequences per rank do not take long enough to hide that the ranks exchange as much as for 8,192.
    assert 3 * longest.sequences_per_s < eight.sequences_per_s < 8 * longest.sequences_per_s


def test_another_task_s_run_says_nothing_about_this_one(tmp_path: Path, work: TaskWork) -> None:
    spec = spec_of("finetune", 100, data="/data/mine", run="new")
    (phase,) = spec.phases
    for other in (replace(spec, task="tagging"), replace(spec, data="/data/other"), replace(spec, task="")):
        leave(tmp_path, replace(other, run="other"), {1: [50.0]})
        estimate = estimate_phase(spec, phase, 30522, RATE, earlier_runs(tmp_path), work)
        assert estimate
        assert "measured here" in estimate.source
    leave(tmp_path, replace(spec, run="same"), {1: [50.0]})
    estimate = estimate_phase(spec, phase, 30522, RATE, earlier_runs(tmp_path), work)
    assert estimate
    assert estimate.source == "50 sequences/s measured in run same"


def test_the_plan_has_epochs_and_steps_per_epoch(work: TaskWork) -> None:
    plan = make_plan(resolved("finetune", 100), "local", None, RATE, work=work)
    text = arithmetic(plan)
    assert row(text, "optimizer steps ") == "10"
    assert row(text, "  = epochs ") == "3.2"
    assert row(text, "  x steps per epoch ") == "3.125"
    assert row(text, "total sequences ") == "320 of 8 tokens on average"
    assert row(text, "expected time  ").startswith("about ")
    (phase,) = as_json(plan)["phases"]
    assert (phase["epochs"], phase["steps_per_epoch"], phase["expected_is_upper_bound"]) == (3.2, 3.125, False)


def test_a_plan_before_the_data_are_prepared_says_what_is_not_known() -> None:
    plan = make_plan(resolved("mrpc-dgxa100-80g", None), "slurm", None, None, queue=Queue(time="1:00:00"))
    text = arithmetic(plan)
    assert row(text, "optimizer steps ") == row(text, "expected time  ") == "known once the data are prepared"
    assert row(text, "  = epochs x steps per epoch ") == "3 x unknown"
    assert "expected end" not in text
    assert [problem for problem in plan.problems if "too short" in problem.what] == []
    known = resolved("mrpc-dgxa100-80g", None, "phase1.steps=86")
    text = arithmetic(make_plan(known, "slurm", None, None))
    assert "at most" in text
    assert "every sequence counted with 128 tokens, as the data are not prepared" in text


def test_a_task_needs_no_memory_for_masked_words() -> None:
    spec = spec_of("mrpc-dgxa100-80g")
    assert memory_need(spec, spec.phases[0], 30522, 16).logits == 0
