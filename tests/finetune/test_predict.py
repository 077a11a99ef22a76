"""`bertjobs evaluate`, `predict` and `infer`, some of them as processes of their own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tests.cli.test_json import documented, strict
from tests.conftest import Bertjobs
from tests.finetune.models import LINES, films, our_folder, their_folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the films' task, whose files and class lie in the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "films", raising=False)  # another test's class
    return our_folder(tmp_path / "model", films(tmp_path))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(command: str, output: str) -> None:
    """The fields of the output are those that are documented."""
    assert set(strict(output)) == {field[0] for field in documented(command)}


def test_what_is_measured_is_what_is_predicted(bertjobs: Bertjobs, model: Path, tmp_path: Path) -> None:
    done = bertjobs("predict", model, "--input", "dev.txt", "--output", "out.jsonl", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    predictions = lines(tmp_path / "out.jsonl")
    assert [one["id"] for one in predictions] == ["f1", "f2", "f3", "f4"]
    right = sum(one["label"] == line.split()[0] for one, line in zip(predictions, LINES, strict=True))
    measured = bertjobs("evaluate", model, "--data", ".", "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["scores"]["accuracy"] == right / 4
    pace = json.loads(done.stdout)
    assert (pace["examples"], pace["batches"], pace["truncated"]) == (4, 1, 0)
    assert pace["tokens"] == sum(len(line.split()) - 1 + 2 for line in LINES)
    check("predict", done.stdout)


def test_json_lines_come_and_go_in_order_under_their_ids(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    asked = [{"text": "a fine film " * (9 - n), **({"id": f"q{n}"} if n % 2 else {})} for n in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n\n" for one in asked))
    for name, more in {"all": (), "one": ("--batch", 1), "small": ("--batch-tokens", 16)}.items():
        done = inside("predict", model, "--input", "in.jsonl", "--output", name, *more)
        assert done.returncode == 0, done.stderr
    whole = lines(tmp_path / "all")
    assert [one["id"] for one in whole] == [f"q{n}" if n % 2 else str(2 * n + 1) for n in range(9)]
    for name in ("one", "small"):
        for mine, theirs in zip(lines(tmp_path / name), whole, strict=True):
            assert (mine["id"], mine["label"]) == (theirs["id"], theirs["label"])
            assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)


def test_standard_input_and_output(model: Path, tmp_path: Path) -> None:
    words = ["predict", str(model), "--input", "-", "--output", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "bertjobs", *words], input='\ufeff{"text": "a film"}\n{"txt": "a film"}\n', cwd=tmp_path,
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 64
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1"]
    assert "the task takes no 'txt'" in done.stderr
    assert "stdin, line 2" in done.stderr
    assert "did you mean 'text'?" in done.stderr


@pytest.mark.parametrize(
    ("damaged", "words"),
    [('{"text": ', "the line is not JSON"), ("[1]", "is not an object"), ('{"text": 5}', "'text' is not text: 5"),
     ('{"second": "a"}', "there is no 'text'"), (r'{"text": "a\ud83d"}', r"'text' holds half a character: '\ud83d'"),
     (r'{"text": "a", "id": "\ud83d"}', "'id' holds half a character")],
)  # fmt: skip
def test_a_damaged_line_keeps_what_came_before(
    inside: Bertjobs, model: Path, tmp_path: Path, damaged: str, words: str
) -> None:
    (tmp_path / "in.jsonl").write_text(f'{{"text": "a film"}}\n{damaged}\n')
    done = inside("predict", model, "--input", "in.jsonl", "--output", "out.jsonl")
    assert done.returncode == 64
    assert words in done.stderr
    assert "in.jsonl, line 2" in done.stderr
    assert "1 prediction of what came before it: see out.jsonl.part" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert [one["id"] for one in lines(tmp_path / "out.jsonl.part")] == ["1"]


def test_what_is_no_file_is_written_into_and_a_link_stays(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to("there.jsonl")
    for name in ("fifo", "link", "link"):
        done = inside("predict", model, "--input", "dev.txt", "--output", name)
        assert done.returncode == 0, done.stderr
    assert [json.loads(line)["id"] for line in os.read(reader, 100_000).splitlines()] == ["f1", "f2", "f3", "f4"]
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert len(lines(tmp_path / "there.jsonl")) == 4
    assert not list(tmp_path.glob("*.part"))


def test_a_split_of_a_folder_is_read_as_that_split(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    for name, more in {"dev": ("--split", "dev"), "file": (), "test": ()}.items():
        done = inside("predict", model, "--input", "dev.txt" if name == "file" else ".", "--output", name, *more)
        assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "dev") == lines(tmp_path / "file")
    assert len(lines(tmp_path / "dev")) == 4
    assert len(lines(tmp_path / "test")) == 2
    for words, message in {
        ("--input", ".", "--split", "deb"): "has no split 'deb'",
        ("--input", "dev.txt", "--split", "deb"): "did you mean 'dev'?",
        ("--input", "words"): "looks for test.txt",
        ("--input", "nowhere"): "there is no such file",
    }.items():
        done = inside("predict", model, *words, "--output", "none")
        assert (done.returncode, message in done.stderr) == (64, True), done.stderr
    assert not (tmp_path / "none").exists()


def test_nothing_to_predict_leaves_no_file(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    done = inside("predict", model, "--input", "in.jsonl", "--output", "out.jsonl")
    assert done.returncode == 64
    assert "the input has no examples" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_a_long_text_is_cut_off_and_counted(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "film " * 40}) + "\n")
    done = inside("predict", model, "--input", "in.jsonl", "--output", "out.jsonl")
    assert "note: 1 sequence is longer than 32 tokens and was cut off" in done.stderr


def test_labels_are_needed_to_measure(inside: Bertjobs, model: Path) -> None:
    done = inside("evaluate", model, "--data", ".", "--split", "test")
    assert done.returncode == 64
    assert "2 of 2 examples of test have no label" in done.stderr
    assert "bertjobs predict" in done.stderr
    assert "--submission" not in done.stderr
    done = inside("evaluate", model, "--test", "test.txt", "--submission", "sent")
    assert "has no submission files" in done.stderr


def test_evaluate_without_data_or_a_run(inside: Bertjobs, model: Path) -> None:
    done = inside("evaluate", model)
    assert done.returncode == 64
    assert "no data were given, and the model belongs to no run" in done.stderr
    check("evaluate", inside("evaluate", model, "--dev", "dev.txt", "--json").stdout)


def test_a_person_asks_for_a_class(bertjobs: Bertjobs, model: Path) -> None:
    done = bertjobs("infer", model, "--text", "a fine film", "--json")
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout)["prediction"]
    shown = bertjobs("infer", model, "--text", "a fine film").stdout
    assert shown.splitlines()[0] == prediction["label"]
    assert f"{max(prediction['probabilities'].values()):.4f}" in shown


def test_what_cannot_be_asked(inside: Bertjobs, model: Path) -> None:
    for words, message in {
        (): "nothing was asked",
        ("--text", "a", "--features", "a"): "several things were asked at once",
        ("--text", " "): "the text is empty",
        ("--text", "caf\udce9"): "the text is not UTF-8",
        ("--features", "caf\udce9"): "the text is not UTF-8",
        ("--question", "a", "--context", "b"): "the task takes no 'question'",
        ("--fill-mask", "a [MASK]"): "no masked-LM head",
        ("--fill-mask", "a film"): "the text has no [MASK]",
    }.items():
        done = inside("infer", model, *words)
        assert (done.returncode, message in done.stderr) == (64, True), done.stderr


def test_an_answer_is_a_part_of_its_context(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "qa", "BertForQuestionAnswering", max_length=384)
    context = "Harry likes apples and a film."
    done = inside("infer", "qa", "--question", "What does Harry like?", "--context", context, "--json")
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout)["prediction"]
    assert prediction["answer"]
    assert context[prediction["start"] :].startswith(prediction["answer"])


def test_a_threshold_that_was_not_tuned_is_said_by_all_three(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "qa", "BertForQuestionAnswering", max_length=384)
    head = {"kind": "span", "outputs": 2, "loss": "cross_entropy"}
    content = {"task": "squad2", "options": {}, "labels": [], "head": head, "max_length": 384}
    question = {"id": "1", "question": "what does Harry like?", "answers": [], "is_impossible": True}
    paragraph = {"context": "Harry likes apples.", "qas": [question]}
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    words = {
        "infer": ("--question", "what?", "--context", "Harry likes apples."),
        "evaluate": ("--dev", "dev.json"),
        "predict": ("--input", "dev.json", "--split", "dev", "--output", "out"),
    }
    for tuned in ({}, {"tuned": {"null_threshold": 0.4}}):
        (tmp_path / "qa" / "task.json").write_text(json.dumps(content | tuned))
        for verb, arguments in words.items():
            done = inside(verb, "qa", *arguments)
            assert done.returncode == 0, done.stderr
            assert ("the threshold of null odds is 0.5" in done.stdout + done.stderr) == (not tuned), verb


def test_the_task_of_a_folder_that_says_none_can_be_named(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "qa", "BertForQuestionAnswering", max_length=384)
    question = {"id": "1", "question": "what does Harry like?", "answers": [], "is_impossible": True}
    paragraph = {"context": "Harry likes apples.", "qas": [question]}
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    refused = inside("evaluate", "qa", "--dev", "dev.json")
    assert (refused.returncode, "task squad2 has such questions" in refused.stderr) == (64, True)
    done = inside("evaluate", "qa", "--dev", "dev.json", "--task", "squad2", "--json")
    assert json.loads(done.stdout)["task"] == "squad2"
    for more, has_odds in (((), False), (("--task", "squad2"), True)):
        done = inside("predict", "qa", "--input", "dev.json", "--split", "dev", "--output", "out", *more)
        assert done.returncode == 0, done.stderr
        assert ("null_odds" in lines(tmp_path / "out")[0]) == has_odds


def test_pairs_that_are_asked_in_text_have_no_other_ids_than_theirs(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "model", "BertForSequenceClassification", ("no", "yes"))
    asked = [{"query": "apples", "passage": "Harry likes apples.", **more} for more in ({}, {"id": "b"})]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    words = ("--task", "ranking", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    done = inside("predict", tmp_path / "model", *words)
    assert done.returncode == 0, done.stderr
    predictions = lines(tmp_path / "out.jsonl")
    assert [one["id"] for one in predictions] == ["1", "b"]
    assert all(one.keys() == {"id", "score", "log_odds"} for one in predictions)


def test_a_task_that_does_not_fit_is_refused(inside: Bertjobs, model: Path, tmp_path: Path) -> None:
    their_folder(tmp_path / "qa", "BertForQuestionAnswering", max_length=384)
    for words, message in {
        (
            "infer",
            "qa",
            "--task",
            "sst2",
            "--text",
            "a",
        ): "head is not of task sst2: 2 outputs for each span",
        ("infer", "qa", "--task", "squad3", "--text", "a"): "there is no task 'squad3'",
        ("infer", model, "--task", "sst2", "--text", "a"): "the model is of task films:Films, as its task.json says",
        ("infer", model, "--task", "sst2", "--features", "a"): "no task is asked here",
    }.items():
        done = inside(*words)
        assert (done.returncode, message in done.stderr) == (64, True), done.stderr
    assert inside("infer", model, "--task", "films:Films", "--text", "a film").returncode == 0


def test_the_second_texts_of_a_file_are_read_with_and_without_labels(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "pairs", "BertForSequenceClassification", ("bad", "good"))
    texts = {"text": "a fine film", "second": "harry likes apples and a bad film ."}
    done = inside("infer", "pairs", "--text", texts["text"], "--second", texts["second"], "--json")
    wanted = json.loads(done.stdout)["prediction"]["probabilities"]
    for name, more in {"plain": {}, "labelled": {"label": "good"}}.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(texts | more) + "\n")
        done = inside("predict", "pairs", "--input", f"{name}.jsonl", "--output", "out")
        assert done.returncode == 0, done.stderr
        assert lines(tmp_path / "out")[0]["probabilities"] == pytest.approx(wanted, abs=1e-6)
    for label in wanted:
        (tmp_path / "dev.jsonl").write_text(json.dumps(texts | {"label": label}) + "\n")
        scores = json.loads(inside("evaluate", "pairs", "--dev", "dev.jsonl", "--json").stdout)["scores"]
        assert scores["accuracy"] == (wanted[label] > 0.5)


def test_masks_and_vectors_are_hugging_faces(inside: Bertjobs, tmp_path: Path) -> None:
    theirs = their_folder(tmp_path / "mlm", "BertForMaskedLM")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "mlm")
    text = "a [MASK] film [MASK]"
    with torch.inference_mode():
        inputs = tokenizer(text, return_tensors="pt")
        shares = theirs(**inputs).logits[0].softmax(1)[inputs["input_ids"][0] == tokenizer.mask_token_id]
        hidden = theirs.bert(**tokenizer("a film", return_tensors="pt")).last_hidden_state[0]
    done = inside("infer", "mlm", "--fill-mask", text, "--json")
    assert done.returncode == 0, done.stderr
    for of_mask, wanted in zip(json.loads(done.stdout)["masks"], shares, strict=True):
        best = wanted.topk(5)
        assert [one["token"] for one in of_mask] == tokenizer.convert_ids_to_tokens(best.indices.tolist())
        assert [one["probability"] for one in of_mask] == pytest.approx(best.values.tolist(), abs=1e-5)
    vectors = json.loads(inside("infer", "mlm", "--features", "a film").stdout)
    assert vectors["cls"] == pytest.approx(hidden[0].tolist(), abs=1e-5)
    assert vectors["mean"] == pytest.approx(hidden.mean(0).tolist(), abs=1e-5)


def test_words_of_a_text_are_tagged(inside: Bertjobs, tmp_path: Path) -> None:
    their_folder(tmp_path / "ner", "BertForTokenClassification", ("O", "B-PER", "I-PER"))
    done = inside("infer", "ner", "--text", "Harry likes apples.", "--json")
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout)["prediction"]
    assert prediction["words"] == ["Harry", "likes", "apples", "."]
    assert set(prediction["tags"]) <= {"O", "B-PER", "I-PER"}
    assert "Harry" in inside("infer", "ner", "--text", "Harry likes apples.").stdout.splitlines()[0]
    refused = inside("infer", "ner", "--text", "Harry", "--second", "likes")
    assert refused.returncode == 64
    assert "--text --second" in refused.stderr


def test_a_run_is_measured_on_the_data_it_was_fine_tuned_with(bertjobs: Bertjobs, model: Path, tmp_path: Path) -> None:
    done = bertjobs(
        "finetune", "--task", "films:Films", "--from", model, "--data", ".", "--backend", "local", "--set",
        "phase1.sequence_length=32", "--set", "phase1.global_batch=4", "--run", "films",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads((tmp_path / "results/films/phase1/RESULT.json").read_text())
    measured = bertjobs("evaluate", "films", "--json")
    assert measured.returncode == 0, measured.stderr
    content = json.loads(measured.stdout)
    assert content["examples"] == 4
    for name, value in content["scores"].items():
        assert value == pytest.approx(result["dev"][name]), name
    assert content["scores"]
    labelled = bertjobs("evaluate", "films", "--split", "train")
    assert labelled.returncode == 64
    assert "do not keep the examples of train" in labelled.stderr
    assert "have no split 'tests'" in bertjobs("evaluate", "films", "--split", "tests").stderr
