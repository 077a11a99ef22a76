"""`bertjobs recipes settings`: what can be set, from the same fields that the settings themselves come from."""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any


def register(subparsers: Any) -> None:
    """Add `settings` to the verbs of `bertjobs recipes`."""
    parser = subparsers.add_parser(
        "settings",
        help="explain all settings, or one",
        description="Explain all settings of recipe files, or one in detail.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "setting", metavar="KEY", nargs="?", help="a key, such as lr or optimizer.beta1, or an environment name"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print the page docs/settings.md")
    parser.set_defaults(handler=_settings)


def _settings(args: argparse.Namespace) -> int:
    from bertjobs.recipe import reference

    chosen = reference.find(args.setting) if args.setting else None
    if args.json:
        everything = [setting for section in reference.SECTIONS for setting in section.settings.values()]
        print(json.dumps([reference.as_json(setting) for setting in chosen or everything], indent=2))
    elif args.markdown:
        print(reference.markdown(), end="")
    elif chosen:
        print("\n\n".join(map(reference.detail, chosen)))
    else:
        print(reference.table(shutil.get_terminal_size((100, 24)).columns))
        print("\nNext: bertjobs recipes settings KEY, or bertjobs plan --recipe NAME --set KEY=VALUE")
    return 0
