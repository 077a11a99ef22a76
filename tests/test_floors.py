"""The architecture: a floor imports only the floors below it, and so do the rooms of launch, train and data."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bertjobs"
GROUND = {"errors", "wording"}
BELOW: Mapping[str, set[str]] = {
    "errors": {"wording"},
    "wording": set(),
    "files": GROUND,
    "recipe": GROUND | {"files"},
    "run": GROUND | {"files", "recipe"},
    "slurm": GROUND | {"files", "recipe", "run"},
    "data": GROUND | {"files", "recipe", "run", "slurm"},
    "tasks": GROUND | {"files", "recipe", "run", "data"},
    "model": GROUND | {"files", "recipe", "run", "data"},
    "conversion": GROUND | {"files", "recipe", "run", "slurm", "data", "model"},
    "optim": GROUND | {"files", "recipe", "run"},
    "train": GROUND | {"files", "recipe", "run", "data", "model", "optim"},
    "finetune": GROUND | {"files", "recipe", "run", "data", "tasks", "model", "optim", "train"},
    "serve": GROUND | {"files", "recipe", "run", "data", "tasks", "model", "train", "finetune"},
    "export": GROUND | {"files", "recipe", "run", "data", "tasks", "model", "train", "finetune"},
    "distill": GROUND | {"files", "recipe", "run", "data", "tasks", "model", "optim", "train", "finetune"},
    "bench": GROUND | {"files", "recipe", "run", "data", "model", "optim", "train"},
    "launch": GROUND | {"files", "recipe", "run", "slurm", "data", "tasks"},
    "report": GROUND | {"files", "recipe", "run", "slurm", "data", "tasks", "model", "launch"},
    "track": GROUND | {"files", "recipe", "run", "slurm", "launch"},
    "cli": GROUND
    | {"files", "recipe", "run", "slurm", "data", "conversion", "tasks", "train", "finetune", "distill", "export"}
    | {"serve", "bench", "launch", "report", "track"},
}
"""Floor -> the floors that it may import."""

HALL = ""
"""The files of a floor that stand in none of its rooms."""

ROOMS: Mapping[str, Mapping[str, set[str]]] = {
    "data": {
        "text": {"corpus", HALL},
        "corpus": set(),
        "shards": {"text", HALL},
        "batches": {"text", "shards", HALL},
        "check": {"text", "corpus", "shards", "batches", HALL},
        "prepare": {"text", "corpus", "shards", "batches", "check", HALL},
        HALL: set(),
    },
    "train": {
        "nodes": {HALL},
        "checkpoint": {HALL},
        "pretraining": {HALL},
        HALL: {"nodes", "checkpoint", "pretraining"},
    },
    "launch": {
        "plan": {HALL},
        "submitit": {HALL},
        HALL: {"plan", "watch"},
        "watch": set(),
        "doctor": {"watch", HALL},
        "rehearse": {HALL, "plan", "watch"},
    },
}
"""Floor -> room -> the rooms of the same floor that it may import."""


def imported_modules(file: Path) -> set[str]:
    """The modules of the package that a file imports, even inside functions; `from x import y` counts as x and x.y."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name for name in names if name.startswith("bertjobs.")}


def imported_floors(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(file)} & set(BELOW)


def imported_rooms(file: Path, floor: str) -> set[str]:
    """The rooms of a floor that a file imports; the floor's files outside its rooms are the hall."""
    parts = [name.split(".") for name in imported_modules(file)]
    inside = [part[2] if len(part) > 2 else HALL for part in parts if part[1] == floor]
    return {name if name in ROOMS[floor] else HALL for name in inside}


def files_of(floor: str, room: str) -> list[Path]:
    if room == HALL:
        return sorted((PACKAGE / floor).glob("*.py"))
    return sorted((PACKAGE / floor / room).rglob("*.py"))


@pytest.mark.parametrize("floor", sorted(BELOW))
def test_a_floor_imports_only_floors_below(floor: str) -> None:
    files = [PACKAGE / f"{floor}.py"] if (PACKAGE / f"{floor}.py").exists() else sorted((PACKAGE / floor).rglob("*.py"))
    assert files
    for file in files:
        assert imported_floors(file) <= BELOW[floor] | {floor}, file


def test_every_floor_and_room_is_named_here() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert folders == set(BELOW) - GROUND
    for floor, rooms in ROOMS.items():
        assert {folder.name for folder in (PACKAGE / floor).iterdir() if (folder / "__init__.py").exists()} == (
            set(rooms) - {HALL}
        )


@pytest.mark.parametrize(("floor", "room"), [(floor, room) for floor, rooms in ROOMS.items() for room in rooms])
def test_a_room_imports_only_rooms_below(floor: str, room: str) -> None:
    files = files_of(floor, room)
    assert files
    for file in files:
        assert imported_rooms(file, floor) <= ROOMS[floor][room] | {room}, file


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(str(file.relative_to(PACKAGE)))
    assert len(homes) > 300
    several = {name: files for name, files in homes.items() if len(files) > 1}
    assert set(several) == {"TritonPythonModel"}, several  # Triton wants that name in each of its models
