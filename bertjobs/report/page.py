"""report.html: one run on one page that needs no network and no script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape as html_escape

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.recipe.groups import nodes_words
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.report.gains import Gain, gain_table
from bertjobs.report.masked_words import MaskedWord, gap_after, gap_before, percent
from bertjobs.report.summary import END_STEPS, MARGIN_NATS, Summary, judged, learnt, rows, verdict
from bertjobs.run.journal import Attempt
from bertjobs.wording import duration, harmless

STYLE = """
:root { color-scheme: light dark; --text: #1f2937; --quiet: #5b6472; --line: #e2e5ea; --page: #fff; --soft: #f5f7f9;
  --accent: #2563a8; --mark: #fde9c8; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e7eb; --quiet: #a3abb8; --line: #353b45; --page: #16191e;
  --soft: #1f242b; --accent: #8db9ea; --mark: #5a4317; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; }
p { margin: .4rem 0; }
.quiet { color: var(--quiet); font-size: .9rem; }
.verdict { background: var(--soft); border-left: 4px solid var(--accent); padding: .6rem 1rem; margin: 1.1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1.4rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody th { font-weight: 400; color: var(--quiet); }
.numbers td, .numbers thead th { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; margin: 0; font-size: .93rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0; background: #fff; border-radius: 6px; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 40rem; height: auto; }
mark { background: var(--mark); color: inherit; padding: 0 .3em; border-radius: 3px; }
.guesses .probability, .guesses td:last-child { white-space: nowrap; }
.right { font-weight: 700; color: var(--accent); }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; font-size: .88rem; }
code { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  .guesses, .guesses tbody, .guesses tr, .guesses td { display: block; }
  .guesses thead { display: none; }
  .guesses td { border: 0; padding: .1rem 0; }
  .guesses tr { border-bottom: 1px solid var(--line); padding: .6rem 0; }
}
"""

# Tells the browser, too, that nothing may be fetched or run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Text as HTML that shows it and does nothing else."""
    return html_escape(harmless(text))


def page(
    summary: Summary,
    svg: str,
    guesses: Sequence[MaskedWord],
    data: DataManifest | None = None,
    notes: Sequence[str] = (),
    gains: Sequence[Gain] = (),
) -> str:
    """The HTML text of a run's report.

    Args:
        svg: the curves, as ``curves.draw`` makes them; they are trusted, all other text is escaped.
        data: the manifest of the run's data, None if it no longer exists.
        notes: what the report lacks, and why.
        gains: the tasks that were fine-tuned from the run.
    """
    spec = summary.spec
    title = escape(f"BERT pretraining: {summary.root.name}")
    loss = "masked-LM plus next-sentence loss" if spec.next_sentence else "masked-LM loss"
    return document(
        title,
        f"""<h1>{title}</h1>
<p class="quiet">{escape(_when(summary))}</p>
{_verdict(summary)}
{"".join(f'<p class="quiet">{escape(note)}</p>' for note in notes)}
<h2>Curves</h2>
<figure>{inline(svg)}</figure>
<h2>Summary</h2>
{numbers_table(rows(summary))}
<p class="quiet">Training loss is {loss}, of the first step and as the mean of the last
{END_STEPS}. The unigram line is the cross-entropy of the held-out masked tokens under the training text's word
frequencies: what a model that knows no context reaches.</p>
{_guesses(guesses)}
{_gains(gains)}
<h2>What was run</h2>
{definitions(_settings(spec, data))}
<h2>Phases</h2>
{numbers_table(_phase_rows(spec))}
<p class="quiet">Global batch = rank batch x {spec.world_size} ranks; rank batch = gradient steps x micro-batch.</p>
<h2>Attempts</h2>
{attempts_table(summary.attempts)}
{_checkpoint(summary)}
""",
    )


def document(title: str, body: str) -> str:
    """A page that needs no network and no script; both are HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
{body}</body>
</html>
"""


def inline(svg: str, label: str = "Curves of the run by optimizer step") -> str:
    """An SVG file's text as it stands inside HTML: from ``<svg`` on, without names of namespaces; ``label``, which is
    trusted, is what a screen reader says."""
    body = svg[svg.index("<svg") :]
    head, rest = body.split(">", 1)
    head = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()


def _when(summary: Summary) -> str:
    spec, tries = summary.spec, summary.attempts
    what = f"recipe {spec.recipe}, model {spec.model.name}, {_count(spec.world_size, 'rank')}"
    if not tries:
        return what
    return f"{what}; started {_time(tries[0].started_unix_s or 0.0)}, {_count(len(tries), 'attempt')}"


def _verdict(summary: Summary) -> str:
    sentences = "".join(f"<p>{escape(_capital(verdict(phase)))}.</p>" for phase in judged(summary))
    if learnt(summary):
        meaning = f"At least {MARGIN_NATS:g} nats below the line: the model uses context, not only word frequencies."
    else:
        meaning = f"Not {MARGIN_NATS:g} nats below the line in every phase: nothing shows yet that it uses context."
    return f'<div class="verdict">{sentences}<p>{escape(meaning)}</p></div>'


def _settings(spec: RunSpec, data: DataManifest | None) -> list[tuple[str, str]]:
    model, optimizer = spec.model, spec.optimizer
    gpus = "a GPU per task" if spec.groups else f"{_count(spec.gpus, 'GPU')} per node"
    device = f"{gpus} ({spec.system.gpu})" if spec.gpus else "CPU"
    shape = (
        f"{model.name}: {model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads"
    )
    settings = [
        ("Recipe", f"{spec.recipe}, system {spec.system.name}"),
        ("Model", shape + (f", {model.vocab_size:,} tokens" if model.vocab_size else "")),
        ("Started from", spec.init_checkpoint or "random weights"),
        *([("Teacher", spec.teacher)] if spec.teacher else []),
        (
            "World size",
            f"{_count(spec.world_size, 'rank')} = {nodes_words(spec.ranks_of_nodes)}, {device}",
        ),
        (
            "Optimizer",
            f"{optimizer.name}, weight decay {optimizer.weight_decay:g}, betas {optimizer.beta1:g} and "
            f"{optimizer.beta2:g}, epsilon {optimizer.epsilon:g}, gradient norm clipped at {optimizer.clip_norm:g}",
        ),
        ("Precision", spec.precision),
        ("Seed", str(spec.seed)),
        ("Masking", spec.masking),
        ("Data", spec.data),
    ]
    if data is not None:
        if data.documents:  # LDDL keeps no count
            train, held_out = (data.documents[name] for name in ("train", "validation"))
            settings.append(("Documents", f"{train:,} for training, {held_out:,} held out"))
        for phase in spec.phases:
            if phase.phase in data.phases:
                entry = data.phases[phase.phase]
                sequences = f"{entry.train.rows:,} for training, {entry.validation.rows:,} held out"
                settings.append((f"Sequences, phase {phase.phase}", sequences))
    return settings


def _phase_rows(spec: RunSpec) -> list[list[str]]:
    def row(name: str, cell: str) -> list[str]:
        return [name, *(cell.format(phase=phase, warmup=_warmup_steps(phase)) for phase in spec.phases)]

    return [
        row("", "phase {phase.phase}"),
        row("sequence length (tokens)", "{phase.sequence_length}"),
        row("masked tokens per sequence, at most", "{phase.max_predictions}"),
        row("global batch (sequences)", "{phase.global_batch:,}"),
        row("rank batch (sequences)", "{phase.rank_batch:,}"),
        row("gradient steps", "{phase.gradient_steps:,}"),
        row("micro-batch (sequences)", "{phase.micro_batch:,}"),
        row("optimizer steps", "{phase.steps:,}"),
        row("peak learning rate", "{phase.lr:g}"),
        row("warm-up (steps)", "{warmup:,}"),
    ]


def _warmup_steps(phase: PhaseSpec) -> int:
    return round(phase.warmup * phase.steps)


def _guesses(guesses: Sequence[MaskedWord]) -> str:
    if not guesses:
        return ""
    body = "".join(
        f"<tr><td>{escape(gap_before(one))}<mark>&nbsp;?&nbsp;</mark>{escape(gap_after(one))}</td>"
        f"<td><strong>{escape(one.truth)}</strong><br>"
        f'<span class="quiet probability">{escape(percent(one.probability))}, rank&nbsp;{one.rank:,}</span></td>'
        f"<td>{'<br>'.join(_guessed(one, token, probability) for token, probability in one.top)}</td></tr>\n"
        for one in guesses
    )
    return (
        "<h2>Masked words in held-out sentences</h2>\n"
        '<div class="scroll"><table class="guesses"><thead><tr><th>Sentence</th><th>Truth</th><th>Top guesses</th>'
        f"</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        '<p class="quiet">Each sentence was given alone, with one word masked.</p>'
    )


def _gains(gains: Sequence[Gain]) -> str:
    if not gains:
        return ""
    return f"""<h2>Tasks fine-tuned from this run</h2>
{numbers_table(gain_table(gains))}
<p class="quiet">Beside the run with the same settings, data and seed that started from random weights, where there is
one.</p>"""


def _guessed(one: MaskedWord, token: str, probability: float) -> str:
    shown = escape(token)
    if token == one.truth:
        shown = f'<span class="right">{shown}</span>'
    return f"{shown}&nbsp;{escape(percent(probability))}"


def attempts_table(attempts: Iterable[Attempt]) -> str:
    """The attempts of a run, one per row."""
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>"
            for cell in (
                str(one.phase),
                f"{one.job}-{one.number}",
                _time(one.started_unix_s or 0.0),
                duration(one.seconds),
                str(one.world_size),
                "-" if one.step is None else f"{one.step:,}",
                _ending(one),
            )
        )
        + "</tr>\n"
        for one in attempts
    )
    names = ("Phase", "Job-attempt", "Started", "Lasted", "Ranks", "Up to step", "How it ended")
    head = "".join(f"<th>{name}</th>" for name in names)
    if not body:
        return "<p>The journal lists none.</p>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _ending(attempt: Attempt) -> str:
    if not attempt.has_ended:
        return "still running, or killed"
    code = "" if attempt.exit_code is None else f" (exit code {attempt.exit_code})"
    return f"{attempt.cause or attempt.word}{code}" + (f": {attempt.failure.what}" if attempt.failure else "")


def _checkpoint(summary: Summary) -> str:
    saved = summary.last_saved
    if saved is None:
        return "<h2>Checkpoint</h2>\n<p>None has been written yet.</p>"
    code = (
        "from transformers import AutoTokenizer, BertForPreTraining\n\n"
        f"folder = {str(saved.checkpoint)!r}\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = BertForPreTraining.from_pretrained(folder)"
    )
    return (
        f"<h2>Checkpoint</h2>\n<p>Phase {saved.spec.phase}: <code>{escape(str(saved.checkpoint))}</code></p>\n"
        f"<p>It is a Hugging Face model folder:</p>\n<pre>{escape(code)}</pre>"
    )


def numbers_table(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head and whose first column names the rows."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>\n"
        for row in table[1:]
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>'
        "</table></div>"
    )


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """Names and values below each other."""
    return "<dl>\n" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in items) + "</dl>"


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
