"""The site file: what all runs on one cluster have in common, and what each of its keys may contain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bertjobs.errors import InputError, nearest
from bertjobs.files.yaml_document import syntax_error
from bertjobs.recipe import schema
from bertjobs.recipe.variables import NAMES
from bertjobs.slurm.notify import ALL_EVENTS, NOBODY, Notify, RunEvent
from bertjobs.slurm.options import ELSEWHERE, OPTION_HINT, SET_FOR_EACH_JOB, is_option, option_name
from bertjobs.slurm.times import parse_time

KEYS = {
    "partition": "partition to queue in; of several, separated by commas, the one that starts the job first",
    "account": "account to charge",
    "qos": "quality of service",
    "time": "time limit of one job; a run that needs longer continues in further jobs",
    "gpu_type": "type of GPU to ask for, where the cluster has several, unless the recipe names one",
    "image": "container image: a .sqsh file or an enroot URI for pyxis; a .sif file, a folder or a URI for Apptainer",
    "mounts": "what the container sees in addition to the run, the data and this folder: SRC:DST[:FLAGS]",
    "container": "what starts the image: pyxis, apptainer, or auto for what the cluster has",
    "data": "folder made by `bertjobs data prepare`; all nodes must see it",
    "results": "folder of all runs; all nodes must see it, with space for checkpoints",
    "environment": "names, never values, of variables of your shell that jobs see inside containers too",
    "sbatch": "further options of sbatch, without their dashes",
    "notify": "whom to notify when a run is done, stopped or restarted: mail, webhook (the name of the variable, or "
    "the file, that holds its address), events",
}
"""Key of a site file -> what it is."""

_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUEUE = ("partition", "account", "qos", "time")
_OURS = (*SET_FOR_EACH_JOB, "dependency", "export", "export-file", "nodes", "ntasks", "ntasks-per-node")


@dataclass(frozen=True)
class Site:
    """One site file, checked; "" and () stand for the cluster's or the recipe's default.

    Attributes:
        environment: names of variables to pass into containers.
        sbatch: further options of sbatch, name -> value, "" for one that takes none.
        notify: who is told of a run's events.
    """

    name: str
    file: Path
    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    gpu_type: str = ""
    image: str = ""
    mounts: tuple[str, ...] = ()
    container: str = ""
    data: str = ""
    results: str = ""
    environment: tuple[str, ...] = ()
    sbatch: tuple[tuple[str, str], ...] = ()
    notify: Notify = NOBODY

    @property
    def origin(self) -> str:
        """Where its values came from, in words."""
        return f"site {self.name}"

    def settings(self) -> dict[str, str]:
        """What it says about a run's settings: key of the schema -> text."""
        values = {name: getattr(self, name) for name in ("image", "container", "gpu_type", "data", "results")}
        values["mounts"] = ",".join(self.mounts)
        return {key: value for key, value in values.items() if value}

    def sbatch_options(self, given: Sequence[str] = ()) -> list[str]:
        """Its options as sbatch reads them, except those that ``given`` options (``--qos=high``) override."""
        queue = [(name, value) for name in _QUEUE if (value := getattr(self, name))]
        taken = {option_name(option) for option in given}
        named = (*queue, *self.notify.sbatch_options(), *self.sbatch)
        options = [f"--{name}={value}" if value else f"--{name}" for name, value in named]
        return [option for option in options if option_name(option) not in taken]


def parse_site(text: str, name: str, file: Path) -> Site:
    """The site that a file's text describes.

    Raises:
        InputError: it is not YAML, has an unknown key (names the nearest) or a bad value; says on which line.
    """
    nodes = _mapping(_compose(text, file), file, "a site file")
    for key, node in nodes.items():
        if key not in KEYS:
            raise InputError(f"unknown key {key!r}", where=_place(file, node), hint=nearest(key, KEYS))
    values: dict[str, Any] = {}
    for key, node in nodes.items():
        if not _is_empty(node):
            values[key] = _value(key, node, file)
    site = Site(name=name, file=file, **values)
    _check_mail(site, nodes)
    return site


def _check_mail(site: Site, nodes: Mapping[str, yaml.Node]) -> None:
    """InputError if both notify and sbatch ask for Slurm's mail: of two, Slurm would take one in silence."""
    twice = [name for name, _ in site.sbatch if name in ("mail-user", "mail-type")]
    if site.notify.mail and twice:
        raise InputError(
            f"notify.mail asks for Slurm's mail, and so does sbatch.{twice[0]}",
            where=_place(site.file, nodes["sbatch"]),
            hint="leave one of them out",
        )


def _value(key: str, node: yaml.Node, file: Path) -> Any:
    where = f"{_place(file, node)}: {key}"
    if key == "sbatch":
        return _options(node, file)
    if key == "notify":
        return _notify(node, file)
    if key == "environment":
        return tuple(_variable(word, where) for word in _words(node, key, where))
    if key == "mounts":
        return schema.RUN[key].parse(_words(node, key, where), where)
    text = _text(node, key, where)
    if key in ("container", "gpu_type"):
        return schema.RUN[key].parse(text, where)
    if key in ("image", "data", "results"):
        return _path(key, text, where)
    if key == "time":
        try:
            parse_time(text)
        except ValueError as error:
            raise InputError(str(error), where=where, hint="minutes, hours:minutes:seconds or days-hours") from None
        return text.strip()
    return _option(key, text, where)


def _path(key: str, text: str, where: str) -> str:
    value: str = schema.RUN[key].parse(text, where)
    if "$" in value:  # most probably meant as a shell's variable
        raise InputError(f"{key} contains '$', which is not expanded here: {value!r}", where=where, hint="write it out")
    # An image may be a URI; a file has one place, wherever bertjobs is called.
    if value and not value.startswith("/") and (key != "image" or value.endswith((".sqsh", ".sif"))):
        raise InputError(f"{key} must be an absolute path here, not {value!r}", where=where)
    return value


def _option(key: str, text: str, where: str) -> str:
    if not is_option(text):
        raise InputError(
            f"{key}: {text!r} cannot be written in a batch script's header",
            where=where,
            hint=OPTION_HINT,
        )
    return text


def _variable(word: str, where: str) -> str:
    """A variable's name. Anything else is not shown: it may be a secret."""
    if not _VARIABLE.fullmatch(word):
        name = word.partition("=")[0]
        entry = f"{name} with a value" if "=" in word and _VARIABLE.fullmatch(name) else "not a variable's name"
        raise InputError(
            f"environment takes only names; one entry is {entry}",
            where=where,
            hint="set the value in your shell, which passes it on; here it would be stored in a file",
        )
    if word in NAMES:
        raise InputError(
            f"{word} is not passed on: a run keeps this setting in its run.yml", where=where, hint="leave it out"
        )
    return word


def _notify(node: yaml.Node, file: Path) -> Notify:
    values: dict[str, Any] = {}
    for name, item in _mapping(node, file, "notify").items():
        where = f"{_place(file, item)}: notify.{name}"
        if name == "events":
            values[name] = _events(_words(item, name, where), where)
        elif name == "mail":
            values[name] = _option("notify.mail", _text(item, name, where), where)
        elif name == "webhook":
            values[name] = _secret_s_place(_text(item, name, where), where)
        else:
            hint = nearest(name, ("mail", "webhook", "events"))
            raise InputError(f"unknown key {name!r} below notify", where=_place(file, item), hint=hint)
    return Notify(**values)


def _events(words: Sequence[str], where: str) -> tuple[RunEvent, ...]:
    unknown = [word for word in words if word not in ALL_EVENTS]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not an event", where=where, hint=nearest(unknown[0], ALL_EVENTS))
    return tuple(event for event in RunEvent if event in words)


def _secret_s_place(text: str, where: str) -> str:
    """A variable's name or an absolute path. Anything else is not shown: it may be the address itself."""
    if not _VARIABLE.fullmatch(text) and not (text.startswith("/") and text.isprintable()):
        raise InputError(
            "webhook takes the name of an environment variable, or the absolute path of a file, not the address",
            where=where,
            hint="whoever knows the address can write to your channel; keep it in a file that only you can read",
        )
    return text


def _options(node: yaml.Node, file: Path) -> tuple[tuple[str, str], ...]:
    options = []
    for name, item in _mapping(node, file, "sbatch").items():
        where = f"{_place(file, item)}: sbatch.{name}"
        if not _OPTION_NAME.fullmatch(name):
            raise InputError(
                f"{name!r} is not a long option of sbatch",
                where=where,
                hint="write it without leading dashes: constraint, not -C or --constraint",
            )
        if name in ELSEWHERE:
            raise InputError(f"sbatch's {name} cannot be given here", where=where, hint=ELSEWHERE[name])
        if name in _QUEUE or name in _OURS:
            hint = f"write `{name}: ...` at the left margin" if name in _QUEUE else "leave it out"
            who = "has a key of its own" if name in _QUEUE else "is set by bertjobs for each job"
            raise InputError(f"{name} {who}", where=where, hint=hint)
        if item.tag.endswith(":bool"):
            if item.value.lower() not in ("true", "yes", "on"):
                raise InputError(f"sbatch.{name} is false", where=where, hint="leave it out")
            options.append((name, ""))
            continue
        if _is_empty(item):
            raise InputError(
                f"sbatch.{name} has no value", where=where, hint=f"for an option that takes none, write {name}: true"
            )
        options.append((name, _option(f"sbatch.{name}", _text(item, name, where), where)))
    return tuple(options)


def _compose(text: str, file: Path) -> yaml.Node:
    """The document as nodes, whose scalars stay as written: YAML would read 4:00:00 as 14400."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise syntax_error(error, text, str(file)) from None
    mark = yaml.Mark(str(file), 0, 0, 0, None, 0)
    return node if node is not None else yaml.MappingNode("tag:yaml.org,2002:map", [], mark, mark)


def _mapping(node: yaml.Node, file: Path, what: str) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{what} must consist of lines like `key: value`", where=_place(file, node))
    nodes: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("a key must be one word", where=_place(file, key))
        if key.value in nodes:
            raise InputError(f"key {key.value!r} is given twice", where=_place(file, key))
        nodes[key.value] = value
    return nodes


def _text(node: yaml.Node, key: str, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{key} must be one value, not a list or mapping", where=where)
    return "" if _is_empty(node) else node.value


def _words(node: yaml.Node, key: str, where: str) -> list[str]:
    """The items of a list, or of a text with commas."""
    if isinstance(node, yaml.SequenceNode):
        return [_text(item, f"an item of {key}", where) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        raise InputError(f"{key} must be a list, not a mapping", where=where, hint=f"{key}: {KEYS[key]}")
    return [word.strip() for word in _text(node, key, where).split(",")]


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and (not node.value or node.tag.endswith(":null"))


def _place(file: Path, node: yaml.Node) -> str:
    return f"{file}, line {node.start_mark.line + 1}"
