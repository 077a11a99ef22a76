"""The commands that the pages show exist: each line is parsed by the program's own parser.

A line of a code block is a whole command: it parses as it stands. `Code` in the text, and a line with `...` or with a
word in capitals for a number, may leave words out: there, the verbs and flags have to exist.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bertjobs.cli.arguments import resolve_arguments
from bertjobs.cli.main import build_parser
from tests.docs.pages import PAGES, ROOT, Page

PROGRAM = re.compile(r"(?:\.venv/bin/)?bertjobs")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_-]*")
ENDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", ")", "("}
PARSER = build_parser()
RUN_SUB = (ROOT / "run.sub").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """A command line of a page; ``whole``: nothing is left out of it."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def split(line: str) -> list[list[str]]:
    """The commands of a shell line, as words; those inside quotes too."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#" if " #" in line or line.startswith("#") else ""
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe in a program's output
        return []
    commands: list[list[str]] = [[]]
    for word in words:
        if word in ENDS:
            commands.append([])
        else:
            commands[-1].append(word)
    return [*(command for command in commands if command), *(inner for word in words for inner in within(word))]


def within(word: str) -> list[list[str]]:
    """Commands in `$(...)`."""
    return [command for inner in re.findall(r"\$\((.+?)\)", word) for command in split(inner)]


def lines(page: Page) -> Iterator[tuple[str, bool]]:
    """Lines that may contain commands, and whether they are whole; a backslash at the end continues a line."""
    for block in page.code_blocks():
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ "), True
    for span in page.code_spans():
        yield span, False


def commands(page: Page) -> Iterator[tuple[list[str], bool]]:
    for line, whole in lines(page):
        for command in split(line):
            bare = list(command)
            while bare and ASSIGNMENT.match(bare[0]):
                bare.pop(0)
            if bare:
                yield command, whole


def shown() -> list[Shown]:
    """Every command line of bertjobs in the pages."""
    unique: dict[str, Shown] = {}
    for page in PAGES:
        for command, whole in commands(page):
            while ASSIGNMENT.match(command[0]):
                command = command[1:]
            if PROGRAM.fullmatch(command[0]) and len(command) > 1:
                line = Shown(page.name, tuple(command[1:]), whole and "..." not in command)
                unique[str(line)] = line
    return list(unique.values())


SHOWN = shown()


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def unknown(words: tuple[str, ...]) -> list[str]:
    """The verbs and flags of a command line that do not exist."""
    parser, verbs, rest = PARSER, verbs_of(PARSER), list(words)
    while rest and verbs and not rest[0].startswith("-"):
        if rest[0] not in verbs:
            return [] if PLACEHOLDER.fullmatch(rest[0]) or rest[0] == "..." else [rest[0]]
        parser = verbs[rest.pop(0)]
        verbs = verbs_of(parser)
    return [word for word in rest if word.startswith("-") and word.split("=")[0] not in parser._option_string_actions]


def filled(words: tuple[str, ...]) -> list[str]:
    """The words, with a number for each placeholder of a flag that takes one."""
    flags = {"--attempt", "--jobs", "--nodes", "--phase", "--rank"}
    pairs = zip(("", *words), words, strict=False)
    return ["1" if flag in flags and PLACEHOLDER.fullmatch(word) else word for flag, word in pairs]


def refusal(line: Shown, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Why a command line is not a valid command of bertjobs, or None."""
    if wrong := unknown(line.words):
        return f"there is no {' '.join(wrong)}"
    if not line.whole:
        return None
    try:
        PARSER.parse_args(filled(line.words))
    except SystemExit as end:
        return capsys.readouterr().err if end.code else None
    return None


def test_there_are_many() -> None:
    assert len([line for line in SHOWN if line.whole]) > 50


@pytest.mark.parametrize("line", SHOWN, ids=str)
def test_each_shown_command_parses(line: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(line, capsys) is None


@pytest.mark.parametrize(
    ("words", "whole", "refused"),
    [
        ("submit --recipe laptop --nodes 2", True, False),
        ("submit --recipe laptop --nosuch 2", True, True),
        ("submit --recipe laptop --nosuch 2", False, True),
        ("submit --backend nosuch", True, True),
        ("nosuch RUN", False, True),
        ("data nosuch", False, True),
        ("data prepare", False, False),
        ("data prepare", True, True),
        ("logs RUN --phase N", True, False),
        ("status RUN extra", True, True),
        ("VERB --help", False, False),
    ],
)
def test_a_wrong_command_is_detected(
    words: str, whole: bool, refused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bool(refusal(Shown("page", tuple(words.split()), whole), capsys)) == refused


def test_shown_recipes_exist() -> None:
    catalogue = yaml.safe_load((ROOT / "configurations.yml").read_text(encoding="utf-8"))["recipes"]
    named = {
        after for line in SHOWN for flag, after in zip(line.words, line.words[1:], strict=False) if flag == "--recipe"
    }
    assert {name for name in named if not PLACEHOLDER.fullmatch(name)} <= set(catalogue)
    assert named & set(catalogue)


RESOLVED = [
    line
    for line in SHOWN
    if line.whole
    and line.words[0] in ("bench", "plan", "rehearse", "submit")
    and "--recipe" in line.words
    and not any(PLACEHOLDER.fullmatch(word) for word in line.words)
]


@pytest.mark.parametrize("line", RESOLVED, ids=str)
def test_shown_settings_resolve(line: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of ``--set`` and all values, for the catalogue's recipes, whatever recipes this machine has."""
    monkeypatch.chdir(tmp_path)
    resolved = resolve_arguments(PARSER.parse_args(line.words), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert resolved.spec.recipe in line.words


def test_variables_shown_for_run_sub_are_read_by_it() -> None:
    given = set()
    for page in PAGES:
        for command, _ in commands(page):
            if command[-1].endswith("run.sub") and "sbatch" in command:
                given |= {word.split("=")[0] for word in command[: command.index("sbatch")]}
    assert {"RECIPE", "BATCHSIZE", "IMAGE"} <= given
    assert [name for name in sorted(given) if not re.search(rf"\b{name}\b", RUN_SUB)] == []


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    asked = {command[1] for page in PAGES for command, _ in commands(page) if command[0] == "make" and len(command) > 1}
    assert {"demo", "test", "docs"} <= asked
    assert asked <= targets
