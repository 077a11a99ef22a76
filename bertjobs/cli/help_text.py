"""How --help words what an option defaults to."""

from __future__ import annotations

import argparse


class DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options that take a value; of a switch, or of one that is empty, it would say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default == "":
            return action.help
        return super()._get_help_string(action)
