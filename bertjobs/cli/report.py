"""`bertjobs report`: the outcome of a run or a study, as text and as a page."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_run_argument, named_study, opened
from bertjobs.cli.study import results_of
from bertjobs.errors import BertjobsError, InputError
from bertjobs.wording import Paint, harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bertjobs.report.gains import Gain
    from bertjobs.report.summary import PhaseSummary, Summary
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.journal import Attempt
    from bertjobs.run.study import Study


def register(subparsers: Any) -> None:
    """Add `report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="write a run's report.html and print its summary; also of a study",
        description="Write report.html into the run's folder: curves, summary, guesses for masked words, attempts. "
        "Print the summary. The run may still be running. Of a study: its runs, and mean and spread over the seeds, "
        "written beside the study's file.",
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
    parser.add_argument(
        "--require-gain",
        metavar="X",
        type=float,
        default=None,
        help="judge only: end with exit code 70 unless each task that was fine-tuned from this run has a measure this "
        "much higher than with --random-weights",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=_report)


def finish(directory: RunDirectory) -> str:
    """Write a run's report; returns the text to print.

    Raises:
        InputError: no step has been made yet, or the report cannot be written.
    """
    if is_task(directory):
        from bertjobs.report.task_page import task_text, write_task_report

        return task_text(*write_task_report(directory))
    from bertjobs.report.write import write_report

    return write_report(directory).text()


def is_task(directory: RunDirectory) -> bool:
    """Whether a run fine-tunes; False where its run.yml is damaged."""
    from bertjobs.recipe.lockfile import read_lockfile

    try:
        return bool(read_lockfile(directory.lockfile).task)
    except BertjobsError:
        return False


def _report(args: argparse.Namespace) -> int:
    from bertjobs.report.gains import gains_of
    from bertjobs.report.summary import summarise

    if study := named_study(args):
        return _report_study(study, args)
    directory = opened(args)
    if is_task(directory):
        return _report_task(directory, args)
    if _asked_to_judge(args):
        summary, gains = summarise(directory), gains_of(directory)
        if args.json:
            print(_json(summary, gains, None))
        verdict = _judge(summary, gains, args)
        if not args.json:
            print(verdict)
    elif args.json:
        from bertjobs.report.write import write_report

        report = write_report(directory)
        print(_json(report.summary, report.gains, str(report.path)))
    else:
        print(finish(directory))
    return 0


def _asked_to_judge(args: argparse.Namespace) -> str | None:
    """The first flag that judges a run of pretraining; None if there is none."""
    given = {"--require-learnt": args.require_learnt, "--require-gain": args.require_gain}
    return next((flag for flag, margin in given.items() if margin is not None), None)


def _report_study(study: Study, args: argparse.Namespace) -> int:
    from bertjobs.launch.watch.study import study_json, study_text
    from bertjobs.report.study_page import write_study_report

    if flag := _asked_to_judge(args):
        hint = f"bertjobs report {study.run(study.members[0])} {flag} X"
        raise InputError("a study is not judged, each of its runs is", where=flag, hint=hint)
    results = results_of(study)
    path = write_study_report(study, results)
    if args.json:
        print(json.dumps({**study_json(study.name, results), "report": str(path)}, indent=2))
    else:
        print(f"{study_text(study.name, results, Paint.of(sys.stdout, os.environ))}\n\nreport {harmless(str(path))}")
    return 0


def _report_task(directory: RunDirectory, args: argparse.Namespace) -> int:
    from bertjobs.report.task_page import task_text, write_task_report

    if flag := _asked_to_judge(args):
        raise InputError("only runs of pretraining are judged, and this one fine-tunes", where=flag)
    summary, path = write_task_report(directory)
    if not args.json:
        print(task_text(summary, path))
        return 0
    content = {
        "run": summary.root.name,
        "recipe": summary.spec.recipe,
        "task": summary.spec.task,
        "steps_done": summary.steps[-1]["step"],
        "steps": summary.phase.steps,
        "result": dict(summary.result) or None,
        "mistakes": dict(summary.kinds),
        "attempts": [_attempt_json(attempt) for attempt in summary.attempts],
        "checkpoint": str(summary.checkpoint) if summary.checkpoint else None,
        "report": str(path),
    }
    print(json.dumps(content, indent=2))
    return 0


def _json(summary: Summary, gains: Sequence[Gain], page: str | None) -> str:
    """The summary for programs; times in seconds, losses in nats, accuracies 0 to 1."""
    spec = summary.spec
    content = {
        "run": spec.run,
        "recipe": spec.recipe,
        "model": spec.model.name,
        "world_size": spec.world_size,
        "phases": [_phase_json(phase) for phase in summary.phases],
        "attempts": [_attempt_json(attempt) for attempt in summary.attempts],
        "gains": [{**asdict(gain), "gain": gain.gain} for gain in gains],
        "report": page,
    }
    return json.dumps(content, indent=2)


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "phase": attempt.phase,
        "job": attempt.job,
        "number": attempt.number,
        "world_size": attempt.world_size,
        "started_unix_s": attempt.started_unix_s,
        "seconds": attempt.seconds,
        "cause": attempt.cause or attempt.word,
        "exit_code": attempt.exit_code,
        "step": attempt.step,
        "error": attempt.failure.what if attempt.failure else "",
    }


def _phase_json(phase: PhaseSummary) -> dict[str, Any]:
    held_out = phase.held_out
    line = {**asdict(held_out), "below_unigram_nats": held_out.below_unigram_nats} if held_out else {}
    return {
        "phase": phase.spec.phase,
        "steps_done": phase.steps_done,
        "steps": phase.spec.steps,
        "done": phase.done,
        "start_loss_nats": _finite(phase.start_loss_nats),
        "end_loss_nats": _finite(phase.end_loss_nats),
        "held_out": {key: _finite(value) for key, value in line.items()} or None,
        "sequences_per_s": phase.sequences_per_s,
        "wall_time_s": phase.wall_time_s,
        "attempts": phase.attempts,
        "goodput": phase.goodput.as_json(),
        "checkpoint": str(phase.checkpoint) if phase.checkpoint else None,
    }


def _finite(number: float | None) -> float | None:
    """JSON has no NaN."""
    return number if number is not None and math.isfinite(number) else None


def _judge(summary: Summary, gains: Sequence[Gain], args: argparse.Namespace) -> str:
    """In words what is judged, and that it is enough.

    Raises:
        BertjobsError: it is not.
        InputError: there is nothing to judge.
    """
    parts = [] if args.require_learnt is None else [_judge_loss(summary, args.require_learnt)]
    if args.require_gain is not None:
        parts.append(_judge_gains(gains, args.require_gain))
    return "\n".join(parts)


def _judge_loss(summary: Summary, margin: float) -> str:
    """Held-out loss and unigram line of each phase; BertjobsError if a loss is not ``margin`` nats below the line."""
    from bertjobs.report.summary import judged, learnt, verdict

    verdicts = [verdict(phase) for phase in judged(summary)]
    if not learnt(summary, margin):
        raise BertjobsError(
            f"the held-out masked-LM loss is not {margin:g} nats below the unigram line",
            where="; ".join(verdicts),
            hint="train for more steps, or look at the curves in report.html",
        )
    return "\n".join([*verdicts, f"yes: more than {margin:g} nats below, so context was learnt"])


def _judge_gains(gains: Sequence[Gain], margin: float) -> str:
    """The measure of each task with these weights and with random ones; BertjobsError if the gain is less than
    ``margin``, InputError if nothing was compared."""
    from bertjobs.report.gains import gain_verdict, is_gain

    verdicts = [gain_verdict(gain) for gain in gains]
    if all(gain.gain is None for gain in gains):
        raise InputError(
            "no task was fine-tuned both from this run and from random weights",
            where="--require-gain",
            hint="bertjobs finetune --task TASK --from RUN --data DIR, and the same with --random-weights",
        )
    if not is_gain(gains, margin):
        raise BertjobsError(
            f"fine-tuned from this run, a task is not {margin:g} better than from random weights",
            where="; ".join(verdicts),
            hint="train for more steps, or compare over several seeds: --seeds 5",
        )
    return "\n".join([*verdicts, f"yes: at least {margin:g} better than from random weights"])
