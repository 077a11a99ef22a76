"""The reference of all settings: a table, the details of one, and the page docs/settings.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.errors import InputError
from bertjobs.recipe import schema
from bertjobs.recipe.schema import REQUIRED, Setting, nearest_key
from bertjobs.wording import columns


@dataclass(frozen=True)
class Section:
    """Settings that are written in the same place.

    Attributes:
        title: what they describe.
        place: where they are in YAML, with KEY and VALUE for one of them.
        settings: key -> setting.
        more: further remarks about the place, in Markdown.
    """

    title: str
    place: str
    settings: Mapping[str, Setting]
    more: str = ""


def _of_runs() -> tuple[Section, ...]:
    """The settings of a recipe and its run, by topic."""
    topics: dict[str, dict[str, Setting]] = {}
    for key, setting in {"description": schema.DESCRIPTION, **schema.RUN}.items():
        topics.setdefault(setting.topic, {})[key] = setting
    first, *others = (Section(topic, "recipes: {NAME: {KEY: VALUE}}", settings) for topic, settings in topics.items())
    more = "`--set KEY=VALUE` sets any but `description`. `recipe` and `phase` belong to a command, not to a file."
    return replace(first, more=more), *others


SECTIONS = (
    *_of_runs(),
    Section(
        "Optimizer",
        "recipes: {NAME: {optimizer: {KEY: VALUE}}}",
        schema.OPTIMIZER,
        "On the command line: `--set optimizer.KEY=VALUE`.",
    ),
    Section(
        "Phase",
        "recipes: {NAME: {phases: {1: {KEY: VALUE}}}}",
        schema.PHASE,
        "All recipes inherit the same keys from `phases: {1: {KEY: VALUE}}` at the top level of a file. On the command "
        "line: `--set phase1.KEY=VALUE`. A flag or an environment variable needs `--phase N` or `PHASE=N` if the "
        "recipe has several phases. `rank_batch` belongs to a command, as it depends on the number of nodes.",
    ),
    Section("System: one kind of node", "systems: {NAME: {KEY: VALUE}}", schema.SYSTEM),
    Section(
        "Model: the shape of a BERT",
        "models: {NAME: {KEY: VALUE}}",
        schema.MODEL,
        "The keys are those of Hugging Face's `BertConfig`.",
    ),
    Section("Vocabulary", "vocabularies: {NAME: {KEY: VALUE}}", schema.VOCABULARY),
)
EXAMPLE = """\
systems:
  our-nodes: {gpu: A100-SXM4-80GB, gpus_per_node: 4, gpu_memory_gb: 80, interconnect: HDR InfiniBand}
models:
  bert-wide: {num_hidden_layers: 6, hidden_size: 1024, num_attention_heads: 16, intermediate_size: 4096}
recipes:
  ours:                       # bertjobs submit --recipe ours --nodes 2
    system: our-nodes
    model: bert-wide
    precision: bf16
    optimizer: {weight_decay: 0.02}
    phases:
      1: {global_batch: 16384, micro_batch: 256, steps: 20000, checkpoint_every: 500}
      2: {global_batch: 8192, micro_batch: 32, steps: 4000}
"""
"""A recipe file; what it omits comes from the catalogue's `phases` and from the defaults."""

_ALL = tuple(setting for section in SECTIONS for setting in section.settings.values())
_PREFIXES = {"recipe": "run", "vocabularie": "vocabulary"}


def find(word: str) -> list[Setting]:
    """The settings with this key ("lr", "phase1.lr", "models.bert-base.hidden_size"), flag or environment name.

    Raises:
        InputError: there are none; names the nearest.
    """
    prefix, _, last = word.rpartition(".")
    key = last.removeprefix("--").replace("-", "_")
    named = [s for s in _ALL if s.key == key.lower() or (word and word in (s.env, s.flag))]
    if prefix:
        parts = [re.sub(r"[0-9]+$|N$", "", part).rstrip("s") for part in prefix.split(".")]
        sections = {_PREFIXES.get(part, part) for part in parts} & {s.section for s in _ALL}
        inner = sections - {"run"} or sections
        named = [setting for setting in named if setting.section in inner]
    if not named:
        known = [*(setting.key for setting in _ALL), *(setting.env for setting in _ALL if setting.env)]
        raise InputError(
            f"unknown setting {word!r}",
            where="bertjobs recipes settings",
            hint=nearest_key(key, known) if len(key) > 1 else "`bertjobs recipes settings` lists them all",
        )
    return named


def default_text(setting: Setting) -> str:
    """The default as one types it, or in words."""
    if setting.default_words:
        return setting.default_words
    return "required" if setting.default is REQUIRED else value_text(setting.default)


def value_text(value: Any) -> str:
    """A value as one types it: true and false as in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def example_text(setting: Setting) -> str:
    """A value that the setting may have, as in YAML."""
    if isinstance(setting.default, bool):
        return value_text(not setting.default)
    others = [choice for choice in setting.choices if choice != setting.default]
    return setting.example or next(iter(others), value_text(setting.default))


def table(width: int) -> str:
    """All settings, one per row, in lines of at most about ``width`` characters."""
    return "\n\n".join(_section_table(section, width) for section in SECTIONS)


def _section_table(section: Section, width: int) -> str:
    settings = section.settings.values()
    first, second = (max(map(len, cells)) for cells in zip(*((s.key, default_text(s)) for s in settings), strict=True))
    indent = first + second + 6
    lines = [f"{section.title}, in YAML {section.place}"]
    for setting in settings:
        unit = f" ({setting.unit})" if setting.unit and setting.unit not in setting.help else ""
        text = textwrap.wrap(setting.help + unit, max(width - indent, 30))
        lines.append(f"  {setting.key:{first}}  {default_text(setting):{second}}  {text[0]}")
        lines += [" " * indent + line for line in text[1:]]
    return "\n".join(lines)


def detail(setting: Setting) -> str:
    """All that is known about one setting."""
    place = next(section.place for section in SECTIONS if setting in section.settings.values())
    example = example_text(setting)
    rows = [("allowed", setting.expected()), ("unit", setting.unit), ("default", default_text(setting))]
    if setting.in_recipe:
        rows.append(("YAML", place.replace("KEY", setting.key).replace("VALUE", example)))
    if setting in schema.SETTINGS:
        typed = str(setting.minimum) if setting.kind == "micro_batch" else example
        rows.append(("--set", f"--set {setting.path.replace('N.', '1.')}={typed}"))
    rows.append(("flag", f"{setting.flag} {example}" if setting.flag else ""))
    rows.append(("environment", f"{setting.env}={example}" if setting.env else ""))
    if setting.decisive:
        rows.append(("fixed", "a phase that has begun keeps it: it decides the trained weights"))
    shown = columns([["", *row] for row in rows if row[1]])
    return "\n".join([f"{setting.path}: {setting.help}", "", *shown])


def as_json(setting: Setting) -> dict[str, Any]:
    """One setting for programs; ``default`` is null if the setting is required or derived."""
    default = None if setting.default is REQUIRED else setting.default
    return {
        "key": setting.path,
        "section": setting.section,
        "help": setting.help,
        "unit": setting.unit or None,
        "allowed": setting.expected(),
        "default": default,
        "required": setting.default is REQUIRED,
        "example": example_text(setting),
        "flag": setting.flag or None,
        "environment": setting.env or None,
        "decides_weights": setting.decisive,
    }


def markdown() -> str:
    """The page docs/settings.md."""
    return "\n".join([_HEAD, *(_section_page(section) for section in SECTIONS)])


_HEAD = f"""\
# Settings

<!-- Written by `make docs-settings` from the fields in bertjobs/recipe/settings/: change them there. -->

Every key of a recipe file. A value comes from the first of these that sets it: a flag, `--set KEY=VALUE`, an
environment variable, your own recipe files, the catalogue `configurations.yml`, the site file, the default.
`bertjobs plan` shows each value and where it came from; `bertjobs recipes settings KEY` shows one setting in detail.

Your own files have the catalogue's sections and override it key by key. `bertjobs` reads
`~/.config/bertjobs/recipes.yml`, then `./bertjobs.yml`, then each `--recipes FILE`; the last one wins. For example:

```yaml
{EXAMPLE}```

**Fixed** settings decide the trained weights: a phase that has begun keeps them. All others may be changed when a run
is resumed.
"""


def _section_page(section: Section) -> str:
    heads = ("Key", "What it is", "Unit", "Default", "Allowed", "Example", "Flag", "Environment", "Fixed")
    place = f"In YAML: `{section.place}`. {section.more}"
    lines = [f"## {section.title}", "", *textwrap.wrap(place, 120, break_on_hyphens=False), ""]
    lines += [_row(heads), _row(["---"] * len(heads))]
    lines += [_row(_cells(setting)) for setting in section.settings.values()]
    return "\n".join([*lines, ""])


def _cells(setting: Setting) -> list[str]:
    words = setting.default_words or setting.default is REQUIRED
    return [
        f"`{setting.key}`",
        setting.help,
        setting.unit,
        default_text(setting) if words else _code(default_text(setting)),
        setting.expected(),
        _code(example_text(setting)),
        _code(setting.flag or ""),
        _code(setting.env),
        "yes" if setting.decisive else "",
    ]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
