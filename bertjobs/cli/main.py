"""The command line: parse, call, print. No verb's module imports anything heavy before it is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from bertjobs import __version__
from bertjobs.cli.interrupts import EXIT_INTERRUPTED
from bertjobs.errors import EXIT_BAD_INPUT, BertjobsError, nearest

VERBS = {
    "init": "init", "recipes": "recipes", "data": "data", "import": "import_checkpoint",
    "bench": "bench", "plan": "plan",
    "submit": "submit", "resume": "submit",
    "finetune": "finetune", "distill": "distill", "evaluate": "evaluate", "predict": "predict", "infer": "infer",
    "export": "export", "serve": "serve",
    "worker": "worker", "rehearse": "rehearse",
    "status": "runs", "logs": "runs", "cancel": "runs",
    "study": "study", "doctor": "doctor", "image": "image", "report": "report", "scaling": "scaling", "sync": "sync",
    "completion": "completion",
}  # fmt: skip
"""The verbs, and the module of `bertjobs.cli` that adds each; in the order of the help."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors look, and exit, like all others of bertjobs."""

    def error(self, message: str) -> NoReturn:
        hint = None
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = nearest(word, flags) if word.startswith("-") else None
        elif "invalid choice" in message and self._subparsers:
            word = message.split("invalid choice: ")[1].split()[0].strip("'\"")
            hint = nearest(word, self._verbs())
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.write(f"  hint:  {hint or f'see {self.prog} --help'}\n")
        raise SystemExit(EXIT_BAD_INPUT)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # A verb's own parser refuses what it does not know, as it knows the nearest flag.
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error("unrecognized arguments: " + " ".join(rest))
        return known, rest

    def _verbs(self) -> list[str]:
        return [
            name
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]


def build_parser(verb: str | None = None) -> Parser:
    """The parser of all verbs; of one of ``VERBS`` and those of its module alone, if it is given."""
    parser = Parser(
        prog="bertjobs",
        description="Pretrain BERT on a Slurm cluster, or on this machine.",
        epilog="Exit codes: 0 done, 75 stopped early and can be continued, 64 bad input, 70 anything else.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bertjobs {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for module in dict.fromkeys(VERBS.values()) if verb is None else (VERBS[verb],):
        import_module(f"bertjobs.cli.{module}").register(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    # Help, completion and the nearest name of a misspelled verb need all verbs; a verb needs no other.
    verb = words[0] if words and words[0] in VERBS else None
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions, and wants no more
        from bertjobs.cli.completion import answer

        answer(build_parser())
    args = build_parser(verb).parse_args(words)
    try:
        return args.handler(args)
    except BertjobsError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if not error.filename:
            raise
        problem = BertjobsError(error.strerror or type(error).__name__, where=str(error.filename))
        print(problem.render(), file=sys.stderr)
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
