"""General distillation as the worker runs it: resume, ranks, the folder that it leaves, a teacher that has changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.distill.general import GeneralDistillation
from bertjobs.errors import InputError
from bertjobs.files.json_lines import read_lines
from bertjobs.finetune.encoder import fill_masks
from bertjobs.model.huggingface import TRAINING_ONLY_FILE
from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.catalogue import catalogue_files, load_catalogue
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.report.summary import summarise, text
from bertjobs.report.write import write_report
from bertjobs.run.directory import RunDirectory
from bertjobs.run.teacher import predicts_words, teacher_sha256
from bertjobs.train.objectives import objective_of
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main
from tests.conftest import run_bertjobs
from tests.distill.conftest import pretrained
from tests.train.conftest import Trial
from tests.train.forked import attempt

FIELDS = ("mlm_loss_nats", "soft_loss_nats", "hidden_squared_error", "relation_loss_nats")


def result(trial: Trial) -> Path:
    done = trial.phase(1).done()
    assert done is not None
    return trial.phase(1).checkpoints / done.checkpoint


def equal(one: Path, other: Path, name: str) -> bool:
    ours, theirs = load_file(one / name), load_file(other / name)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_it_learns_all_that_is_asked(straight: Trial) -> None:
    lines, held_out = straight.metrics(1), read_lines(straight.phase(1).validation)
    weights = dict(zip(FIELDS, (1, 2, 1, 1), strict=True))
    for line in lines:
        total = sum(weight * line[field] for field, weight in weights.items())
        assert line["distillation_loss"] == pytest.approx(total, rel=1e-5)
        assert line["loss_nats"] == line["mlm_loss_nats"]
    assert lines[-1]["distillation_loss"] < lines[0]["distillation_loss"]
    for line in held_out:
        total = sum(weight * line[field] for field, weight in weights.items())
        assert line["distillation_loss"] == pytest.approx(total, rel=1e-5)
    assert [line["step"] for line in held_out] == [6, 12]
    for field in ("soft_loss_nats", "hidden_squared_error"):  # random words of a random teacher contradict the labels
        assert held_out[1][field] < 0.9 * held_out[0][field]
    assert {"mlm_accuracy", "masked_tokens", "sequences", "unigram_cross_entropy_nats"} <= held_out[0].keys()


def test_run_yml_has_the_teacher_and_its_digest(straight: Trial, teacher: Path) -> None:
    spec = read_lockfile(straight.directory.lockfile)
    assert (spec.teacher, spec.teacher_sha256) == (str(teacher), teacher_sha256(teacher))


def test_its_checkpoint_is_a_bert_that_others_load(straight: Trial) -> None:
    folder = result(straight)
    assert not [name for name in load_file(folder / "model.safetensors") if not name.startswith(("bert.", "cls."))]
    assert sorted(load_file(folder / TRAINING_ONLY_FILE)) == [
        "training_only.embeddings.weight",
        "training_only.layers.weight",
    ]
    model, loading = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 16)


def test_stopped_and_resumed_it_ends_with_the_same_bits(straight: Trial, trial: Trial) -> None:
    assert main(trial.having(STEPS_THIS_RUN=5).environment(1), StopRequest()) == 75
    assert main(trial.environment(1), StopRequest()) == 0
    for name in ("model.safetensors", TRAINING_ONLY_FILE):
        assert equal(result(trial), result(straight), name)


def test_a_teacher_that_has_changed_is_refused(trial: Trial, data: DataManifest, tmp_path: Path) -> None:
    folder = pretrained(data, tmp_path / "changing")
    mine = trial.having(TEACHER=folder)
    assert main(mine.having(STEPS_THIS_RUN=2).environment(1), StopRequest()) == 75
    shutil.rmtree(folder)
    pretrained(data, folder, seed=2)
    assert main(mine.environment(1), StopRequest()) == 64
    (ended,) = [event for event in mine.directory.events() if event["event"] == "ended" and event["exit_code"] == 64]
    assert "the teacher has changed since the run was started" in ended["error"]["what"]
    assert len(mine.metrics(1)) == 2


def test_two_ranks_see_the_losses_of_one(straight: Trial, trial: Trial, tmp_path: Path) -> None:
    assert attempt(trial, 1, 2, tmp_path / "ranks", objective_of=objective_of) == [0, 0]
    for name in ("metrics", "validation"):
        ours, theirs = (read_lines(getattr(one.phase(1), name)) for one in (trial, straight))
        for one, other in zip(ours, theirs, strict=True):
            for field in FIELDS:
                assert one[field] == pytest.approx(other[field], rel=2e-3, abs=1e-4)


def objective(trial: Trial, **settings: object) -> GeneralDistillation:
    environ = trial.environment(1)
    sets = [f"{key}={value}" for key, value in settings.items()]
    found = resolve(load_catalogue(catalogue_files(environ, Path.cwd())), flags={}, environ=environ, sets=sets)
    return GeneralDistillation.of(found.spec)


def test_only_the_student_gets_a_gradient(trial: Trial) -> None:
    learner = objective(trial).open(Ranks(read_placement({})), torch.device("cpu"))
    before = [parameter.clone() for parameter in learner.forward._teacher._model.parameters()]
    with learner.batches(None) as batches:
        for pack in next(batches):
            sum(term.loss_sum for term in learner.forward(pack)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learner.model.parameters())
    held = dict(learner.forward.named_parameters())
    assert {id(parameter) for parameter in held.values()} == {id(p) for p in learner.model.parameters()}
    after = list(learner.forward._teacher._model.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_relations_alone_leave_every_parameter_a_gradient(trial: Trial) -> None:
    alone = {"distill_labels": 0, "distill_logits": 0, "distill_hidden": 0}
    learner = objective(trial, **alone).open(Ranks(read_placement({})), torch.device("cpu"))
    (term,) = learner.forward(learner.probe)
    term.loss_sum.backward()
    trained = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert not learner.model.cls.predictions.bias.requires_grad
    assert learner.model.bert.embeddings.word_embeddings.weight.requires_grad
    # Weight decay alone would move what no gradient reaches.
    still = {name for name, one in learner.model.named_parameters() if one.requires_grad and not one.grad.any()}
    assert not [name for name in still if "encoder.layer" in name]
    assert learner.model.bert.encoder.layer[0].output.dense.weight.requires_grad


def test_a_student_that_is_its_teacher_has_no_loss(trial: Trial, teacher: Path) -> None:
    spec = objective(trial, distill_labels=0).spec
    shape = replace(read_model_spec(teacher), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    mine = GeneralDistillation.of(replace(spec, model=shape))
    learner = mine.open(Ranks(read_placement({})), torch.device("cpu"))
    assert learner.load_weights(teacher) == ()
    with learner.batches(None) as batches:
        terms = learner.forward(next(batches)[0])
    assert [term.loss_sum.item() for term in terms] == [0.0] * 4
    assert mine.terms == ("labels", "logits", "hidden", "relations")
    assert float(terms[0].score_sums[0]) > 0


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"TEACHER": "{other}"}, "trained with another vocabulary than the data's"),
        ({"TEACHER": "{nowhere}"}, "config.json is missing"),
        ({"MODEL": "bert-base"}, "the student has 12 layers and its teacher 4"),
    ],
)
def test_bad_teachers_are_refused(
    trial: Trial,
    data: DataManifest,
    tmp_path: Path,
    changes: dict[str, str],
    what: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    other = pretrained(data, tmp_path / "other")
    lines = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    places = {"other": str(other), "nowhere": str(tmp_path / "nowhere")}
    settings = {name: value.format(**places) for name, value in changes.items()}
    assert main(trial.having(**settings).environment(1), StopRequest()) == 64
    output = capfd.readouterr()
    assert what in output.out + output.err
    assert "Traceback" not in output.err
    assert not trial.directory.lockfile.exists()


def test_a_teacher_without_a_head_for_words_teaches_its_layers(
    trial: Trial, data: DataManifest, tmp_path: Path
) -> None:
    folder = pretrained(data, tmp_path / "headless")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    assert objective(trial.having(TEACHER=folder)).terms == ("labels", "hidden", "relations")
    alone = {"distill_labels": 0, "distill_hidden": 0, "distill_relations": 0}
    with pytest.raises(InputError, match="the teacher has no masked-LM head"):
        objective(trial.having(TEACHER=folder), **alone)


def test_the_run_is_reported(straight: Trial, teacher: Path) -> None:
    directory = RunDirectory(straight.directory.root)
    summary = text(summarise(directory))
    for words in ("held-out masked-LM loss", "squared error of hidden states, held-out", "divergence of relations"):
        assert words in summary
    assert str(teacher) in write_report(directory).path.read_text()


def test_a_run_that_learns_no_words_is_reported_without_them(trial: Trial) -> None:
    mine = trial.having(RECIPE="layers")
    assert main(mine.environment(1), StopRequest()) == 0
    line = mine.metrics(1)[0]
    assert "mlm_loss_nats" not in line
    assert line["loss_nats"] == line["distillation_loss"] > 0
    folder = result(mine)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
    assert not predicts_words(folder)
    with pytest.raises(InputError, match="no masked-LM head: it lacks one that has learnt anything"):
        fill_masks(folder, "a [MASK]", 1, torch.device("cpu"))
    transformers.AutoModel.from_pretrained(folder)
    report = write_report(RunDirectory(mine.directory.root))
    assert "the student learns from its teacher's layers alone" in report.text()
    assert "Distillation loss" in report.path.read_text()


@pytest.mark.slow
def test_its_result_is_fine_tuned_and_distilled_on(straight: Trial, place: Path, tmp_path: Path) -> None:
    folder = result(straight)
    task = ("--task", "sentences", "--data", place / "data", "--backend", "local", "--set", "phase1.epochs=1")
    words = ("finetune", "--from", folder, "--run", "tuned", *task)
    done = run_bertjobs(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "results" / "tuned" / "phase1" / "logs").glob("*.out")
    assert "random: bert.pooler.dense.weight, bert.pooler.dense.bias, classifier.weight" in log.read_text()
    words = ("distill", "--teacher", "tuned", "--from", folder, "--run", "small", *task)
    done = run_bertjobs(words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "the student's layers correspond to 1, 2"
        in next((tmp_path / "results" / "small" / "phase1" / "logs").glob("*.out")).read_text()
    )
