"""The images in containers/: they cannot be built here, so what they install is read and compared with what bertjobs
declares, and the part that downloads nothing is run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from bertjobs.train.image_check import NEEDED, ON_THE_HOST

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
DOCKERFILES = ("Dockerfile", "Dockerfile.nvidia")
INSTRUCTIONS = {"ARG", "COPY", "FROM", "RUN", "WORKDIR"}
SECTIONS = {"%files", "%post", "%test"}
OF_THE_BASE = {"Dockerfile.nvidia": {"torch", "numpy"}}
"""What a base image brings."""


def declared() -> dict[str, str]:
    """The packages that bertjobs needs, and their oldest versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(line.split(">=") for line in project["dependencies"])


def locked() -> set[str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, in order."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def sections(name: str) -> dict[str, list[str]]:
    """The sections of an Apptainer definition, and its header under ""."""
    found: dict[str, list[str]] = {"": []}
    section = ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            section = line.strip()
            found[section] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[section].append(line.strip())
    return found


def commands(name: str) -> list[str]:
    """The shell commands that build an image."""
    if name.endswith(".def"):
        return [command for part in ("%post", "%test") for command in sections(name)[part]]
    lines = [arguments for instruction, arguments in instructions(name) if instruction == "RUN"]
    return [command.strip() for line in lines for command in line.split("&&")]


def sources(name: str) -> list[str]:
    """What is copied into an image."""
    if name.endswith(".def"):
        return [line.split()[0] for line in sections(name)["%files"]]
    copied = [arguments.split()[:-1] for instruction, arguments in instructions(name) if instruction == "COPY"]
    return [word for words in copied for word in words]


def installed(name: str) -> set[str]:
    """The packages that are named to pip; "." stands for bertjobs with all that it declares."""
    packages: set[str] = set()
    for command in commands(name):
        words = command.split()
        if "install" in words and "pip" in words:
            given = [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]
            values = {"requirements.lock", "constraints.txt", "${TORCH}"}
            names = {word for word in given if word not in values}
            packages |= names - {"."} | (set(declared()) if "." in names and "--no-deps" not in words else set())
    return packages


IMAGES = (*DOCKERFILES, "bertjobs.def")


def test_all_files_are_known() -> None:
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(IMAGES)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_has_a_base_and_only_instructions_that_are_meant(name: str) -> None:
    steps = instructions(name)
    assert {instruction for instruction, _ in steps} <= INSTRUCTIONS
    assert [arguments for instruction, arguments in steps if instruction == "FROM"] == ["${BASE}"]
    assert re.fullmatch(r"BASE=[\w./-]+:[\w.-]+", steps[0][1])


def test_the_definition_has_a_base_and_its_sections() -> None:
    parts = sections("bertjobs.def")
    assert parts[""] == ["Bootstrap: docker", "From: python:3.12-slim"]
    assert set(parts) == {"", *SECTIONS}


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_exists_and_is_enough_to_install_from(name: str) -> None:
    assert [source for source in sources(name) if not (ROOT / source).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"pyproject.toml", "bertjobs", project["project"]["readme"], *included} <= set(sources(name))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_gets_what_is_declared_at_the_locked_versions(name: str) -> None:
    assert installed(name) | OF_THE_BASE.get(name, set()) == set(declared())
    assert installed(name) <= locked()
    pips = [command for command in commands(name) if "pip install" in command]
    assert pips
    assert all("--constraint" in command or "--no-deps" in command for command in pips)


def test_nvidia_s_own_builds_are_not_replaced() -> None:
    (command,) = [command for command in commands("Dockerfile.nvidia") if command.startswith("grep ")]
    done = subprocess.run(
        ["bash", "-c", command.partition(">")[0]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = {line.split("==")[0].lower() for line in done.stdout.splitlines()}
    assert not kept & {"torch", "numpy", "triton"}
    assert {"pyarrow", "tokenizers", "matplotlib"} <= kept


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_checked_when_it_is_built(name: str) -> None:
    assert commands(name)[-1].endswith("python3 -m bertjobs.train.image_check")


@pytest.mark.parametrize("name", IMAGES)
def test_the_commands_are_valid_shell(name: str) -> None:
    subprocess.run(["sh", "-n"], input="\n".join(commands(name)), text=True, check=True)


def test_the_check_knows_what_is_declared() -> None:
    assert {package: oldest for package, _, oldest, _ in NEEDED} == {
        package: oldest for package, oldest in declared().items() if package not in ON_THE_HOST
    }
    assert set(ON_THE_HOST) <= set(declared())


def test_what_is_copied_installs_and_the_check_names_what_the_base_must_bring(tmp_path: Path) -> None:
    """In an empty environment, without the packages of an index: the wheel of what is copied, and nothing else."""
    context = tmp_path / "context"
    context.mkdir()
    for source in sources("Dockerfile.nvidia"):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, context / source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]
    wheels = tmp_path / "wheels"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, "."], cwd=context, check=True
    )
    (wheel,) = wheels.iterdir()
    venv.create(tmp_path / "image", with_pip=False)
    python = tmp_path / "image" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    done = subprocess.run([python, "-m", "bertjobs.train.image_check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 64, done.stderr
    assert "ok      bertjobs 0." in done.stdout
    assert "MISSING no torch" in done.stdout
    needed = [f"'{package}>={oldest}'" for package, _, oldest, _ in NEEDED]
    assert f"  hint:  in the Dockerfile: RUN python3 -m pip install {' '.join(needed)}" in done.stdout.splitlines()
