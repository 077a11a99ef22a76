"""`bertjobs finetune` as users start it: resume, ranks, best checkpoint, frozen layers; tiny models, real processes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertjobs.files.json_lines import read_lines
from bertjobs.finetune.batches import TaskBatches
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.tasks.prepared import PreparedTask
from tests.finetune.conftest import bertjobs

QUICK = ("--backend", "local", "--set", "phase1.lr=1e-2", "--set", "phase1.global_batch=16")


def finetuned(place: Path, run: str, *words: str) -> Path:
    """A finished run's phase folder."""
    done = bertjobs(
        place, "finetune", "--from", "model", "--data", "data", "--run", run, *QUICK, "--set",
        "phase1.sequence_length=32", *words
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "results" / run / "phase1"


def weights(phase: Path) -> dict[str, torch.Tensor]:
    result = json.loads((phase / "DONE.json").read_text())["checkpoint"]
    return load_file(phase / "checkpoints" / result / "model.safetensors")


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    return finetuned(place, "straight", "--set", "phase1.epochs=4")


def test_it_learns_and_says_so(place: Path, straight: Path) -> None:
    result = json.loads((straight / "RESULT.json").read_text())
    assert result["measure"] == "accuracy"
    assert result["dev"]["accuracy"] > 0.9
    assert len((straight / "predictions.jsonl").read_text().splitlines()) == 40
    shown = bertjobs(place, "report", "straight")
    assert f"dev accuracy {result['dev']['accuracy']:.4f}" in shown.stdout
    assert (place / "results" / "straight" / "report.html").is_file()
    assert bertjobs(place, "status", "straight").returncode == 0
    assert "done" in bertjobs(place, "doctor", "straight").stdout


def test_the_result_is_the_best_checkpoint(straight: Path) -> None:
    lines = read_lines(straight / "validation.jsonl")
    best = max(lines, key=lambda line: (line["accuracy"], -line["step"]))
    assert json.loads((straight / "DONE.json").read_text())["step"] == best["step"]
    assert json.loads((straight / "RESULT.json").read_text())["step"] == best["step"]


def test_log_and_tensorboard_have_epochs_and_dev_measures(straight: Path) -> None:
    (log,) = (straight / "logs").glob("*.out")
    text = log.read_text()
    assert re.search(r"step 3/24  epoch 0\.50/4  loss \d\.\d{4}  accuracy \d+\.\d%  lr ", text)
    assert re.search(r"step 6: dev loss nats \S+, accuracy \S+, .*macro f1 \S+.* on 40 examples\n", text)
    board = EventAccumulator(str(straight / "tensorboard"))
    board.Reload()
    validations = read_lines(straight / "validation.jsonl")
    for field in ("dev_loss_nats", "accuracy", "macro_f1", "matthews"):
        shown = [(event.step, event.value) for event in board.Scalars(f"held_out/{field}")]
        assert shown == [(line["step"], pytest.approx(line[field], rel=1e-6)) for line in validations]
    assert len(board.Scalars("train/training_accuracy")) == 24
    assert not [tag for tag in board.Tags()["scalars"] if tag.count("/") > 1], "no single classes"


def test_numbers_are_shown_as_squared_errors(place: Path) -> None:
    (place / "numbers").mkdir()
    for split in ("train", "dev"):
        lines = [json.loads(line) for line in (place / "data" / f"{split}.jsonl").read_text().splitlines()]
        numbered = [{**line, "label": len(line["text"]) / 10} for line in lines]
        (place / "numbers" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbered))
    done = bertjobs(
        place, "finetune", "--from", "model", "--data", "numbers", "--option", "kind=number", "--run", "numbers",
        *QUICK, "--set", "phase1.sequence_length=32", "--set", "phase1.epochs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    live = [line for line in done.stdout.splitlines() if line.startswith("phase 1 [")]
    assert re.search(
        r"step 12/12, epoch 2\.0 of 2\.0  squared error \S+ \(dev pearson -?\d\.\d{4}\)  absolute error \S+  ", live[-1]
    )
    phase = place / "results" / "numbers" / "phase1"
    last = read_lines(phase / "metrics.jsonl")[-1]
    (row,) = json.loads(bertjobs(place, "status", "numbers", "--json").stdout)
    assert (row["steps_done"], row["loss_nats"], row["squared_error"]) == (12, None, last["squared_error"])
    (log,) = (phase / "logs").glob("*.out")
    assert re.search(r"step 6/12  epoch 1\.00/2  squared error \S+  absolute error \S+  lr ", log.read_text())
    assert re.search(r"step 6: dev squared error \S+, pearson \S+, spearman \S+ on 40 examples\n", log.read_text())


def test_stopped_and_resumed_it_ends_with_the_same_bits(place: Path, straight: Path) -> None:
    words = ("--from", "model", "--data", "data", "--run", "stopped", *QUICK, "--set", "phase1.epochs=4")
    stopped = bertjobs(place, "finetune", *words, "--set", "phase1.sequence_length=32", "--steps-this-run", "9")
    assert stopped.returncode == 75, stopped.stdout + stopped.stderr
    assert bertjobs(place, "resume", "stopped").returncode == 0
    phase = place / "results" / "stopped" / "phase1"
    assert {name: tensor.tolist() for name, tensor in weights(phase).items()} == {
        name: tensor.tolist() for name, tensor in weights(straight).items()
    }
    strip = ("validation_s",)
    assert [{k: v for k, v in line.items() if k not in strip} for line in read_lines(phase / "validation.jsonl")] == [
        {k: v for k, v in line.items() if k not in strip} for line in read_lines(straight / "validation.jsonl")
    ]


def test_its_steps_are_those_of_hugging_face(place: Path, straight: Path) -> None:
    """The same rows through Hugging Face's model, AdamW, clipping and schedule, without dropout, from a checkpoint."""
    begun = straight / "checkpoints" / json.loads((straight / "DONE.json").read_text())["checkpoint"]
    words = ("--from", str(begun), "--data", "data", "--run", "again", *QUICK, "--set", "phase1.sequence_length=32")
    done = bertjobs(place, "finetune", *words, "--set", "phase1.epochs=2", "--set", "phase1.warmup=0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    phase = place / "results" / "again" / "phase1"

    spec = read_lockfile(place / "results" / "again" / "run.yml")
    prepared = PreparedTask.read(Path(spec.data))
    split, steps = prepared.splits["train"], spec.phase(1).steps
    batches = TaskBatches(split, prepared.head, seed=spec.seed, global_batch=16, budget=10_000, rank=0, world_size=1,
                          start=0, sha256="")  # fmt: skip
    model = transformers.AutoModelForSequenceClassification.from_pretrained(begun).train()
    parameters = dict(model.named_parameters())
    decays = [name for name in parameters if "bias" not in name and "LayerNorm" not in name]
    groups = [
        {"params": [parameters[name] for name in decays], "weight_decay": spec.optimizer.weight_decay},
        {"params": [value for name, value in parameters.items() if name not in decays], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, eps=spec.optimizer.epsilon)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(0.25 * steps), steps)
    losses = []
    for step in range(steps):
        rows = [np.array([int(name.removeprefix("training row "))]) for name in batches.samples(step)]
        ids = [torch.from_numpy(split.ids(row).astype(np.int64)) for row in rows]
        labels = torch.tensor([int(split.targets(row)[0]) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
        loss = model(input_ids=padded, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optimizer.clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert [line["loss_nats"] for line in read_lines(phase / "metrics.jsonl")] == pytest.approx(losses, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_it_learns_and_resumes_with_the_same_bits(place: Path, precision: str) -> None:
    """fp16 with a loss scale that moves."""
    words = ("--set", "phase1.epochs=4", "--precision", precision)
    whole = finetuned(place, f"whole-{precision}", *words)
    assert json.loads((whole / "RESULT.json").read_text())["dev"]["accuracy"] > 0.9
    common = ("--from", "model", "--data", "data", "--run", f"parts-{precision}", *QUICK, *words)
    stopped = bertjobs(place, "finetune", *common, "--set", "phase1.sequence_length=32", "--steps-this-run", "9")
    assert stopped.returncode == 75, stopped.stdout + stopped.stderr
    assert bertjobs(place, "resume", f"parts-{precision}").returncode == 0
    parts = weights(place / "results" / f"parts-{precision}" / "phase1")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in weights(whole).items())


def test_two_ranks_train_and_measure_as_one(place: Path, straight: Path) -> None:
    two = finetuned(place, "two", "--set", "phase1.epochs=4", "--tasks-per-node", "2")
    for name in ("metrics.jsonl", "validation.jsonl"):
        ours, theirs = read_lines(two / name), read_lines(straight / name)
        assert len(ours) == len(theirs)
        field = "loss_nats" if name == "metrics.jsonl" else "dev_loss_nats"
        for one, other in zip(ours, theirs, strict=True):
            assert one[field] == pytest.approx(other[field], rel=1e-3, abs=1e-4)


def test_early_stop_ends_a_run_that_no_longer_gets_better(place: Path) -> None:
    early = finetuned(
        place, "early", "--set", "phase1.epochs=50", "--set", "phase1.early_stop=2", "--keep-checkpoints", "1"
    )
    lines = read_lines(early / "validation.jsonl")
    best = json.loads((early / "DONE.json").read_text())["step"]
    later = [line for line in lines if line["step"] > best]
    assert len(later) == 2
    assert len(lines) < 50
    assert (early / "checkpoints" / f"step-{best:08}").is_dir()


def test_only_the_last_layers_are_trained(place: Path) -> None:
    tuned = weights(finetuned(place, "tuned", "--set", "phase1.epochs=1", "--tune-layers", "1"))
    before = load_file(place / "model" / "model.safetensors")
    changed = {name for name, tensor in tuned.items() if name in before and not torch.equal(tensor, before[name])}
    assert any(name.startswith("bert.encoder.layer.1.") for name in changed)
    assert not any(name.startswith(("bert.embeddings.", "bert.encoder.layer.0.")) for name in changed)


@pytest.mark.slow
def test_random_weights_take_nothing_from_the_folder_but_its_shape(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INIT_CHECKPOINT", str(place / "model"))
    words = ("--set", "phase1.epochs=1", "--tune-layers", "1")  # what is frozen is as it was at the start
    one, same = (weights(finetuned(place, run, *words, "--random-weights")) for run in ("random", "random-too"))
    other = weights(finetuned(place, "random-other", *words, "--random-weights", "--seed", "7"))
    before = load_file(place / "model" / "model.safetensors")
    word = "bert.embeddings.word_embeddings.weight"
    assert one[word].shape == before[word].shape
    assert torch.equal(one[word], same[word])
    for weight in (before[word], other[word]):
        assert torch.isclose(one[word], weight).float().mean() < 0.1
    assert "init_checkpoint: ''" in (place / "results" / "random" / "run.yml").read_text()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--data", "data"), "no weights to start from"),
        (("--from", "model"), "no data were given"),
        (("--from", "model", "--data", "nowhere"), "there is no such folder"),
        (("--from", "nobody", "--data", "data"), "there is no run named 'nobody'"),
        (("--from", "model", "--data", "data", "--task", "sentense"), "did you mean 'sentences'?"),
        (("--from", "model", "--data", "data", "--option", "texts=a"), "did you mean 'text'?"),
        (("--from", "model", "--data", "model"), "there is no training file"),
        (("--from", "model", "--data", "data", "--set", "phase1.sequence_length=128"), "longer than the 64 positions"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(place: Path, words: tuple[str, ...], what: str) -> None:
    refused = bertjobs(place, "finetune", "--run", "refused", "--backend", "local", *words)
    assert refused.returncode == 64
    assert what in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (place / "results" / "refused").exists()


def test_a_tokenizer_of_another_model_is_refused_before_data_are_prepared(place: Path) -> None:
    shutil.copytree(place / "model", place / "mixed")
    (place / "mixed" / "tokenizer.json").unlink(missing_ok=True)
    with (place / "mixed" / "vocab.txt").open("a") as file:
        file.write("more\n")
    before = sorted((place / "results").glob(".tasks/*"))
    refused = bertjobs(place, "finetune", "--run", "mixed", "--from", "mixed", "--data", "data", *QUICK)
    assert refused.returncode == 64
    assert "error: the tokenizer has " in refused.stderr
    assert sorted((place / "results").glob(".tasks/*")) == before


@pytest.mark.slow
def test_a_rehearsal_of_a_task_survives_a_time_limit(place: Path, straight: Path) -> None:
    data = read_lockfile(straight.parent / "run.yml").data
    words = ("--recipe", "finetune", "--data", data, "--set", "phase1.sequence_length=32", "--timeout", "--json")
    done = bertjobs(place, "rehearse", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (fault,) = json.loads(done.stdout)["faults"]
    assert (fault["survived"], fault["exit_code"], fault["weights_equal"], fault["metrics_whole"]) == (
        True, 75, True, True,
    )  # fmt: skip
    assert "task sentences" in done.stderr


def test_a_rehearsal_of_a_task_asks_for_prepared_data(place: Path) -> None:
    refused = bertjobs(place, "rehearse", "--recipe", "finetune", "--data", "data")
    assert refused.returncode == 64
    assert "the data of task sentences are not prepared" in refused.stderr
    assert "bertjobs finetune --dry-run" in refused.stderr


SLOW = """
import os, sys, time
from bertjobs.train.checkpoint import writer
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main

write = writer.write_hashed


def slow(path, blocks):
    if path.parent.name.startswith(f".tmp-step-{int(sys.argv[1]):08d}"):
        time.sleep(3)
    return write(path, blocks)


writer.write_hashed = slow
sys.exit(main(os.environ, StopRequest()))
"""


@pytest.mark.slow
def test_a_stop_while_the_best_checkpoint_is_written_does_not_lose_it(place: Path, straight: Path) -> None:
    best = json.loads((straight / "DONE.json").read_text())["step"]
    assert 7 < best < 22, "it is not in the first attempt, and others come after it"
    words = ("--from", "model", "--data", "data", "--run", "slow", *QUICK, "--set", "phase1.epochs=4")
    stopped = bertjobs(place, "finetune", *words, "--set", "phase1.sequence_length=32", "--steps-this-run", "7")
    assert stopped.returncode == 75, stopped.stdout + stopped.stderr
    environ = {"RUN": "slow", "RECIPE": "finetune", "RESULTS": str(place / "results"), "PHASE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(best)],
        cwd=place,
        env={**os.environ, **environ, "STEPS_THIS_RUN": str(best - 7 + 2)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75, done.stdout + done.stderr
    phase = place / "results" / "slow" / "phase1"
    assert f"step-{best:08d}" in {folder.name for folder in (phase / "checkpoints").iterdir()}
    shutil.copytree(place / "results" / "slow", place / "results" / "lost")
    assert bertjobs(place, "resume", "slow").returncode == 0
    assert json.loads((phase / "DONE.json").read_text())["step"] == best

    # One that is gone is not the result, and the run can be finished.
    lost = place / "results" / "lost" / "phase1"
    shutil.rmtree(lost / "checkpoints" / f"step-{best:08d}")
    assert bertjobs(place, "resume", "lost").returncode == 0
    result = json.loads((lost / "DONE.json").read_text())
    assert (lost / "checkpoints" / result["checkpoint"]).is_dir()
    assert result["step"] in [line["step"] for line in read_lines(lost / "validation.jsonl")]
