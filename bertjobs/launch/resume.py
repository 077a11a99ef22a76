"""Continuing a run: its run.yml, with the settings that are changed between two of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bertjobs.errors import InputError
from bertjobs.launch.start import absolute, unfinished
from bertjobs.recipe.catalogue import load_catalogue
from bertjobs.recipe.resolve import Resolved, resolve
from bertjobs.run.directory import RunDirectory

_ITS_OWN = {
    "run": "a run keeps its name: move its folder to rename it",
    "results": "a run stays where it is: move its folder, and give the new one with --results",
    "recipe": "start another run: bertjobs submit --recipe NAME --run NAME",
    "phase": "all phases that are not done are continued",
}
"""Settings that cannot be changed -> what to do instead."""


def resumed(directory: RunDirectory, sets: Sequence[str]) -> Resolved:
    """The run at its present place, with absolute paths, with ``sets`` (such as "nodes=4") applied to its run.yml, and
    with those of its phases that are not done.

    Raises:
        InputError: all are done, or a setting is unknown, bad, or cannot be changed.
    """
    for text in sets:
        key = text.partition("=")[0].strip()
        if key in _ITS_OWN:
            raise InputError(f"{key} cannot be changed in a run", where="--set", hint=_ITS_OWN[key])
    left = unfinished(directory)
    flags = {"recipe": left.recipe}
    resolved = resolve(load_catalogue([directory.lockfile]), flags=flags, environ={}, sets=sets)
    phases = tuple(resolved.spec.phase(phase.phase) for phase in left.phases)
    return replace(resolved, spec=absolute(replace(resolved.spec, run=left.run, results=left.results, phases=phases)))
