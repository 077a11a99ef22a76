"""Continuing a run: its run.yml, with the settings that are changed between two of its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertjobs.data.shards.epochs import resolved_with_data
from bertjobs.errors import InputError
from bertjobs.launch.plan.problem import Problem
from bertjobs.launch.start import absolute, unfinished
from bertjobs.recipe import schema
from bertjobs.recipe.catalogue import Catalogue, Filed, builtin_file, catalogue_files, load_catalogue
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.resolve import Resolved, resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory

ITS_OWN = {
    "run": "a run keeps its name: move its folder to rename it",
    "results": "a run stays where it is: move its folder, and give the new one with --results",
    "recipe": "start another run: bertjobs submit --recipe NAME --run NAME",
    "phase": "all phases that are not done are continued",
}
"""Settings that cannot be changed -> what to do instead."""


def resumed(
    directory: RunDirectory,
    sets: Sequence[str],
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """The run at its present place, with absolute paths, with ``sets`` (such as "nodes=4") applied to its run.yml, and
    with those of its phases that are not done.

    Args:
        flags, environ: settings that are given in these ways too, none of them one of `ITS_OWN`.

    Raises:
        InputError: all are done, or a setting is unknown, bad, or cannot be changed.
    """
    keys = [text.partition("=")[0].strip() for text in sets]
    for key in keys:
        if key in ITS_OWN:
            raise InputError(f"{key} cannot be changed in a run", where="--set", hint=ITS_OWN[key])
    left = unfinished(directory)
    catalogue = load_catalogue([directory.lockfile])
    if "groups" in keys:  # which may name systems that the run has not had
        systems = load_catalogue([builtin_file()]).only("systems")
        catalogue = Catalogue((*systems.layers, *catalogue.layers))
    again = partial(
        resolve, catalogue, flags={**(flags or {}), "recipe": left.recipe}, environ=environ or {}, sets=sets
    )
    resolved = resolved_with_data(again)
    chosen = {phase.phase for phase in resolved.spec.phases}
    phases = tuple(resolved.spec.phase(phase.phase) for phase in left.phases if phase.phase in chosen)
    if not phases:
        numbers = ", ".join(str(phase.phase) for phase in left.phases)
        raise InputError(f"phase {min(chosen)} of run {left.run} is done; left: {numbers}", where="--phase")
    return replace(resolved, spec=absolute(replace(resolved.spec, run=left.run, results=left.results, phases=phases)))


@dataclass(frozen=True)
class Edit:
    """A setting that the user's recipe files give now with another value than the run has."""

    path: str
    now: Any
    of_the_run: Any
    place: str


def edits(directory: RunDirectory, environ: Mapping[str, str], cwd: Path) -> list[Edit]:
    """Where the user's own recipe files, as they are now, differ from a run's run.yml, which wins.

    Values that a flag or the environment gave when the run was started are not told from edited ones: either way the
    file says something else than what is trained.

    Raises:
        InputError: a file cannot be read, or its recipe cannot be resolved any more; or run.yml cannot.
    """
    own = [file for file in catalogue_files(environ, cwd) if file != builtin_file()]
    if not own:
        return []
    spec, catalogue = read_lockfile(directory.lockfile), load_catalogue([builtin_file(), *own])
    if spec.recipe not in catalogue.keys("recipes"):
        return []
    resolved = resolve(catalogue, flags={"recipe": spec.recipe}, environ={})
    ours, theirs = _values(absolute(resolved.spec)), _values(spec)
    given = {path: filed for path in ours if (filed := _filed(path, resolved, catalogue)) is not None}
    return [
        Edit(path.replace("micro_batch_limit", "micro_batch"), ours[path], theirs[path], filed.place)
        for path, filed in given.items()
        if path in theirs and ours[path] != theirs[path] and filed.document.label != builtin_file().name
    ]


def _values(spec: RunSpec) -> dict[str, Any]:
    """All settings of a run that a recipe file can give, by path."""
    values = {key: getattr(spec, key) for key in schema.RUN if key not in ("phase", "system", "model", *ITS_OWN)}
    for prefix, part in (("system.", spec.system), ("model.", spec.model), ("optimizer.", spec.optimizer)):
        values |= {prefix + key: value for key, value in asdict(part).items()}
    for phase in spec.phases:
        values |= {f"phase{phase.phase}.{key}": value for key, value in asdict(phase).items()}
    del values["model.vocab_size"]  # the data decide it
    return values


def _filed(path: str, resolved: Resolved, catalogue: Catalogue) -> Filed | None:
    """Where a file gives a value of a resolved run; None if none does."""
    section, _, key = path.partition(".")
    spec = resolved.spec
    if path in ("system.name", "model.name"):
        source = resolved.provenance.get(section)
    elif section in ("system", "model"):
        return catalogue.find(f"{section}s", getattr(spec, section).name, key)
    else:
        source = resolved.provenance.get(path)
    return source.filed if source else None


def edit_problems(directory: RunDirectory, environ: Mapping[str, str], cwd: Path) -> list[Problem]:
    """`edits` as a warning, with how to take them over."""
    run = directory.name
    try:
        different = edits(directory, environ, cwd)
    except InputError as error:
        what = f"run {run} is continued with its run.yml; your recipe files cannot be compared with it: {error.what}"
        return [Problem(what, where=error.where, is_warning=True)]
    if not different:
        return []
    words = "; ".join(f"{one.path} {one.now!r} (the run has {one.of_the_run!r})" for one in different)
    return [
        Problem(
            f"your recipe file differs from run.yml, which wins: {words}",
            where=different[0].place,
            hint=f"apply it with --set {different[0].path}=VALUE; or, if it decides the weights of a phase that has "
            f"begun, start another run: bertjobs submit --recipe {read_lockfile(directory.lockfile).recipe} "
            f"--run {run}-2",
            is_warning=True,
        )
    ]
