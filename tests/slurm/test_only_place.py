"""Slurm has its own room: nothing outside it starts one of Slurm's programs.

Arguments of sbatch and srun may be built elsewhere: sbatch's go to `Slurm.submit`, srun's into batch scripts and hints.
Batch scripts (run.sub, and the text of others) are not Python, and run where there may be no Python.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "bertjobs"
ROOM = PACKAGE / "slurm"

PROGRAMS = ("sbatch", "squeue", "sacct", "sacctmgr", "scontrol", "scancel", "sinfo", "srun", "sprio", "sstat", "salloc")
WORDS_OF_OTHERS = ("sbatch", "srun")
STARTERS = ("subprocess", "pty", "multiprocessing.popen_fork")
OS_STARTERS = (
    *("system", "popen", "posix_spawn", "posix_spawnp", "spawnvp"),
    *("execv", "execve", "execvp", "execvpe", "execlp"),
)
HARMLESS_CALLS = ("which", "append", "add", "startswith", "split")
SUBMITIT_S = ("SlurmExecutor", "AutoExecutor", "SlurmJob")


def outside() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if ROOM not in file.parents)


def program(node: ast.AST | None) -> str:
    """The program of Slurm that this string starts, if any."""
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    first = text.split()[0].rpartition("/")[2] if text.split() else ""
    return first if first in PROGRAMS else ""


def starts_processes(tree: ast.AST) -> bool:
    """Whether a module can start programs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name in STARTERS for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module in (*STARTERS, "asyncio.subprocess"):
            return True
        if isinstance(node, ast.Attribute) and (
            node.attr in ("create_subprocess_exec", "create_subprocess_shell")
            or (node.attr in OS_STARTERS and isinstance(node.value, ast.Name) and node.value.id == "os")
        ):
            return True
    return False


def calls_of(tree: ast.AST, name: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == name]


def faults(source: str) -> list[str]:
    """Where a module could start one of Slurm's programs by itself."""
    tree = ast.parse(source)
    can_start = starts_processes(tree)
    harmless = {id(part) for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in text.values}
    harmless |= {id(argument) for call in calls_of(tree, "which") for argument in call.args}
    places = []
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            name = program(node.elts[0] if node.elts else None)
            if name and (can_start or name not in WORDS_OF_OTHERS):
                places.append(f"line {node.lineno}: words of {name}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = program(node.args[0] if node.args else None)
            if name and node.func.attr not in HARMLESS_CALLS:
                places.append(f"line {node.lineno}: a call with {name}")
        elif isinstance(node, ast.alias) and node.name in SUBMITIT_S:
            places.append(f"submitit's {node.name}")
        elif isinstance(node, ast.Attribute) and node.attr in SUBMITIT_S:
            places.append(f"line {node.lineno}: submitit's {node.attr}")
        elif can_start and isinstance(node, ast.Constant) and node.value in PROGRAMS and id(node) not in harmless:
            places.append(f"line {node.lineno}: {node.value}")
    return places


@pytest.mark.parametrize("file", outside(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_outside_of_the_room_starts_a_program_of_slurm_s(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run(['squeue', '-h'])",
        "import subprocess\nsubprocess.run(['sbatch', script])",
        "import subprocess\nsubprocess.run(['/usr/bin/srun', '--help'])",
        "import subprocess\nsubprocess.run('scontrol show config', shell=True)",
        "import subprocess\nprogram = 'sacct'\nsubprocess.run([program])",
        "from subprocess import run\nrun(('sinfo', *options))",
        "import os\nos.system('scancel 7')",
        "import os\nos.execvp('srun', words)",
        "client.run(['scontrol', 'requeue', job])",
        "client._run(('sacctmgr', 'show'))",
        "client.run('scancel', job)",
        "from submitit import SlurmExecutor",
        "import submitit\nsubmitit.SlurmExecutor('x')",
    ],
)
def test_code_that_starts_one_is_detected(source: str) -> None:
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "import shutil\nhere = shutil.which('scontrol')",
        "words = ['sbatch', '--parsable', path]\nslurm.submit(words)",
        "import subprocess\nsubprocess.run(['nvidia-smi'])",
        "hint = f'scancel {job}'",
        "import subprocess\nhint = 'see `scontrol ping`, and try again'",
        "def f():\n    'sbatch refused it'",
    ],
)
def test_words_for_people_are_not_a_fault(source: str) -> None:
    assert not faults(source)
