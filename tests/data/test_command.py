"""`bertjobs data` as a person types it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bertjobs.cli.data import register
from bertjobs.data.manifest import DataManifest
from bertjobs.errors import InputError


def _run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["data", *map(str, words)])
    return args.handler(args)


def test_vocab_then_prepare(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocab, output = tmp_path / "my vocab" / "vocab.txt", tmp_path / "data"
    source = f"text:{corpus}"
    assert _run("vocab", "--corpus", source, "--size", 400, "--output", vocab) == 0
    said = capsys.readouterr().out
    assert f"--vocab '{vocab}'" in said
    assert _run("prepare", "--corpus", source, "--vocab", vocab, "--output", output, "--phases", "1") == 0
    said = capsys.readouterr()
    data = DataManifest.read(output)
    assert f"{data.phase(1).train.rows:,} sequences" in said.out
    assert f"{data.documents['train']} documents for training" in said.out
    assert f"next: bertjobs submit --recipe NAME --data {output}" in said.out
    assert "MB/s" in said.err


def test_phases_that_are_no_numbers_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be prepared"):
        _run("prepare", "--corpus", f"text:{corpus}", "--vocab", "v", "--output", tmp_path / "d", "--phases", "one")


def test_help_gives_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("prepare", "--help")
    said = " ".join(capsys.readouterr().out.split())
    for words in ("tokens a length bin spans (default: 64)", "(default: dynamic)", "one a core (default: 0)"):
        assert words in said
