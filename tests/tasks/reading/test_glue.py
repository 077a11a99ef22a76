"""GLUE, XNLI and AG News are read as they are published, and answers are written as GLUE's server takes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.glue import AG_NEWS, GLUE, Benchmark, read_benchmark, write_submission, xnli
from tests.tasks.reading.files import refused, write

HEADERS = {
    ("SST-2", "train.tsv"): "sentence\tlabel",
    ("SST-2", "test.tsv"): "index\tsentence",
    ("MRPC", "train.tsv"): "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ("MRPC", "test.tsv"): "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ("QQP", "train.tsv"): "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    ("QQP", "test.tsv"): "id\tquestion1\tquestion2",
    ("STS-B", "dev.tsv"): "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    ("MNLI", "dev_mismatched.tsv"): "index\tpairID\tsentence1\tsentence2\tlabel1\tgold_label",
    ("QNLI", "dev.tsv"): "index\tquestion\tsentence\tlabel",
    ("RTE", "train.tsv"): "index\tsentence1\tsentence2\tlabel",
    ("WNLI", "dev.tsv"): "index\tsentence1\tsentence2\tlabel",
    ("WNLI", "test.tsv"): "index\tsentence1\tsentence2",
}
"""As the published files have them; of MNLI's fewer, for its columns are taken by name."""


@pytest.mark.parametrize(
    ("task", "file", "split", "row", "expected"),
    [
        ("CoLA", "train.tsv", "train", 'gj04\t0\t*\tThey "drank.', ("0", 'They "drank.', None, "unacceptable")),
        ("SST-2", "train.tsv", "train", "fine film\t1", ("0", "fine film", None, "positive")),
        ("SST-2", "test.tsv", "test", "17\tfine film", ("17", "fine film", None, None)),
        ("MRPC", "train.tsv", "train", "1\t70\t71\tA\tB", ("0", "A", "B", "equivalent")),
        ("MRPC", "test.tsv", "test", "0\t70\t71\tA\tB", ("0", "A", "B", None)),
        ("QQP", "train.tsv", "train", '9\t1\t2\tWhy "so?\tHow?\t0', ("0", 'Why "so?', "How?", "not_duplicate")),
        ("QQP", "test.tsv", "test", "8\tWhy?\tHow?", ("8", "Why?", "How?", None)),
        ("STS-B", "dev.tsv", "dev", "0\tg\tf\t2012\t1\ts\ts\tA\tB\t3.800", ("0", "A", "B", 3.8)),
        ("MNLI", "dev_mismatched.tsv", "dev_mismatched", "5\t7e\tA\tB\tx\tneutral", ("0", "A", "B", "neutral")),
        ("QNLI", "dev.tsv", "dev", "0\tWhat?\tThat.\tentailment", ("0", "What?", "That.", "entailment")),
        ("RTE", "train.tsv", "train", "0\tA\tB\tnot_entailment", ("0", "A", "B", "not_entailment")),
        ("WNLI", "dev.tsv", "dev", "0\tA\tB\t1", ("0", "A", "B", "entailment")),
        ("WNLI", "test.tsv", "test", "3\tA\tB", ("3", "A", "B", None)),
    ],
)
def test_glue_is_read_as_published(
    tmp_path: Path, task: str, file: str, split: str, row: str, expected: tuple[object, ...]
) -> None:
    header = [HEADERS[task, file]] if task != "CoLA" else []
    path = write(tmp_path / file, *header, row, end="\r\n")
    (example,) = read_benchmark(GLUE[task], path, split, Notes())
    assert (example.id, example.text, example.second, example.label) == expected
    assert example.where == f"{file}, line {len(header) + 1}"


def test_colas_test_set_has_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "test.tsv", "index\tsentence", "4\tBill runs.")
    (example,) = read_benchmark(GLUE["CoLA"], path, "test", Notes())
    assert (example.id, example.text, example.label) == ("4", "Bill runs.", None)


def test_the_original_mrpc_is_parted_by_its_dev_ids(tmp_path: Path) -> None:
    rows = ["1\t70\t71\tA\tB", "0\t80\t81\tC\tD", "1\t71\t70\tE\tF"]
    path = write(tmp_path / "msr_paraphrase_train.txt", HEADERS["MRPC", "train.tsv"], *rows)
    message = refused(read_benchmark(GLUE["MRPC"], path, "dev", Notes()))
    assert "dev_ids.tsv' does not exist" in message
    write(tmp_path / "dev_ids.tsv", "80\t81")
    texts = {
        split: [example.text for example in read_benchmark(GLUE["MRPC"], path, split, Notes())]
        for split in ("train", "dev")
    }
    assert texts == {"train": ["A", "E"], "dev": ["C"]}
    path = write(tmp_path / "msr_paraphrase_test.txt", HEADERS["MRPC", "train.tsv"], *rows)
    examples = list(read_benchmark(GLUE["MRPC"], path, "test", Notes()))
    assert [(example.id, example.label) for example in examples] == [
        ("0", "equivalent"), ("1", "not_equivalent"), ("2", "equivalent"),
    ]  # fmt: skip


def test_ragged_rows_of_qqp_are_left_out_of_training_and_refused_in_the_test_set(tmp_path: Path) -> None:
    good = ["0\t1\t2\tA\tB\t1"] * 1500
    path, notes = write(tmp_path / "train.tsv", HEADERS["QQP", "train.tsv"], "5\t1\t2\tA", *good), Notes()
    assert len(list(read_benchmark(GLUE["QQP"], path, "train", notes))) == 1500
    assert notes.lines() == [
        "1 rows of train.tsv with a wrong number of fields were left out (first: train.tsv, line 2)"
    ]
    path = write(tmp_path / "test.tsv", HEADERS["QQP", "test.tsv"], *["0\tA\tB"] * 1500, "5\tA")
    assert "test.tsv, line 1,502" in refused(read_benchmark(GLUE["QQP"], path, "test", Notes()))


def test_a_label_that_glue_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", HEADERS["RTE", "train.tsv"], "0\tA\tB\tentailement")
    message = refused(read_benchmark(GLUE["RTE"], path, "train", Notes()))
    assert "did you mean 'entailment'?" in message
    path = write(tmp_path / "dev.tsv", HEADERS["STS-B", "dev.tsv"], "0\tg\tf\t2012\t1\ts\ts\tA\tB\t-")
    message = refused(read_benchmark(GLUE["STS-B"], path, "dev", Notes()))
    assert "'-' in column 'score' is not a number" in message
    assert "dev.tsv, line 2" in message


def test_the_nine_tasks_name_their_files_classes_and_submissions() -> None:
    assert list(GLUE) == ["CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI", "QNLI", "RTE", "WNLI"]
    assert [name for name, task in GLUE.items() if task.is_number] == ["STS-B"]
    assert list(GLUE["MNLI"].files) == [
        "train", "dev", "dev_mismatched", "test", "test_mismatched", "test_diagnostic",
    ]  # fmt: skip
    assert GLUE["MRPC"].files["dev"][0] == "dev.tsv"
    assert "train.tsv.gz" in GLUE["QQP"].files["train"]
    assert "msr_paraphrase_train.txt" in GLUE["MRPC"].files["dev"]
    assert list(GLUE["MNLI"].labels.values()) == ["entailment", "neutral", "contradiction"]
    assert {name for task in GLUE.values() for name in task.submissions.values()} == {
        "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "QNLI.tsv",
        "RTE.tsv", "WNLI.tsv",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "predictions", "expected"),
    [
        (GLUE["WNLI"], [("10", "entailment"), ("9", "not_entailment")], "9\t0\n10\t1\n"),
        (GLUE["RTE"], [("0", "not_entailment")], "0\tnot_entailment\n"),
        (GLUE["STS-B"], [("0", 5.2), ("1", -0.1), ("2", 2.5)], "0\t5.000\n1\t0.000\n2\t2.500\n"),
    ],
)
def test_a_submission_has_indices_in_order_and_glues_words(
    tmp_path: Path, task: Benchmark, predictions: list[tuple[str, str | float]], expected: str
) -> None:
    path = write_submission(task, "test", predictions, tmp_path)
    assert path == tmp_path / f"{task.name}.tsv"
    assert path.read_text() == "index\tprediction\n" + expected


def test_a_submission_of_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no submission file for dev\n.*hint:  it has them for: test"):
        write_submission(GLUE["RTE"], "dev", [], tmp_path)
    with pytest.raises(InputError, match="'a7' is not an index"):
        write_submission(GLUE["RTE"], "test", [("a7", "entailment")], tmp_path)
    with pytest.raises(InputError, match="'entails' is not a label of RTE"):
        write_submission(GLUE["RTE"], "test", [("7", "entails")], tmp_path)
    with pytest.raises(InputError, match=r"1\.0 is not a label of RTE"):
        write_submission(GLUE["RTE"], "test", [("7", 1.0)], tmp_path)
    for prediction in ("high", math.nan):
        with pytest.raises(InputError, match="is not a number"):
            write_submission(GLUE["STS-B"], "test", [("7", prediction)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_xnli_is_read_in_one_language(tmp_path: Path) -> None:
    header = "language\tgold_label\tsentence1_parse\tsentence1\tsentence2\tpairID"
    rows = ["en\tneutral\t\tA\tB\t1", "de\tcontradiction\t\tC\tD\t1", "de\tentailment\t\tE\tF\t2"]
    path = write(tmp_path / "xnli.dev.tsv", header, *rows)
    benchmark = xnli("de")
    examples = list(read_benchmark(benchmark, path, "dev", Notes()))
    assert [(one.id, one.text, one.label) for one in examples] == [
        ("1", "C", "contradiction"),
        ("2", "E", "entailment"),
    ]
    assert benchmark.files["train"][0] == "multinli.train.en.tsv"
    path = write(tmp_path / "multinli.train.en.tsv", "premise\thypo\tlabel", "A\tB\tcontradictory")
    (example,) = read_benchmark(benchmark, path, "train", Notes())
    assert (example.text, example.second, example.label) == ("A", "B", "contradiction")
    with pytest.raises(InputError, match="does not have the language 'dee'"):
        xnli("dee")


def test_ag_news_has_no_header_and_two_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", '"3","Oil up","A ""barrel"", dear"', '"4","x","y"')
    first, second = read_benchmark(AG_NEWS, path, "test", Notes())
    assert (first.id, first.text, first.label) == ("0", 'Oil up A "barrel", dear', "Business")
    assert second.label == "Sci/Tech"
    path = write(tmp_path / "train.csv", '"5","x","y"')
    message = refused(read_benchmark(AG_NEWS, path, "train", Notes()))
    assert "'5' in column 'class' is not one of 1, 2, 3, 4" in message
    assert "train.csv, line 1" in message
