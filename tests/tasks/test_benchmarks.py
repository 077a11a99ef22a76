"""GLUE's tasks by name: labels in the published order, the measure that GLUE ranks by, submissions."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bertjobs.errors import InputError
from bertjobs.tasks.benchmarks import BENCHMARKS
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.task import TASKS, Fitted, open_task
from tests.tasks.reading.files import write

GOLD, GUESSES = (1, 1, 1, 0, 0, 1), (1, 0, 1, 0, 1, 1)
EXPECTED = {
    "cola": matthews_corrcoef(GOLD, GUESSES),
    "mrpc": (accuracy_score(GOLD, GUESSES) + f1_score(GOLD, GUESSES)) / 2,
    "qqp": (accuracy_score(GOLD, GUESSES) + f1_score(GOLD, GUESSES)) / 2,
    "sst2": accuracy_score(GOLD, GUESSES),
    "rte": accuracy_score(GOLD, GUESSES),
}


def test_all_benchmarks_are_tasks() -> None:
    assert set(BENCHMARKS) <= TASKS.keys()
    assert len(BENCHMARKS) == 11


@pytest.mark.parametrize("name", EXPECTED)
def test_the_measure_of_classes(name: str) -> None:
    task = open_task(name)
    labels = task.labels(())
    scored = [
        (Sentences(str(number), "", label=labels[gold]), {"id": str(number), "label": labels[guess]})
        for number, (gold, guess) in enumerate(zip(GOLD, GUESSES, strict=True))
    ]
    assert task.score(iter(scored), Fitted(labels)).values[task.measure] == pytest.approx(EXPECTED[name])


def test_the_measure_of_numbers() -> None:
    task = open_task("stsb")
    gold, guesses = [0.0, 1.2, 5.0, 3.3], [0.5, 0.4, 4.0, 2.5]
    scored = [(Sentences("", "", label=a), {"value": b}) for a, b in zip(gold, guesses, strict=True)]
    expected = (pearsonr(gold, guesses).statistic + spearmanr(gold, guesses).statistic) / 2
    assert task.measure == "pearson_spearman_mean"
    assert task.score(iter(scored), Fitted()).values[task.measure] == pytest.approx(expected)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pairs_are_asked_of_tasks_of_pairs_alone(name: str) -> None:
    task = open_task(name)
    is_single = name in ("cola", "sst2", "agnews")
    right = [{"text": "a"}, {"text": "a", "second": "b"}][:: 1 if is_single else -1]
    assert task.from_text(right[:1])
    with pytest.raises(InputError, match="takes no 'second'" if is_single else "there is no 'second'"):
        task.from_text(right[1:])


def test_labels_have_the_published_order() -> None:
    assert open_task("mrpc").labels(()) == ("not_equivalent", "equivalent")
    assert open_task("xnli").labels(()) == ("entailment", "neutral", "contradiction")
    assert open_task("agnews").labels(()) == ("World", "Sports", "Business", "Sci/Tech")


def test_submissions(tmp_path: Path) -> None:
    mnli = open_task("mnli")
    (file,) = mnli.write_submission([{"id": "1", "label": "neutral"}], "test_mismatched", tmp_path)
    assert (file.name, file.read_text()) == ("MNLI-mm.tsv", "index\tprediction\n1\tneutral\n")
    (file,) = open_task("stsb").write_submission([{"id": "0", "value": 5.7}], "test", tmp_path)
    assert file.read_text() == "index\tprediction\n0\t5.000\n"
    for task, split in ((mnli, "dev"), (open_task("agnews"), "test")):
        with pytest.raises(InputError, match=f"no submission file for {split}"):
            task.write_submission([], split, tmp_path)


def test_xnli_has_languages(tmp_path: Path) -> None:
    task = open_task("xnli", {"language": "de"})
    rows = [
        "language\tgold_label\tsentence1\tsentence2\tpairID",
        "de\tneutral\tja\tnein\t1",
        "fr\tneutral\toui\tnon\t2",
    ]
    (example,) = task.read(write(tmp_path / "xnli.dev.tsv", *rows), "dev")
    assert (example.text, example.label) == ("ja", "neutral")
    assert task.files["train"][0] == "multinli.train.en.tsv"
    with pytest.raises(InputError, match="does not have the language 'xx'"):
        open_task("xnli", {"language": "xx"})
    with pytest.raises(InputError, match="no option 'language'"):
        open_task("cola", {"language": "de"})


def test_the_ids_of_mrpc_s_dev_data_belong_to_them(tmp_path: Path) -> None:
    task = open_task("mrpc")
    original, ids = tmp_path / "msr_paraphrase_train.txt", tmp_path / "dev_ids.tsv"
    assert task.companions(original, "dev") == []
    ids.touch()
    assert task.companions(original, "train") == task.companions(original, "dev") == [ids]
    assert task.companions(tmp_path / "train.tsv", "train") == []


def test_only_what_a_server_takes_is_submitted() -> None:
    splits = ("test", "dev", "test_matched")
    submitted = {name: [split for split in splits if open_task(name).submits(split)] for name in BENCHMARKS}
    assert submitted["mrpc"] == ["test"]
    assert submitted["xnli"] == submitted["agnews"] == []
    assert open_task("squad1").submits("dev")
    assert not open_task("sentences").submits("test")
