"""`bertjobs report`: the page, the text and the exit codes."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.cli.report import finish
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import save_pretrained
from bertjobs.report.curves import draw
from bertjobs.report.masked_words import MaskedWord
from bertjobs.report.page import inline, page
from bertjobs.report.summary import summarise
from bertjobs.run.checkpoints import seal
from bertjobs.run.directory import RunDirectory
from tests.report.conftest import START, MakeRun, write_attempt, write_done, write_steps, write_validation

HOSTILE = "<script>alert('x')</script>&\"<b>"


@pytest.fixture
def run(make_run: MakeRun, data: DataManifest, tiny: BertForPreTraining) -> RunDirectory:
    """A small run with real shards and a real checkpoint, 0.75 nats below the line."""
    directory = make_run(data=str(data.folder), vocabulary=data.vocabulary_sha256)
    phase = directory.phase(1)
    write_steps(phase, range(1, 11))
    write_validation(phase, 10, 5.75, 6.5)
    folder = phase.checkpoints / "step-00000010"
    folder.mkdir()
    save_pretrained(tiny, data.vocabulary_path, folder, lowercase=data.lowercase)
    seal(folder, phase=1, step=10, recipe_hash="0")
    write_done(phase, 10)
    write_attempt(directory, 1, START, START + 30, step=10)
    return directory


class Tags(HTMLParser):
    """Collects tags, their attributes and the text of a page, and checks that tags are closed in order."""

    EMPTY = frozenset(("meta", "br", "use", "path", "rect"))

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_report_writes_the_page_and_prints_the_summary(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", run.name, "--results", str(run.root.parent)]) == 0
    shown = capsys.readouterr().out
    assert "held-out masked-LM loss 5.750 nats, 0.750 below the unigram line (6.500)" in shown
    assert shown.count("truth: ") == 3
    assert shown.count("guesses: ") == 3
    assert shown.rstrip().endswith(f"report {run.report}")
    words = " ".join(Tags(run.report.read_text(encoding="utf-8")).words)
    for expected in ("BERT pretraining: tried", "5.750", "lamb", "global batch", "BertForPreTraining", "local-1-0"):
        assert expected in words
    assert str(run.phase(1).checkpoints / "step-00000010") in words
    assert sorted(path.name for path in run.root.iterdir()) == ["jobs.jsonl", "phase1", "report.html", "run.yml"]


def test_the_page_needs_no_network_and_no_script(run: RunDirectory) -> None:
    finish(run)
    text = run.report.read_text(encoding="utf-8")
    assert re.findall(r"\w+://", text) == []
    parsed = Tags(text)
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "svg" in parsed.tags
    targets = [value for name, value in parsed.attributes if name in ("href", "xlink:href", "src", "action")]
    assert targets
    assert all(value is not None and value.startswith("#") for value in targets)
    assert "url(" not in text.replace("url(#", "")


def test_a_run_with_phase_2_still_to_come_has_a_page(run: RunDirectory) -> None:
    assert "0 of 20" in finish(run)


def test_hostile_text_is_escaped(run: RunDirectory) -> None:
    write_attempt(run, 1, START + 40, START + 50, job=HOSTILE, cause=HOSTILE, exit_code=70, error=f"error: {HOSTILE}")
    summary = summarise(run)
    spec = summary.spec
    hostile = replace(
        summary,
        root=Path("/results") / HOSTILE.replace("/", ""),
        spec=replace(
            spec, recipe=HOSTILE, data=HOSTILE, init_checkpoint=HOSTILE, precision=HOSTILE, masking=HOSTILE,
            model=replace(spec.model, name=HOSTILE), system=replace(spec.system, name=HOSTILE, gpu=HOSTILE), gpus=1,
            optimizer=replace(spec.optimizer, name=HOSTILE),
        ),
        phases=(replace(summary.phases[0], checkpoint=Path(HOSTILE)), *summary.phases[1:]),
    )  # fmt: skip
    answer = MaskedWord(HOSTILE, HOSTILE, HOSTILE, 0.5, 1, ((HOSTILE, 0.5),))
    text = page(hostile, draw(run).decode(), [answer], None, [HOSTILE])
    parsed = Tags(text)
    assert not parsed.tags & {"script", "b"}
    assert "".join(parsed.words).count(HOSTILE) >= 15
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text


def test_escapes_reach_neither_the_page_nor_the_terminal(run: RunDirectory) -> None:
    odd = "x\x1b[2J\u202egnp.\x9b1m"
    write_attempt(run, 1, START + 40, START + 50, job="7", cause=odd, exit_code=70, error=f"error: {odd}")
    shown, text = finish(run), run.report.read_text()
    for sign in ("\x1b", "\u202e", "\x9b"):
        assert sign not in shown + text
    assert "x\\x1b[2J\\u202egnp.\\x9b1m" in text


def test_damaged_series_and_a_damaged_done_file_are_named_and_the_rest_is_shown(run: RunDirectory) -> None:
    with open(run.phase(1).metrics, "a", encoding="utf-8") as lines:
        lines.write('{"step": "x"}\n[[\n7\n')
    run.phase(1).done_file.write_bytes(b"")
    run.phase(1).validation.unlink(missing_ok=True)
    run.phase(1).validation.mkdir()
    shown, text = finish(run), run.report.read_text()
    for words in ("DONE.json cannot be read: it is empty", "validation.jsonl cannot be read: it is a folder"):
        assert words in shown
        assert words in text


def test_a_missing_data_folder_or_checkpoint_leaves_only_the_guesses_out(make_run: MakeRun) -> None:
    directory = make_run()
    write_steps(directory.phase(1), [1, 2])
    shown = finish(directory)
    assert "no guesses for masked words: data folder" in shown
    assert "does not exist" in shown
    assert "no guesses for masked words" in directory.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(("margin", "code"), [("0.5", 0), ("0.75", 0), ("0.8", 70)])
def test_require_learnt_decides_the_exit_code(
    run: RunDirectory, margin: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run.root), "--require-learnt", margin]) == code
    printed = capsys.readouterr()
    assert not run.report.is_file()
    if code:
        assert "not 0.8 nats below the unigram line" in printed.err
        assert "loss 5.750 nats, 0.750 below the unigram line (6.500)" in printed.err
    else:
        assert printed.err == ""
        assert "loss 5.750 nats, 0.750 below the unigram line (6.500)" in printed.out


def test_a_run_without_metrics_is_bad_input(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_run()
    assert main(["report", directory.name, "--results", str(directory.root.parent)]) == 64
    assert "no metrics yet" in capsys.readouterr().err
    assert not directory.report.exists()


def test_an_unknown_run_is_bad_input_that_names_the_nearest(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "tired", "--results", str(run.root.parent)]) == 64
    assert "did you mean 'tried'?" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_bad_input(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.report.mkdir()
    assert main(["report", str(run.root)]) == 64
    assert "the report cannot be written" in capsys.readouterr().err


def test_inlined_svg_has_no_namespaces_and_keeps_its_body() -> None:
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns:xlink="http://a" width="9pt" xmlns="http://b">\n<g/></svg>\n'
    )
    shown = inline(svg)
    assert shown.startswith('<svg width="9pt" role="img"')
    assert shown.endswith("<g/></svg>")


def test_the_command_line_module_imports_nothing_heavy() -> None:
    code = "import sys, bertjobs.cli.report; print({'torch', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
