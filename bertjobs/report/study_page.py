"""The page of a study: mean and spread of each setting over its seeds, its runs, and those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import write_text
from bertjobs.launch.watch.study import (
    NOT_EXPLAINED,
    MemberResult,
    failures,
    headline,
    measure_name,
    run_table,
    spread_table,
)
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.report.page import definitions, document, escape, inline, numbers_table
from bertjobs.report.study_plot import draw_study
from bertjobs.run.study import Study


def write_study_report(study: Study, members: Sequence[MemberResult]) -> Path:
    """Write a study's report; returns its path.

    Raises:
        InputError: it cannot be written.
    """
    is_measured = any(member.value is not None for member in members)
    svg = draw_study(members).decode() if is_measured else ""
    try:
        write_text(study.report, study_page(study, members, svg))
    except OSError as error:
        raise InputError(f"the report cannot be written: {error.strerror}", where=str(study.report)) from error
    return study.report


def study_page(study: Study, members: Sequence[MemberResult], svg: str) -> str:
    """The HTML text; ``svg``, empty while no run was measured, is trusted, all other text is escaped."""
    title = escape(f"Study: {study.name}")
    over_seeds = (
        f"""<h2>Over the seeds</h2>
{numbers_table(spread_table(members))}
<p class="quiet">The measure is {escape(measure_name(members) or "")}, of the runs that are done; std is the sample
standard deviation. A dot is a run, the bar is their mean, and the line spans a standard deviation to either side.</p>
<figure>{inline(svg, "The measure of each run")}</figure>"""
        if svg
        else ""
    )
    return document(
        title,
        f"""<h1>{title}</h1>
<div class="verdict"><p>{escape(headline(study.name, members))}</p></div>
{over_seeds}
{_failures(failures(members))}
<h2>Runs</h2>
{numbers_table(run_table(members))}
<h2>What was run</h2>
{definitions(_settings(study))}
""",
    )


def _failures(failed: Sequence[MemberResult]) -> str:
    if not failed:
        return ""
    items = "".join(
        f"<dt>{escape(one.run)}</dt><dd>{escape(one.state.lower())}: {escape(one.why or NOT_EXPLAINED)}<br>"
        f"<code>{escape(one.command)}</code></dd>\n"
        for one in failed
    )
    return f"<h2>Runs that failed, and what to type</h2>\n<dl>\n{items}</dl>"


def _settings(study: Study) -> list[tuple[str, str]]:
    """In what the runs differ, and what the first one whose run.yml can be read was told."""
    rows = [("Runs differ in", ", ".join(study.members[0].settings)), ("Their folder", str(study.results))]
    for directory in study.directories:
        try:
            spec = read_lockfile(directory.lockfile)
        except BertjobsError:  # its row has said so
            continue
        return [
            *rows,
            ("Below, those of", directory.name),
            *([("Task", spec.task)] if spec.task else []),
            ("Recipe", f"{spec.recipe}, system {spec.system.name}"),
            ("Model", spec.model.name),
            ("Started from", spec.init_checkpoint or "random weights"),
            *([("Teacher", spec.teacher)] if spec.teacher else []),
            ("Data", spec.data),
        ]
    return rows
