"""Everything that can set a value, tried from the strongest to the weakest."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjobs.errors import InputError, raise_all
from bertjobs.recipe import schema
from bertjobs.recipe.catalogue import Catalogue, Filed
from bertjobs.recipe.schema import REQUIRED, Setting, nearest_key

ALLOCATION, FLAG, SET, ENVIRONMENT, FILE, DEFAULT = range(6)

# Precisions that need the same memory, so that one's micro-batch also fits the other.
_SAME_MEMORY = {"fp16": "bf16", "bf16": "fp16", "fp32": "tf32", "tf32": "fp32"}


@dataclass(frozen=True)
class Provenance:
    """A resolved value, where it came from in words, and how strong that place is (0 is the strongest).

    ``filed`` is the value in its file, for one that came from a file.
    """

    value: Any
    origin: str
    level: int = DEFAULT
    filed: Filed | None = field(default=None, compare=False, repr=False)

    @property
    def place(self) -> str:
        """Where it came from, for errors: with the line of a file."""
        return self.filed.place if self.filed else self.origin


@dataclass(frozen=True)
class Layers:
    """The layers of one resolution.

    Attributes:
        catalogue: what the recipe files hold.
        allocation: nodes and tasks_per_node of the job that is already running, None if there is none.
        flags: key -> value from the command line, None if unset.
        sets: path -> text from ``--set`` and ``--sweep``.
        environment: key -> text from the environment.
        recipe: the recipe's name; "" until it is known.
        site: key -> text from the site file.
        site_origin: where that file is, in words.
        swept: the paths that ``--sweep`` sets.
    """

    catalogue: Catalogue
    allocation: Mapping[str, int | None]
    flags: Mapping[str, Any]
    sets: Mapping[str, str]
    environment: Mapping[str, str]
    recipe: str = ""
    site: Mapping[str, str] = field(default_factory=dict)
    site_origin: str = ""
    swept: Container[str] = ()

    def run(self, key: str) -> Provenance:
        """A setting of the whole run."""
        setting = schema.RUN[key]
        return (
            self._given(setting, key)
            or self._filed(setting, key)
            or self._sited(setting)
            or self._default(setting, key)
        )

    def optimizer(self, key: str) -> Provenance:
        """A setting of the optimizer."""
        setting, path = schema.OPTIMIZER[key], f"optimizer.{key}"
        return self._given(setting, path) or self._filed(setting, "optimizer", key) or self._default(setting, path)

    def phase(self, number: int, key: str) -> Provenance:
        """A setting of one phase: the recipe's own, or else that of the section ``phases``, which all recipes of
        pretraining share."""
        setting, path = schema.PHASE[key], f"phase{number}.{key}"
        return (
            self._given(setting, path)
            or self._filed(setting, "phases", number, key)
            or self._shared(setting, number)
            or self._default(setting, path)
        )

    def micro_batch(self, number: int, precision: str) -> Provenance:
        """The largest micro-batch that fits in this precision."""
        setting, path = schema.PHASE["micro_batch"], f"phase{number}.micro_batch"
        if given := self._given(setting, path):
            return given
        offered: dict[str, None] = {}
        for head in (("recipes", self.recipe, "phases"), *([] if self.run("task").value else [("phases",)])):
            for filed in self.catalogue.find_all(*head, number, "micro_batch"):
                if isinstance(filed.value, int):
                    return Provenance(filed.value, filed.origin, FILE, filed)
                for name in (precision, _SAME_MEMORY[precision]):
                    if name in filed.value:
                        return Provenance(filed.value[name], f"{filed.origin}, for {name}", FILE, filed)
                offered.update(dict.fromkeys(filed.value))
        if not offered:
            return self._default(setting, path)
        raise InputError(
            f"the recipe has no micro_batch for precision {precision} in phase {number}",
            where=f"recipes.{self.recipe}.phases.{number}.micro_batch",
            hint=f"it has: {', '.join(offered)}; or give --set {path}=N",
        )

    def recipe_phases(self) -> tuple[int, ...]:
        """Numbers of the recipe's phases: its own if it lists any, or else those of the section ``phases``."""
        own = self.catalogue.keys("recipes", self.recipe, "phases")
        return tuple(sorted(own or self.catalogue.keys("phases")))

    def chosen_phases(self) -> tuple[int, ...]:
        """Numbers of the phases to run; InputError for one that the recipe does not have."""
        phases, asked = self.recipe_phases(), self.run("phase")
        if not phases or asked.value not in ("all", *phases):
            what = f"has no phase {asked.value}" if phases else "has no phases"
            hint = f"its phases: {', '.join(map(str, phases))}" if phases else None
            raise InputError(f"recipe {self.recipe} {what}", where=asked.origin, hint=hint)
        chosen = phases if asked.value == "all" else (asked.value,)
        if len(chosen) > 1:
            self._refuse_phaseless(chosen)
        return chosen

    def check_given(self) -> None:
        """Raise an InputError for each flag and ``--set`` key that does not exist, naming the nearest, and for each
        value of the command line and the environment that cannot be read; all at once."""
        errors: list[InputError] = []
        for key in self.flags:
            if key not in schema.RUN and key not in schema.PHASE:
                hint = nearest_key(key, (*schema.RUN, *schema.PHASE))
                errors.append(InputError(f"unknown setting {key!r}", where="the command line", hint=hint))
        groups = {f"phase{number}.": list(schema.PHASE) for number in self.recipe_phases()}
        groups |= {"optimizer.": list(schema.OPTIMIZER), "": list(schema.RUN)}
        paths = {prefix + key for prefix, keys in groups.items() for key in keys}
        for path, text in self.sets.items():
            if path not in paths:
                hint = self._nearest_path(path, groups)
                errors.append(InputError(f"unknown key {path!r}", where=f"flag --set {path}={text}", hint=hint))
        raise_all([*errors, *self._unreadable()])

    def _unreadable(self) -> list[InputError]:
        """An error for each given value that is not of its setting's type, or is out of its bounds."""
        settings = [(setting, key) for key, setting in schema.RUN.items()]
        settings += [(setting, f"optimizer.{key}") for key, setting in schema.OPTIMIZER.items()]
        for number in self.recipe_phases():
            settings += [(setting, f"phase{number}.{key}") for key, setting in schema.PHASE.items()]
        errors = {}
        for setting, path in settings:
            try:
                self._given(setting, path)
            except InputError as error:
                errors[str(error)] = error  # a flag of all phases is read once for each
        return list(errors.values())

    def _nearest_path(self, path: str, groups: Mapping[str, Sequence[str]]) -> str | None:
        """A hint for a ``--set`` path that does not exist: the phases, the same key elsewhere, or the nearest in
        spelling. ``groups``: what may stand before a key, such as "phase1.", and the keys there."""
        prefix, dot, key = path.rpartition(".")
        if re.fullmatch(r"phase[0-9]+", prefix) and prefix + dot not in groups:
            return f"the recipe's phases: {', '.join(map(str, self.recipe_phases()))}"
        if elsewhere := [repr(other + key) for other, keys in groups.items() if key in keys]:
            return f"did you mean {' or '.join(elsewhere)}?"
        if siblings := groups.get(prefix + dot, []) if dot else []:
            return nearest_key(key, siblings)
        return nearest_key(path, [other + one for other, keys in groups.items() for one in keys])

    def _refuse_phaseless(self, chosen: Sequence[int]) -> None:
        for key, setting in schema.PHASE.items():
            for given, name in ((self.flags, f"flag {setting.flag}"), (self.environment, setting.env)):
                if given.get(key) is not None:
                    raise InputError(
                        f"{name} applies to one phase, but the run has phases {' and '.join(map(str, chosen))}",
                        where=f"{name}={given[key]}",
                        hint=f"set PHASE (or --phase), or use --set phase{chosen[0]}.{key}={given[key]}",
                    )

    def _given(self, setting: Setting, path: str) -> Provenance | None:
        """The value that the allocation, a flag, ``--set`` or the environment gives."""
        key = setting.key
        value: Any
        if self.allocation.get(key) is not None:
            value, origin, level = self.allocation[key], "the job's allocation", ALLOCATION
        elif self.flags.get(key) is not None:
            value, origin, level = self.flags[key], f"flag {setting.flag or key}", FLAG
        elif path in self.sets:
            flag = "--sweep" if path in self.swept else "--set"
            value, origin, level = self.sets[path], f"flag {flag} {path}", SET
        elif key in self.environment:
            value, origin, level = self.environment[key], f"environment {setting.env}", ENVIRONMENT
        else:
            return None
        return Provenance(setting.parse(value, origin), origin, level)

    def _filed(self, setting: Setting, *path: Any) -> Provenance | None:
        filed = self.catalogue.find("recipes", self.recipe, *path) if setting.in_recipe else None
        return Provenance(filed.value, filed.origin, FILE, filed) if filed else None

    def _sited(self, setting: Setting) -> Provenance | None:
        text = self.site.get(setting.key)
        return None if text is None else Provenance(setting.parse(text, self.site_origin), self.site_origin, FILE)

    def _shared(self, setting: Setting, number: int) -> Provenance | None:
        shared = setting.in_recipe and not self.run("task").value
        filed = self.catalogue.find("phases", number, setting.key) if shared else None
        return Provenance(filed.value, filed.origin, FILE, filed) if filed else None

    def is_own(self, number: int, key: str, other: str) -> bool:
        """Whether the recipe's own phase has ``key`` and not ``other``, which then comes from what recipes share."""
        own = ("recipes", self.recipe, "phases", number)
        return self.catalogue.find(*own, key) is not None and self.catalogue.find(*own, other) is None

    def _default(self, setting: Setting, path: str) -> Provenance:
        if setting.default is not REQUIRED:
            return Provenance(setting.default, "default")
        if setting.key == "recipe":
            names = ", ".join(self.catalogue.keys("recipes"))
            raise InputError("no recipe was given", hint=f"choose one with --recipe or RECIPE: {names}")
        raise InputError(
            f"recipe {self.recipe} does not set {path}",
            where=f"recipes.{self.recipe}",
            hint=f"{setting.key}: {setting.help}",
        )
