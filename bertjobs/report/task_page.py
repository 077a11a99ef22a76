"""report.html of a run of fine-tuning, and the same in a terminal."""

from __future__ import annotations

from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.atomic import write_text
from bertjobs.report.page import attempts_table, definitions, document, escape, inline, numbers_table
from bertjobs.report.task_curves import draw_task
from bertjobs.report.task_summary import Mistake, TaskSummary, summarise_task
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.shell import quote
from bertjobs.wording import columns, harmless

SHOWN = 300
"""Characters of an example that the page shows."""
SHORT = 90
"""And a terminal."""


def write_task_report(directory: RunDirectory) -> tuple[TaskSummary, Path]:
    """Write a run's report.html.

    Raises:
        InputError: no step has been made yet, or the run directory cannot be written.
    """
    summary = summarise_task(directory)
    try:
        write_text(directory.report, task_page(summary, draw_task(summary).decode()))
    except OSError as error:
        raise InputError(f"the report cannot be written: {error.strerror}", where=str(directory.report)) from error
    return summary, directory.report


def task_text(summary: TaskSummary, report: Path | None = None) -> str:
    """The result, the worst mistakes and the next commands, for a terminal of 100 columns."""
    parts = [_headline(summary)]
    table = best_and_last(summary)
    if len(table) > 1:
        parts.append("\n".join(columns(table)))
    if summary.kinds:
        parts.append("\n".join(f"{count:6,}  {kind}" for kind, count in _by_count(summary)))
    if summary.mistakes:
        shown = [
            f"  {_cut(one.text, SHORT)}\n    true: {_cut(one.gold, SHORT)}; "
            f"predicted: {_cut(one.guess, SHORT)}{_sure(one)}"
            for one in summary.mistakes[:3]
        ]
        parts.append("The worst mistakes\n" + "\n".join(shown))
    parts += summary.notes
    if summary.checkpoint:
        parts.append(f"checkpoint {summary.checkpoint}")
    if report:
        parts.append(f"report {report}")
    if summary.result:
        run = quote(str(summary.root))
        texts = " ".join(f"--{key} TEXT" for key in summary.asked)
        lines = [
            *([f"evaluate {run}"] if summary.has_dev else []),
            f"predict {run} --input FILE --output FILE",
            *([f"infer {run} {texts}"] if texts else []),
        ]
        parts.append("next:\n" + "\n".join(f"  bertjobs {line}" for line in lines))
    return harmless("\n\n".join(parts))


def task_page(summary: TaskSummary, svg: str) -> str:
    """The HTML text; ``svg`` is trusted, all other text is escaped."""
    title = escape(f"Fine-tuning: {summary.root.name}")
    mistakes = "".join(
        f"<tr><td>{escape(_cut(one.text, SHOWN))}</td><td><strong>{escape(_cut(one.gold, SHOWN))}</strong></td>"
        f"<td>{escape(_cut(one.guess, SHOWN))}<br>"
        f"<span class='quiet'>{escape(_sure(one).strip(', '))}</span></td></tr>\n"
        for one in summary.mistakes
    )
    worst = (
        "<h2>The worst mistakes</h2>\n<div class='scroll'><table class='guesses'><thead><tr><th>Example</th>"
        f"<th>True</th><th>Predicted</th></tr></thead>\n<tbody>{mistakes}</tbody></table></div>"
        if mistakes
        else ""
    )
    kinds = numbers_table([["kind of mistake", "how many"], *([kind, f"{n:,}"] for kind, n in _by_count(summary))])
    return document(
        title,
        f"""<h1>{title}</h1>
<div class="verdict"><p>{escape(_headline(summary))}</p></div>
{"".join(f'<p class="quiet">{escape(note)}</p>' for note in summary.notes)}
<h2>Curves</h2>
<figure>{inline(svg)}</figure>
<h2>Dev measures</h2>
{numbers_table(best_and_last(summary))}
{kinds if summary.kinds else ""}
{worst}
<h2>What was run</h2>
{definitions(_settings(summary))}
<h2>Attempts</h2>
{attempts_table(summary.attempts)}
<h2>Checkpoint</h2>
<p><code>{escape(str(summary.checkpoint or "none yet"))}</code></p>
""",
    )


def best_and_last(summary: TaskSummary) -> list[list[str]]:
    """A table of the measures: of the result, and of the last validation."""
    scores = summary.scores()
    names = list(dict.fromkeys(name for one in scores.values() for name in one))
    head = {"result": f"result (step {summary.result.get('step')})", "last": "last validation"}
    rows = [["measure", *(head[key] for key in scores)]]
    return rows + [[name, *(f"{one[name]:.4g}" if name in one else "-" for one in scores.values())] for name in names]


def _headline(summary: TaskSummary) -> str:
    run, spec, made = summary.root.name, summary.spec, summary.steps[-1]["step"]
    if not summary.result:
        return f"{run}: task {spec.task}, step {made:,} of {summary.phase.steps:,}; not done yet"
    measure, dev = summary.result.get("measure"), summary.result.get("dev") or {}
    if measure is None or measure not in dev:
        why = f"its dev data have no {measure}" if measure else "without labelled dev data nothing was measured"
        return f"{run}: task {spec.task} is done after {made:,} steps; {why}"
    return f"{run}: task {spec.task}, dev {measure} {dev[measure]:.4f} at step {summary.result['step']:,} of {made:,}"


def _settings(summary: TaskSummary) -> list[tuple[str, str]]:
    spec, phase, model = summary.spec, summary.phase, summary.spec.model
    rows = [
        ("Task", spec.task),
        ("Started from", spec.init_checkpoint or "random weights"),
        *([("Teacher", spec.teacher)] if spec.teacher else []),
        ("Model", f"{model.num_hidden_layers} layers, hidden size {model.hidden_size}, {model.vocab_size:,} tokens"),
        ("Recipe", spec.recipe),
        ("Steps", f"{phase.steps:,}, {phase.epochs:g} epochs, batches of {phase.global_batch}"),
        ("Learning rate", f"{phase.lr:g}, warm-up {phase.warmup:g} of the steps, then {spec.decay}"),
        ("Optimizer", f"{spec.optimizer.name}, weight decay {spec.optimizer.weight_decay:g}"),
        ("Precision, seed", f"{spec.precision}, {spec.seed}"),
        ("Data", spec.data),
    ]
    for split, one in summary.prepared.splits.items() if summary.prepared else ():
        rows.append((f"Examples, {split}", f"{one.facts.examples:,} in {one.rows:,} sequences"))
    return rows


def _by_count(summary: TaskSummary) -> list[tuple[str, int]]:
    return sorted(summary.kinds.items(), key=lambda entry: -entry[1])


def _sure(mistake: Mistake) -> str:
    return "" if mistake.confidence is None else f", {mistake.confidence:.3g}"


def _cut(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."
