"""Where the module of a user's own task lies, found without running any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path


def lies_in(module: str, folder: Path) -> bool:
    """Whether importing a module would run a file in a folder or below it, of its own or of a package around it."""
    return any(is_below(place, folder) for spec in _specs(module) for place in _places(spec))


def is_below(place: str, folder: Path) -> bool:
    """Whether a path lies in a folder or is it, by its name or by what links lead to."""
    return any(Path(of(place)).is_relative_to(of(folder)) for of in (os.path.abspath, os.path.realpath))


def _specs(module: str) -> Iterator[ModuleSpec]:
    """Of each package around a module, from the outermost, and of itself, as far as they are found.

    `find_spec` imports the packages around a name, so that it is asked for the outermost name alone.
    """
    outermost, *inner = module.split(".")
    try:
        spec = find_spec(outermost)
    except (ImportError, ValueError):  # there is no such name, or it has no file, as __main__
        return
    for part in [*inner, ""]:
        if spec is None:
            return
        yield spec
        # By its last name: for a name with dots, a package without __init__.py looks at the imported one around it.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations or ())) if part else None


def _places(spec: ModuleSpec) -> Iterator[str]:
    if spec.has_location and spec.origin:
        yield spec.origin
    yield from spec.submodule_search_locations or ()
