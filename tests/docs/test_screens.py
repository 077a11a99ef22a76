"""The screens that the pages show are what the program prints today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from tests.docs.pages import ROOT, SITE, Page
from tests.hermetic import SETTINGS

HOME = "/home/me/bertjobs"
"""Where the pages' screens were taken."""


def screen(page: Page, command: str) -> list[str]:
    """The lines below ``$ COMMAND`` in a page."""
    (block,) = [block for block in page.code_blocks() if block.startswith(f"$ {command}\n")]
    return [line.rstrip() for line in block.splitlines()[1:]]


def printed(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints in an empty folder, without Slurm, and without settings or recipes of whoever runs it."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    main(shlex.split(command)[1:])
    return capsys.readouterr().out.replace(str(folder), HOME)


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    expected = screen(Page(ROOT / "README.md"), "bertjobs recipes")
    out = printed("bertjobs recipes", tmp_path, monkeypatch, capsys)
    table, _, _ = out.partition("\n\n")
    assert [line.rstrip() for line in table.splitlines()] == expected


def test_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines up to the first `...`, and those of the table of settings that are shown."""
    command = "bertjobs plan --recipe dgx1-32g --nodes 4"
    lines = screen(Page(SITE / "cluster.md"), command)
    out = [line.rstrip() for line in printed(command, tmp_path, monkeypatch, capsys).splitlines()]
    head = lines[: lines.index("...")]
    assert out[: len(head)] == head
    spaced = [re.sub(r" +", " ", line) for line in out]
    rows = [re.sub(r" +", " ", line) for line in lines[len(head) :] if line != "..."]
    assert [row for row in rows if row not in spaced] == []
