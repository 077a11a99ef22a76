"""`bertjobs report`: what a run came to, as text and as a page."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bertjobs.cli.runs import add_run_argument, opened
from bertjobs.errors import BertjobsError

if TYPE_CHECKING:
    from bertjobs.report.summary import Summary
    from bertjobs.run.directory import RunDirectory


def register(subparsers: Any) -> None:
    """Add `report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="write a run's report.html and print its summary",
        description="Write report.html into the run's folder: curves, summary, guesses for masked words, attempts. "
        "Print the summary. The run may still be going on.",
        allow_abbrev=False,
    )
    add_run_argument(parser)
    parser.add_argument(
        "--require-learnt",
        metavar="NATS",
        type=float,
        default=None,
        help="judge only: end with exit code 70 unless the held-out masked-LM loss is this far below the unigram line",
    )
    parser.set_defaults(handler=_report)


def finish(directory: RunDirectory) -> str:
    """Write a run's report; returns the text to print.

    Raises:
        InputError: no step has been made yet, or the report cannot be written.
    """
    from bertjobs.report.write import write_report

    return write_report(directory).text()


def _report(args: argparse.Namespace) -> int:
    from bertjobs.report.summary import summarise

    directory = opened(args)
    if args.require_learnt is not None:
        print(_judge(summarise(directory), args.require_learnt))
    else:
        print(finish(directory))
    return 0


def _judge(summary: Summary, margin: float) -> str:
    """Held-out loss and unigram line of each phase, in words.

    Raises:
        BertjobsError: a loss is not ``margin`` nats below the line.
    """
    from bertjobs.report.summary import judged, learnt, verdict

    verdicts = [verdict(phase) for phase in judged(summary)]
    if not learnt(summary, margin):
        raise BertjobsError(
            f"the held-out masked-LM loss is not {margin:g} nats below the unigram line",
            where="; ".join(verdicts),
            hint="train for more steps, or look at the curves in report.html",
        )
    return "\n".join([*verdicts, f"yes: more than {margin:g} nats below, so context was learnt"])
