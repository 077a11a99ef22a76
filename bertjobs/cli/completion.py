"""`bertjobs completion`: words for the TAB key of bash, zsh and fish.

The shell asks `bertjobs` itself at each TAB, through argcomplete, so recipes, runs and sites are always current, and an
upgrade needs no new script.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bertjobs.cli.arguments import results_folder
from bertjobs.errors import BertjobsError

_NAME = "bertjobs"
_FOLDERS = ("DIR", "FOLDER")
_FILES = ("PATH", "FILE", "FILE.png")


def register(subparsers: Any) -> None:
    """Add `completion` to the command line."""
    parser = subparsers.add_parser(
        "completion",
        help="print the code that lets a shell complete verbs, flags, recipes, runs and sites",
        description="Print the lines that let a shell complete verbs, flags and the names of recipes, runs and sites "
        "when TAB is pressed. To load them in each new shell:",
        epilog="""\
  bash  echo 'eval "$(bertjobs completion bash)"' >>~/.bashrc
  zsh   echo 'eval "$(bertjobs completion zsh)"' >>~/.zshrc     (after the line with compinit)
  fish  bertjobs completion fish >~/.config/fish/completions/bertjobs.fish""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(handler=_completion)


def answer(parser: argparse.ArgumentParser) -> None:
    """Write the completions of the command line so far, for which a shell has asked, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=_words)  # type: ignore[arg-type]


def _completion(args: argparse.Namespace) -> int:
    from argcomplete import shellcode

    print(shellcode([_NAME], use_defaults=False, shell=args.shell))
    return 0


def _words(*, prefix: str, action: argparse.Action, parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The possible values of an argument without fixed choices; none if they cannot be known."""
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    metavar = action.metavar if isinstance(action.metavar, str) else ""
    try:
        if names := _NAMES.get(action.dest):
            known = list(names(parsed_args))
            return [*known, *DirectoriesCompleter()(prefix)] if action.dest in _OR_FOLDERS and "/" in prefix else known
    except (BertjobsError, OSError):
        return []
    if "|" in metavar:
        return metavar.split("|")
    if metavar in _FOLDERS or metavar in _FILES:
        return DirectoriesCompleter()(prefix) if metavar in _FOLDERS else FilesCompleter()(prefix)
    return []


def _runs(args: argparse.Namespace) -> Iterable[str]:
    from bertjobs.run.directory import all_runs
    from bertjobs.wording import harmless

    # Any folder may lie there: what the shell would take for more than a name is left out.
    return [run.name for run in all_runs(results_folder(args)) if run.name == harmless(run.name)]


def _sites(_: argparse.Namespace) -> Iterable[str]:
    from bertjobs.launch.plan.site_file import NO_SITE, site_names

    return [*site_names(os.environ), NO_SITE]


def _catalogued(section: str) -> Callable[[argparse.Namespace], Iterable[str]]:
    def names(args: argparse.Namespace) -> Iterable[str]:
        from bertjobs.recipe.catalogue import catalogue_files, load_catalogue

        files = catalogue_files(os.environ, Path.cwd(), getattr(args, "recipe_files", None) or [])
        return load_catalogue(files).keys(section)

    return names


def _phases(args: argparse.Namespace) -> Iterable[str]:
    return [*map(str, _catalogued("phases")(args)), "all"]


def _settings(_: argparse.Namespace) -> Iterable[str]:
    from bertjobs.recipe.reference import SECTIONS

    return dict.fromkeys(key for section in SECTIONS for key in section.settings)


_OR_FOLDERS = ("run", "runs", "model", "models")
"""Arguments that take a folder as well as a name."""

_NAMES: dict[str, Callable[[argparse.Namespace], Iterable[str]]] = {
    "run": _runs,
    "runs": _runs,
    "model": _runs,
    "models": _runs,
    "setting_run": _runs,
    "site": _sites,
    "name": _catalogued("recipes"),
    "setting_recipe": _catalogued("recipes"),
    "setting_model": _catalogued("models"),
    "setting_phase": _phases,
    "setting": _settings,
}
"""The possible values of an argument, by its name in the parsed arguments."""
