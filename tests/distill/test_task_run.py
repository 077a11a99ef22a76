"""`bertjobs distill` on a task as users start it: what it leaves, resume, ranks, and all that is refused."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from bertjobs.cli.main import main
from bertjobs.distill.task import TaskDistillation
from bertjobs.distill.teacher import open_fine_tuned
from bertjobs.files.json_lines import read_lines
from bertjobs.finetune.batches import make_batch
from bertjobs.model.huggingface import TRAINING_ONLY_FILE
from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks
from tests.distill.conftest import TEACHER, tuned_in
from tests.finetune.conftest import bertjobs

STUDENT = "2x16x2x32"
QUICK = ("--backend", "local", "--set", "phase1.lr=1e-2", "--set", "phase1.global_batch=16", "--set",
         "phase1.sequence_length=32", "--set", "phase1.epochs=2", "--set", "distill_relations=1")  # fmt: skip


def distilled(place: Path, run: str, *words: str, code: int = 0) -> Path:
    """A run's phase folder, after it has ended with this exit code."""
    done = bertjobs(
        place, "distill", "--task", "sentences", "--teacher", "tuned", "--student", STUDENT, "--data", "data", "--run",
        run, *QUICK, *words,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return place / "results" / run / "phase1"


def result(phase: Path) -> Path:
    return phase / "checkpoints" / json.loads((phase / "DONE.json").read_text())["checkpoint"]


@pytest.fixture(scope="module")
def straight(place: Path, tuned: Path) -> Path:
    assert tuned.is_dir()
    return distilled(place, "straight")


def test_it_measures_the_task_and_the_distance_from_the_teacher(place: Path, straight: Path) -> None:
    lines, weights = read_lines(straight / "metrics.jsonl"), (0.5, 1, 1, 1)
    fields = ("loss_nats", "soft_loss_nats", "hidden_squared_error", "relation_loss_nats")
    for line in lines:
        total = sum(weight * line[field] for weight, field in zip(weights, fields, strict=True))
        assert line["distillation_loss"] == pytest.approx(total, rel=1e-5)
    assert lines[-1]["distillation_loss"] < lines[0]["distillation_loss"]
    assert json.loads((straight / "RESULT.json").read_text())["measure"] == "accuracy"
    (log,) = (straight / "logs").glob("*.out")
    text = log.read_text()
    assert f"teacher {place / 'tuned'}: 4 layers, hidden 32; the student's layers correspond to 2, 4" in text
    assert re.search(r"step 3/12  epoch \S+  loss \S+  accuracy \S+  distillation loss \d", text)


def test_its_checkpoint_is_a_fine_tuned_model(place: Path, straight: Path) -> None:
    folder = result(straight)
    assert (folder / TRAINING_ONLY_FILE).is_file()
    theirs, loading = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    evaluated = bertjobs(place, "evaluate", "straight", "--json")
    dev = json.loads((straight / "RESULT.json").read_text())["dev"]
    assert json.loads(evaluated.stdout)["scores"]["accuracy"] == pytest.approx(dev["accuracy"])


def test_it_is_reported_and_resumed_as_any_other(place: Path, straight: Path) -> None:
    assert "task sentences, dev accuracy" in bertjobs(place, "report", "straight").stdout
    assert str(place / "tuned") in (place / "results" / "straight" / "report.html").read_text()
    distilled(place, "stopped", "--steps-this-run", "5", code=75)
    assert bertjobs(place, "resume", "stopped").returncode == 0
    phase = place / "results" / "stopped" / "phase1"
    for name in ("model.safetensors", TRAINING_ONLY_FILE):
        ours, theirs = load_file(result(phase) / name), load_file(result(straight) / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.slow
def test_two_ranks_train_as_one(place: Path, straight: Path) -> None:
    two = distilled(place, "two", "--tasks-per-node", "2")
    for one, other in zip(read_lines(two / "metrics.jsonl"), read_lines(straight / "metrics.jsonl"), strict=True):
        assert one["distillation_loss"] == pytest.approx(other["distillation_loss"], rel=1e-3)


REHEARSE = ("rehearse", "--recipe", "distill-task", "--data", "prepared", "--set", "phase1.sequence_length=32")


@pytest.mark.slow
def test_it_is_rehearsed_with_its_own_teacher(place: Path, task_data: PreparedTask, tuned: Path) -> None:
    assert (task_data.folder, tuned) == (place / "prepared", place / "tuned")
    done = bertjobs(place, *REHEARSE, "--set", "teacher=tuned", "--preempt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"teacher {tuned}" in done.stdout
    assert "next: bertjobs distill --recipe distill-task" in done.stdout


def test_a_rehearsal_without_a_teacher_that_fits_ends_before_it_begins(place: Path, task_data: PreparedTask) -> None:
    assert task_data.folder == place / "prepared"
    for words, what in (
        ((), "learns from a teacher, and none was given"),
        (("--set", "teacher=nobody"), "there is no run named 'nobody'"),
    ):
        done = bertjobs(place, *REHEARSE, *words)
        assert (done.returncode, done.stdout) == (64, "")
        assert what in done.stderr


def objective(data: PreparedTask, teacher: Path, **settings: object) -> TaskDistillation:
    flags = {"recipe": "distill-task", "data": str(data.folder), "teacher": str(teacher)}
    sets = ["phase1.sequence_length=32", *(f"{key}={value}" for key, value in settings.items())]
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=sets, training_rows=96).spec
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return TaskDistillation.of(replace(spec, model=replace(read_model_spec(teacher), **still)))


def test_a_student_that_is_its_teacher_has_no_loss(task_data: PreparedTask, tuned: Path) -> None:
    mine = objective(task_data, tuned, distill_labels=0, distill_relations=1)
    learner = mine.open(Ranks(read_placement({})), torch.device("cpu"))
    assert learner.load_weights(tuned) == ()
    with learner.batches(None) as batches:
        terms = learner.forward(next(batches)[0])
    assert mine.terms == ("labels", "logits", "hidden", "relations")
    assert [term.loss_sum.item() for term in terms] == [0.0] * 4
    assert float(terms[0].score_sums[0]) > 0


def test_sums_do_not_depend_on_how_rows_are_packed(task_data: PreparedTask, tuned: Path) -> None:
    mine = objective(task_data, tuned, distill_relations=1)
    learner = mine.open(Ranks(read_placement({})), torch.device("cpu"))
    split, head = task_data.splits["train"], task_data.head
    whole = learner.forward(make_batch(split, np.arange(12), head))
    parts = [learner.forward(make_batch(split, rows, head)) for rows in (np.arange(5), np.arange(5, 12))]
    for number, term in enumerate(whole):
        both = [part[number] for part in parts]
        torch.testing.assert_close(term.loss_sum, both[0].loss_sum + both[1].loss_sum, rtol=1e-4, atol=1e-5)
        assert int(term.count) == sum(int(part.count) for part in both)


def test_a_rank_without_sequences_gives_every_parameter_a_gradient_of_zero(
    task_data: PreparedTask, tuned: Path
) -> None:
    learner = objective(task_data, tuned, distill_relations=1).open(Ranks(read_placement({})), torch.device("cpu"))
    empty = make_batch(task_data.splits["train"], np.zeros(0, dtype=np.int64), task_data.head)
    terms = learner.forward(empty)
    sum(term.loss_sum for term in terms).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in learner.model.parameters())


def test_the_teacher_is_frozen_and_gives_what_its_own_model_gives(task_data: PreparedTask, tuned: Path) -> None:
    mine = objective(task_data, tuned)
    teacher = open_fine_tuned(mine.spec, mine.teacher, task_data.head, torch.device("cpu"))
    batch = make_batch(task_data.splits["dev"], np.arange(5), task_data.head)
    states = teacher.states(batch, mine.matching)
    ours = teacher.decide(states.last.index_select(0, batch.read))
    assert not ours.requires_grad
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    ends = batch.cumulative_lengths.tolist()
    for row, (first, last) in enumerate(itertools.pairwise(ends)):
        with torch.no_grad():
            expected = theirs(batch.input_ids[None, first:last]).logits[0]
        torch.testing.assert_close(ours[row], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def others(place: Path, task_data: PreparedTask, tuned: Path) -> SimpleNamespace:
    """Folders that are no teachers of the task, beside one that is."""
    assert tuned.is_dir()
    tuned_in(place / "swapped", task_data, labels=("good", "bad"))
    tuned_in(place / "other-words", task_data)
    lines = (place / "other-words" / "vocab.txt").read_text().splitlines()
    (place / "other-words" / "vocab.txt").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    return SimpleNamespace(place=place)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--student", STUDENT, "--data", "data"), "no teacher was given"),
        (("--teacher", "tuned", "--student", "2x16x3", "--data", "data"), "3 attention heads do not divide a width"),
        (("--teacher", "tuned", "--student", "5x16x2", "--data", "data"), "5 layers and its teacher 4"),
        (("--teacher", "tuned", "--student", STUDENT, "--layers", "4,2", "--data", "data"), "in ascending order"),
        (("--teacher", "model", "--student", STUDENT, "--data", "data"), "the teacher is not fine-tuned for task"),
        (("--teacher", "swapped", "--student", STUDENT, "--data", "data"), "the teacher's labels are good, bad"),
        (("--teacher", "tuned", "--student", STUDENT, "--data", "nowhere"), "there is no such folder"),
        (("--teacher", "nobody", "--student", STUDENT, "--data", "data"), "there is no run named 'nobody'"),
        (("--teacher", "tuned", "--from", "model", "--random-weights", "--data", "data"), "contradicts --from"),
        (("--teacher", "tuned", "--from", "other-words", "--data", "data"), "trained with another vocabulary"),
        (("--teacher", "tuned", "--student", "1x16x2", "--from", "model", "--data", "data"), "hidden_size 32"),
        (("--teacher", "tuned", "--student", STUDENT, "--data", "data", "--set", "distill_logits=0", "--set",
          "distill_labels=0"), "the student's head would learn nothing"),
        (("--teacher", "tuned", "--student", STUDENT, "--data", "data", "--set", "relation_heads=5"),
         "do not divide both widths"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(
    others: SimpleNamespace, words: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(others.place)
    common = ("distill", "--task", "sentences", "--run", "refused", "--backend", "local")
    assert main([*common, *words, "--set", "phase1.sequence_length=32"]) == 64
    refused = capsys.readouterr().err
    assert what in refused
    assert not (others.place / "results" / "refused").exists()


def test_flags_of_a_task_need_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["distill", "--teacher", "model", "--student", STUDENT, "--dev", "data/dev.jsonl"]) == 64
    assert "--dev is of a task, and none was given" in capsys.readouterr().err


def test_the_run_has_the_students_shape_and_the_teachers_words(place: Path, straight: Path) -> None:
    spec = read_lockfile(straight.parent / "run.yml")
    assert (spec.model.num_hidden_layers, spec.model.hidden_size, spec.model.num_attention_heads) == (2, 16, 2)
    assert spec.model.name == f"bert-{STUDENT}"
    assert spec.init_checkpoint == spec.teacher == str(place / "tuned")
    assert TEACHER.num_hidden_layers == 4
