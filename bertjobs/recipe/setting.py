"""One setting: what a field of a spec declares about it, and all that follows from that."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from bertjobs.errors import InputError, nearest
from bertjobs.recipe.groups import NodeGroup, parse_groups
from bertjobs.recipe.names import check_mounted, check_name, check_path
from bertjobs.wording import shown

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
REQUIRED = object()
"""The default of a setting that a recipe must set."""

_LARGEST = 2**31 - 1
_KINDS = {int: "int", float: "float", bool: "switch", str: "text"}


@dataclass(frozen=True)
class Setting:
    """One setting and all its spellings.

    A field of a spec declares it, ``seed: Annotated[int, Setting("seed of all that is random", env="SEED")] = 42``,
    and `settings_of` adds what the field itself says: key, section, kind and default.

    Attributes:
        help: what it is, in a few words, without its unit.
        unit: of its value, such as "tokens" or "seconds"; "" if it has none.
        env: its environment name, or "".
        flag: its command-line flag, "" for none; None: "--" and the key, for settings of the whole run.
        listed: whether `--help` lists its flag; all flags are accepted.
        in_recipe: whether a recipe's YAML, and so run.yml, may contain it.
        decisive: whether it decides the trained weights: it is part of the recipe hash, and a phase that has begun
            keeps it.
        later: whether there were recipe hashes before it: one leaves out its default.
        minimum, maximum: bounds of a number; ``above`` says that the minimum itself is excluded.
        choices: the only values allowed, or () for any.
        example: a value as in YAML; "": a choice other than the default, or the default itself.
        default_words: the default in words, if it depends on something else.
        kind: "int", "float", "switch", "text", "name", "path", "mounts", "groups", "phase" or "micro_batch"; "":
            derived from the field's type.
        key: its YAML key; "": the field's name.
        default: the value if nothing sets it, ``REQUIRED`` if a recipe must set it, None if it is derived.
        section: "run", "optimizer", "phase", "system", "model" or "vocabulary".
        topic: what its neighbours have in common: the first line of the class that declares it.
    """

    help: str
    unit: str = ""
    env: str = ""
    flag: str | None = None
    listed: bool = False
    in_recipe: bool = True
    decisive: bool = False
    later: bool = False
    minimum: float = 0
    maximum: float = _LARGEST
    above: bool = False
    choices: tuple[str, ...] = ()
    example: str = ""
    default_words: str = ""
    kind: str = ""
    key: str = ""
    default: Any = REQUIRED
    section: str = ""
    topic: str = ""

    @property
    def path(self) -> str:
        """The key for ``--set``, with phase N for a setting of a phase: "seed", "optimizer.beta1", "phaseN.lr"."""
        return {"run": "", "phase": "phaseN."}.get(self.section, f"{self.section}.") + self.key

    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind in ("int", "float"):
            noun = "a whole number" if self.kind == "int" else "a number"
            low = f"above {self.minimum:g}" if self.above else f"of at least {self.minimum:g}"
            return f"{noun} {low}" + (f" and at most {self.maximum:.10g}" if self.maximum != _LARGEST else "")
        return {
            "micro_batch": "a whole number of at least 1, or a mapping from precision to such numbers",
            "phase": "the number of a phase, or 'all'",
            "switch": "true or false",
            "mounts": "SRC:DST or SRC:DST:FLAGS, separated by commas",
            "groups": "NODESxGPUS[@CONSTRAINT][/SYSTEM][/partition=NAME][/SPEED], separated by commas, or a list of "
            "mappings with nodes, gpus or tasks_per_node, and if wanted constraint, system, partition and speed; GPUS "
            "may be TYPE:N",
            "name": "a name",
            "path": "a path",
        }.get(self.kind, "text")

    def parse(self, value: Any, where: str) -> Any:
        """The value in its type, from text or as parsed by YAML; InputError if it is not valid."""
        parsed = _PARSERS[self.kind](self, value)
        if parsed is None or (self.choices and parsed not in self.choices):
            hint = nearest(value if isinstance(value, str) else shown(value), self.choices) if self.choices else None
            given = "empty" if value is None else shown(value)
            raise InputError(f"{self.key} must be {self.expected()}, not {given}", where=where, hint=hint)
        if self.kind == "name" and (parsed or self.default != ""):
            check_name(parsed, self.key, where)
        elif self.kind == "path":
            check_path(parsed, self.key, where)
        elif self.kind == "mounts":
            for mount in parsed:
                for part in mount.split(":"):
                    check_mounted(part, self.key, where)
        return parsed


def settings_of(spec: type, section: str) -> dict[str, Setting]:
    """Key -> setting, for each field of a dataclass that declares one, in their order."""
    settings = {}
    hints = get_type_hints(spec, include_extras=True)
    for field in dataclasses.fields(spec):
        for declared in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(declared, Setting):
                key = declared.key or field.name
                settings[key] = replace(
                    declared,
                    key=key,
                    section=section,
                    topic=_topic(spec, field.name),
                    kind=declared.kind or _KINDS[hints[field.name].__origin__],
                    default=declared.default if field.default is dataclasses.MISSING else field.default,
                    flag=declared.flag if declared.flag is not None else _flag(key, section),
                )
    return settings


def _topic(spec: type, name: str) -> str:
    declaring = next(base for base in spec.__mro__ if name in inspect.get_annotations(base))
    return inspect.cleandoc(declaring.__doc__ or "").partition("\n")[0].rstrip(".")


def _flag(key: str, section: str) -> str:
    return "--" + key.replace("_", "-") if section == "run" else ""


def _number(setting: Setting, value: float) -> float | None:
    low = value > setting.minimum if setting.above else value >= setting.minimum
    return value if low and value <= setting.maximum else None


def _parse_int(setting: Setting, value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or _number(setting, value) is None:
        return None
    return value


def _parse_float(setting: Setting, value: Any) -> float | None:
    if isinstance(value, str):  # YAML 1.1 reads 6e-3, which has no dot, as text
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _number(setting, float(value)) if math.isfinite(value) else None


_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parse_switch(setting: Setting, value: Any) -> bool | None:  # noqa: ARG001
    if isinstance(value, bool):
        return value
    text = str(value) if value in (0, 1) else value
    return _SWITCHES.get(text.strip().lower()) if isinstance(text, str) else None


def _parse_text(setting: Setting, value: Any) -> str | None:  # noqa: ARG001
    return value if isinstance(value, str) else None


def _parse_phase(setting: Setting, value: Any) -> int | str | None:
    if isinstance(value, str) and value.strip().lower() == "all":
        return "all"
    number = _parse_int(setting, value)
    return number if number else None


def _parse_micro_batch(setting: Setting, value: Any) -> int | dict[str, int] | None:
    if isinstance(value, Mapping):
        numbers = {str(key): _parse_int(setting, item) for key, item in value.items()}
        known = all(key in PRECISIONS for key in numbers)
        return {k: n for k, n in numbers.items() if n} if numbers and known and all(numbers.values()) else None
    return _parse_int(setting, value)


def _parse_mounts(setting: Setting, value: Any) -> tuple[str, ...] | None:  # noqa: ARG001
    mounts = value.split(",") if isinstance(value, str) and value else value or ()
    if not isinstance(mounts, list | tuple):
        return None
    for mount in mounts:
        parts = mount.split(":") if isinstance(mount, str) else []
        if len(parts) not in (2, 3) or not all(parts):
            return None
    return tuple(mounts)


def _parse_groups(setting: Setting, value: Any) -> tuple[NodeGroup, ...] | None:  # noqa: ARG001
    return parse_groups(value)


_PARSERS: dict[str, Any] = {
    "int": _parse_int,
    "float": _parse_float,
    "switch": _parse_switch,
    "text": _parse_text,
    "name": _parse_text,
    "path": _parse_text,
    "phase": _parse_phase,
    "micro_batch": _parse_micro_batch,
    "mounts": _parse_mounts,
    "groups": _parse_groups,
}
