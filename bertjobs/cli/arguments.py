"""What verbs share: the flags of settings, of runs and of the queue, and the plan that they are checked against."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bertjobs.errors import InputError
from bertjobs.wording import counted

if TYPE_CHECKING:
    from bertjobs.recipe.catalogue import Catalogue
    from bertjobs.recipe.resolve import EpochRows, Resolved
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.study import Study
    from bertjobs.slurm.container import Container
    from bertjobs.slurm.site import Site

_CONTAINER = ("image", "mounts", "container")


def add_run_argument(
    parser: argparse.ArgumentParser, *, optional: bool = False, without: str = "default: all runs"
) -> None:
    """Add RUN, --results and --site, which `opened` reads; ``without`` says what holds if an ``optional`` RUN is not
    given."""
    text = "the run's name, or its folder" + (f" ({without})" if optional else "")
    parser.add_argument("run", metavar="RUN", nargs="?" if optional else None, help=text)
    add_results_arguments(parser)


def add_results_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --results and --site, which `results_folder` reads."""
    parser.add_argument(
        "--results", metavar="DIR", help="folder of all runs (default: the site's, else results) [RESULTS]"
    )
    add_site_argument(parser)


def add_site_argument(parser: argparse._ActionsContainer) -> None:
    """Add --site, which `chosen_site` reads."""
    parser.add_argument(
        "--site",
        metavar="NAME",
        help="site file made by `bertjobs init`, or none to use none (default: the only one, or the one named default)",
    )


def chosen_site(args: argparse.Namespace) -> Site | None:
    """The site that --site names; else the default one, if there is a Slurm and the run may use it."""
    from bertjobs.launch.plan.site_file import read_site
    from bertjobs.slurm.client import Slurm

    local = getattr(args, "backend", "auto") == "local" or not Slurm(os.environ).present
    return None if args.site is None and local else read_site(args.site, os.environ)


def chosen_container(args: argparse.Namespace, site: Site | None) -> Container | None:
    """The container that --image, --mounts and --container ask for, else the environment, else the site; None without
    an image. What it runs is the code that runs now.

    Raises:
        InputError: a value is not valid, or this code cannot be mounted.
    """
    from bertjobs.recipe.schema import RUN
    from bertjobs.slurm.container import Container, submitting_code

    asked = site.settings() if site else {}
    asked |= {key: value for key in _CONTAINER if (value := os.environ.get(RUN[key].env))}
    asked |= {key: value for key in _CONTAINER if (value := getattr(args, key, None)) is not None}
    image, mounts, starter = (RUN[key].parse(asked.get(key, RUN[key].default), f"--{key}") for key in _CONTAINER)
    if not image:
        return None
    if Path(image).exists():
        image = str(Path(image).absolute())
    return Container(image, mounts, starter, site.environment if site else (), submitting_code())


def results_folder(args: argparse.Namespace) -> Path:
    """The folder of all runs: from the flag, the environment, the site, or the default."""
    if given := args.results or os.environ.get("RESULTS"):
        return Path(given)
    site = chosen_site(args)
    return Path(site.results if site and site.results else "results")


def opened(args: argparse.Namespace) -> RunDirectory:
    """The run that the arguments name; InputError if there is none."""
    from bertjobs.run.directory import open_run

    if study := named_study(args):
        names = ", ".join(directory.name for directory in study.directories[:3])
        raise InputError(
            f"{args.run!r} is a study of {counted(len(study.members), 'run')}",
            where=str(study.file),
            hint=f"name one of its runs: {names}" + ", ..." * (len(study.members) > 3),
        )
    return open_run(results_folder(args), args.run)


def named_study(args: argparse.Namespace) -> Study | None:
    """The study that the arguments name; None if they name none, or a run."""
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.study import find_study

    results = results_folder(args)
    return None if RunDirectory(results / args.run).is_run else find_study(results, args.run)


_METAVARS = {"int": "N", "float": "X", "switch": "true|false", "path": "PATH", "mounts": "SRC:DST", "phase": "PHASE",
             "groups": "NODESxGPUS[@CONSTRAINT],..."}  # fmt: skip


def add_recipe_arguments(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add --recipes, --set and a flag per setting, all from the schema's table; help lists the most used ones.

    The settings ``without`` get no flag: the verb has others for them.

    Values stay text here: `resolve` parses them, so that a bad one is an InputError like any other.
    """
    from bertjobs.recipe.reference import default_text
    from bertjobs.recipe.schema import REQUIRED, SETTINGS

    group = parser.add_argument_group("settings (in brackets: environment variables that set the same)")
    for setting in sorted(SETTINGS, key=lambda setting: not setting.listed):
        if setting.key in without:
            parser.set_defaults(**{f"setting_{setting.key}": None})
        elif setting.flag:
            default = "" if setting.default is REQUIRED else f" (default: {default_text(setting)})"
            environment = f" [{setting.env}]" if setting.env else ""
            group.add_argument(
                setting.flag,
                dest=f"setting_{setting.key}",
                metavar="|".join(setting.choices) or _METAVARS.get(setting.kind, "NAME"),
                help=setting.help + default + environment if setting.listed else argparse.SUPPRESS,
            )
    add_files(group)
    group.add_argument(
        "--set",
        dest="sets",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as phase1.lr=1e-3; can be repeated; "
        "`bertjobs recipes settings [KEY]` explains them all",
    )


def setting_words(args: argparse.Namespace) -> list[str]:
    """The flags of `add_recipe_arguments`, and --site, as they were given: for a command that is to follow."""
    from bertjobs.recipe.schema import SETTINGS

    given = {setting.flag: getattr(args, f"setting_{setting.key}", None) for setting in SETTINGS if setting.flag}
    several = {"--recipes": args.recipe_files, "--set": args.sets, "--site": [args.site] if args.site else []}
    words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    return words + [word for flag, values in several.items() for value in values for word in (flag, str(value))]


def resolve_arguments(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    site: Site | None = None,
    training_rows: EpochRows | None = None,
) -> Resolved:
    """The run that the flags of `add_recipe_arguments`, the environment and the recipe files ask for.

    ``nodes`` and ``tasks_per_node`` are those of the running job, if there is one; ``site`` gives what all others leave
    open; ``training_rows`` as in `resolve`. Raises InputError.
    """
    from bertjobs.recipe.resolve import resolve

    prefix = "setting_"
    flags = {key.removeprefix(prefix): value for key, value in vars(args).items() if key.startswith(prefix)}
    return resolve(
        catalogue_of(args, environ),
        flags=flags,
        sets=args.sets,
        swept=getattr(args, "swept", None),
        environ=environ,
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        site=site.settings() if site else None,
        site_origin=site.origin if site else "",
        training_rows=training_rows,
    )


def resolve_run(args: argparse.Namespace, environ: Mapping[str, str]) -> Resolved:
    """A new run, by `resolve_arguments`, with the steps of its epochs; one that fine-tunes on prepared data by
    `resolve_task_run`.

    Raises:
        InputError: as there; or it has epochs, and its data cannot be read.
    """
    from bertjobs.data.shards.epochs import resolved_with_data
    from bertjobs.tasks.prepared import MANIFEST, PreparedTask

    resolved = resolved_with_data(partial(resolve_arguments, args, environ, site=chosen_site(args)))
    spec = resolved.spec
    if not spec.task or not (Path(spec.data) / MANIFEST).is_file():
        return resolved
    rows = PreparedTask.read(Path(spec.data)).splits["train"].rows
    return resolve_task_run(args, environ, rows, Path(spec.init_checkpoint) if spec.init_checkpoint else None)


def resolve_task_run(
    args: argparse.Namespace, environ: Mapping[str, str], rows: int, shape_of: Path | None
) -> Resolved:
    """A new run that fine-tunes on this many training ``rows``: it has the steps of its epochs, and the shape of the
    weights in ``shape_of``, if given."""
    from bertjobs.recipe.bert_config import read_model_spec
    from bertjobs.recipe.resolve import with_model

    resolved = resolve_arguments(args, environ, site=chosen_site(args), training_rows=rows)
    if shape_of is None:
        return resolved
    return with_model(resolved, read_model_spec(shape_of), str(shape_of / "config.json"))


def add_files(parser: argparse._ActionsContainer, *, below: bool = False) -> None:
    parser.add_argument(
        "--recipes",
        dest="recipe_files",
        metavar="FILE",
        action="append",
        default=argparse.SUPPRESS if below else [],
        help="a recipe file of your own; can be repeated",
    )


def catalogue_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Catalogue:
    from bertjobs.recipe.catalogue import catalogue_files, load_catalogue

    return load_catalogue(catalogue_files(environ, Path.cwd(), args.recipe_files))
