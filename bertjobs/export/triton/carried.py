"""The part of bertjobs that a model repository carries: a module and all that it imports, as files.

What is imported inside a function is left out: that is how modules leave out what only some need.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = "bertjobs"
ROOT = Path(__file__).parents[3]
"""The folder that has the package."""


def carry(module: str, folder: Path) -> list[Path]:
    """Copy a module of the package, and all modules of it that it imports, below ``folder``; returns the copies."""
    copies = []
    for source in closure(module):
        copy = folder / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copies.append(copy)
    return copies


def closure(module: str) -> list[Path]:
    """The files of a module of the package and of all modules of it that are loaded with it, sorted."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or name in files:
            continue
        files[name] = file
        parts = name.split(".")
        waiting += [".".join(parts[:length]) for length in range(1, len(parts))]
        waiting += imports(ast.parse(file.read_text(encoding="utf-8")).body)
    return sorted(files.values())


def imports(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The modules of the package that some statements import when they run; `from x import y` counts as x and x.y."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and not _is_for_types(node.test):
            yield from imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from imports([*node.body, *handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from imports(node.body)


def _is_for_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _file(module: str) -> Path | None:
    """A module's file; None if it is not one of the package."""
    if module.split(".")[0] != PACKAGE:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
