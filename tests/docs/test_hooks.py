"""What runs before a commit is `make check`, and what a public CI runs is `.ci/run`: neither can drift from it."""

from __future__ import annotations

import re
import shlex

import yaml
from pre_commit.clientlib import load_config

from tests.docs.pages import ROOT

HOOKS = ROOT / ".pre-commit-config.yaml"


def commands_of(target: str) -> list[str]:
    """The command lines of a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (python,) = re.findall(r"^PYTHON := (.+)$", makefile, re.MULTILINE)
    rules = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    lines = rules[0].replace("\\\n\t", "").splitlines()
    return [line.strip().removeprefix("@").replace("$(PYTHON)", python) for line in lines]


def hook_commands() -> list[str]:
    """What the hooks run; a command with a pattern in it is run by a shell."""
    (repository,) = load_config(str(HOOKS))["repos"]
    words = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in repository["hooks"])
    return [part[2] if part[:2] == ["bash", "-c"] else shlex.join(part) for part in words]


def test_the_hooks_are_the_commands_of_make_check() -> None:
    expected = commands_of("check")
    assert len(expected) >= 5
    assert hook_commands() == expected


def test_the_hooks_need_no_network() -> None:
    assert [repository["repo"] for repository in load_config(str(HOOKS))["repos"]] == ["local"]


def test_a_pattern_is_left_to_a_shell() -> None:
    (repository,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in repository["hooks"] if "*" in hook["entry"]]
    assert entries
    assert all(entry.startswith("bash -c '") for entry in entries)


def test_a_public_ci_runs_ci_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step for step in steps if step.endswith("bash .ci/run")]
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make test || code=1", 'exit "$code"']
    assert "make test-slow || code=1" in lines
